"""Many clients' packets in two system calls: recvmmsg(2) takes their ACKs, sendmmsg(2) sends what follows.

All headers are laid out once: message number n goes
to whom message number n came from, so that an answer is an address and a length, written into one array.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator

from metalbox import mmsg
from metalbox.mmsg import NAME_SIZE, UDP_SEGMENT, Iovec, Mmsghdr, Msghdr

# Clients in one call. One that fills its window is 64 times 92 KiB.
SLOTS = 64

# Room for a datagram: an ACK has 4 bytes, and of an ERROR the beginning is enough.
ROOM = 112
STRIDE = NAME_SIZE + ROOM
# Of each slot: the port and address behind the family, and the first four bytes of the datagram as one number.
WORDS = struct.Struct(f">2x6s8xI{ROOM - 4}x")
ACK_BYTES = 4

_CMSG = struct.Struct("@NiiH")
_CMSG_LEN = socket.CMSG_LEN(2)
_CMSG_SPACE = socket.CMSG_SPACE(2)
_HEADER = ctypes.sizeof(Mmsghdr)


class Batch:
    """Slots for what one call brings, and for the answers to it. Of one thread, for any number of sockets.

    What lies at the addresses of answers must be held until `send` has returned.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self.slots = slots
        # The segment size of each slot's answer, 0 where the kernel is not to cut. Set by `segment`.
        self.segments = [0] * slots
        self._in = bytearray(slots * STRIDE)
        self._view = memoryview(self._in)
        self._controls = bytearray(slots * _CMSG_SPACE)
        self._answers = (Iovec * slots)()
        self._rooms = (Iovec * slots)()
        self._received = (Mmsghdr * slots)()
        self._sent = (Mmsghdr * slots)()
        slot_at = ctypes.addressof(ctypes.c_char.from_buffer(self._in))
        self._control_at = ctypes.addressof(ctypes.c_char.from_buffer(self._controls))
        for n in range(slots):
            name = slot_at + n * STRIDE
            self._rooms[n] = Iovec(name + NAME_SIZE, ROOM)
            room, answer = (ctypes.addressof(iovecs[n]) for iovecs in (self._rooms, self._answers))
            self._received[n].header = Msghdr(name, NAME_SIZE, room, 1, None, 0, 0)
            self._sent[n].header = Msghdr(name, NAME_SIZE, answer, 1, None, 0, 0)
        self._received_at = ctypes.addressof(self._received)
        self._sent_at = [ctypes.addressof(self._sent) + n * _HEADER for n in range(slots)]
        numbers = memoryview(self._received).cast("B").cast("I")
        self._sizes = numbers[Mmsghdr.size.offset // 4 :: _HEADER // 4]
        self._all_acks = [[ACK_BYTES] * n for n in range(slots + 1)]
        self._pack = [struct.Struct(f"@{2 * n}N").pack_into for n in range(slots + 1)]

    def receive(self, fileno: int) -> int:
        """How many datagrams came, 0 when none waits. Raises OSError, also for what an earlier datagram met with."""
        return mmsg.receive(fileno, self._received_at, self.slots)

    def are_acks(self, count: int) -> bool:
        """Whether all of the first `count` datagrams have the length of an ACK: only then `words` may be believed."""
        return self._sizes[:count].tolist() == self._all_acks[count]

    def words(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Of each slot the sender's key (see `key_of`) and the first four bytes as a number: 0x00040000 and the block
        for an ACK."""
        return WORDS.iter_unpack(self._view[: count * STRIDE])

    def datagram(self, slot: int) -> tuple[bytes, bytes]:
        """The sender's key and the datagram, of which at most ROOM bytes are kept."""
        at = slot * STRIDE
        data = bytes(self._view[at + NAME_SIZE : at + NAME_SIZE + min(self._sizes[slot], ROOM)])
        return bytes(self._view[at + 2 : at + 8]), data

    def segment(self, slot: int, size: int) -> None:
        """From now on the kernel cuts this slot's answers into datagrams of `size` bytes; 0: it does not."""
        self.segments[slot] = size
        header = self._sent[slot].header
        if size:
            at = slot * _CMSG_SPACE
            _CMSG.pack_into(self._controls, at, _CMSG_LEN, socket.IPPROTO_UDP, UDP_SEGMENT, size)
            header.control, header.control_size = self._control_at + at, _CMSG_SPACE
        else:
            header.control, header.control_size = None, 0

    def answer(self, slot: int, answers: list[int]) -> None:
        """Lay down answers for the slots from this one on: for each an address and a length."""
        self._pack[len(answers) // 2](self._answers, slot * 2 * ctypes.sizeof(ctypes.c_size_t), *answers)

    def send(self, fileno: int, slot: int, count: int) -> int:
        """Send the answers of so many slots; returns how many left, which is less when the buffer is full. Raises
        OSError about the first of them."""
        return mmsg.send(fileno, self._sent_at[slot], count)

    def unsent(self, slot: int) -> bytes:
        """A copy of the answer in this slot."""
        answer = self._answers[slot]
        return ctypes.string_at(answer.base, answer.size)


def key_of(client: tuple[str, int]) -> bytes:
    """Port and address as they stand in a sockaddr_in."""
    return client[1].to_bytes(2, "big") + socket.inet_aton(client[0])


def client_of(key: bytes) -> tuple[str, int]:
    """The opposite of `key_of`."""
    return socket.inet_ntoa(key[2:]), int.from_bytes(key[:2], "big")
