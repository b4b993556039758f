"""Reading a disk before and after: seeded samples and every place where data are found again, compared block by block.

Positions come from the order's seed, so that they can be repeated and not foreseen. Of what was read before only
digests of 512-byte blocks are kept. A block that was uniform before (zeroes) proves nothing, so markers are planted.
"""

from __future__ import annotations

import hashlib
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from metalbox.agent.passthrough import Device

MIB = 1 << 20
BLOCK = 512
SAMPLE = 4096
DIGEST = 8
ZEROES = bytes(MIB)
SHOWN = 16
MARKERS = 64
# Blocks of a whole device: of a sector up to SMALL bytes, larger ones beyond, and never more than fit into 16 MiB.
SMALL, LARGE_BLOCK, MAX_BLOCKS = 1 << 30, 65536, 1 << 21
# Copies of superblocks that lie away from both ends: btrfs at 64 MiB and 256 GiB, the first backups of ext's groups
# with blocks of 4 KiB and 1 KiB.
SUPERBLOCKS = (64 * MIB, 256 << 30, 32768 * 4096, 3 * 32768 * 4096, 8193 * 1024)

Signature = tuple[str, int, bytes]
# What lies at a fixed distance from the beginning of a disk or partition.
SIGNATURES: tuple[Signature, ...] = (
    ("GPT", 512, b"EFI PART"),
    ("GPT", 4096, b"EFI PART"),
    ("md 1.1", 0, b"\xfc\x4e\x2b\xa9"),
    ("md 1.2", 4096, b"\xfc\x4e\x2b\xa9"),
    *(("LVM", sector * 512, b"LABELONE") for sector in range(4)),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("XFS", 0, b"XFSB"),
    ("btrfs", 65536 + 64, b"_BHRfS_M"),
    ("bcache", 4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("NTFS", 3, b"NTFS    "),
    ("FAT", 82, b"FAT32   "),
    ("FAT", 54, b"FAT1"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("ZFS", 16384 + 8192, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    ("ISO 9660", 32769, b"CD001"),
    ("VMFS", 0x200000, b"\x0d\xd0\x01\xc0"),
)


class Area:
    """A stretch of one device to be read: its offset, length and the class of region that it stands for."""

    __slots__ = ("length", "offset", "region")

    def __init__(self, offset: int, length: int, region: str) -> None:
        self.offset = offset
        self.length = length
        self.region = region


def areas(seed: str, name: str, size: int, samples: int, partitions: Sequence[tuple[int, int]] = ()) -> list[Area]:
    """What is read of a device of `size` bytes: both ends, places of superblocks, and one sample in each equal part.

    Both MiB at the ends hold the partition tables, both GPTs, md (0.90 and 1.0 at the end, 1.1 and 1.2 at the start),
    LVM labels, all four ZFS labels, bcache and the first superblocks. `name` keeps namespaces apart.
    """
    if size <= 2 * MIB:
        return [Area(at, min(MIB, size - at), "first" if at == 0 else "last") for at in range(0, size, MIB)]
    found = {0: Area(0, MIB, "first"), size - MIB: Area(size - MIB, MIB, "last")}
    found[size - MIB - 65536] = Area(size - MIB - 65536, 65536, "gpt")  # a GPT whose end was cut off with sectors
    places = [*SUPERBLOCKS, 2 * MIB]
    for start, length in [(MIB, size), *partitions]:
        places += [start, start + length - 131072]
    for place in places:
        offset = place - place % 65536
        if MIB <= offset <= size - MIB - 65536:
            found.setdefault(offset, Area(offset, 65536, "superblocks"))
    count = max(1, min(samples, size // SAMPLE))
    for number in range(count):
        raw = int.from_bytes(hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()[:8], "big")
        low, high = size * number // count, size * (number + 1) // count
        offset = min(low + raw % max(1, high - low), size - SAMPLE)
        offset -= offset % SAMPLE
        found.setdefault(offset, Area(offset, SAMPLE, "random"))
    return sorted(found.values(), key=lambda area: area.offset)


def is_uniform(block: memoryview | bytes) -> bool:
    """Whether all bytes are the same: such a block says nothing about what was erased."""
    data = bytes(block)  # comparing bytes is one memcmp; comparing memoryviews or counting is a hundred times slower
    return data == data[:1] * len(data)


class Look:
    """One device as it was read once: a digest for each block of each area, zeroes for a uniform block."""

    def __init__(self) -> None:
        self.digests: dict[int, bytes] = {}
        self.whole = hashlib.sha256()
        self.bytes_read = 0
        self.uniform = 0
        self.blocks = 0
        self.nonzero: list[dict[str, Any]] = []
        self.nonzero_count = 0
        self.mixed: list[dict[str, Any]] = []

    def take(self, offset: int, data: memoryview) -> None:
        """Remember what stands at an offset."""
        self.whole.update(data)
        self.bytes_read += len(data)
        marks = []
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            self.blocks += 1
            if is_uniform(block):
                self.uniform += 1
                marks.append(bytes(DIGEST))
            else:
                marks.append(hashlib.blake2b(block, digest_size=DIGEST).digest())
                if len(self.mixed) < SHOWN:
                    self.mixed.append({"offset": offset + at, "expected": "uniform", "found": bytes(block[:16]).hex()})
        self.digests[offset] = b"".join(marks)
        self.check_zeroes(offset, data)

    def check_zeroes(self, offset: int, data: memoryview) -> None:
        """Count the blocks that are not zero, and keep the first ones as evidence."""
        if bytes(data) == ZEROES[: len(data)]:
            return
        for at in range(0, len(data), BLOCK):
            block = bytes(data[at : at + BLOCK])
            if block != ZEROES[: len(block)]:
                self.nonzero_count += 1
                if len(self.nonzero) < SHOWN:
                    first = next(place for place, byte in enumerate(block) if byte)
                    found = block[first : first + 16].hex()
                    self.nonzero.append({"offset": offset + at + first, "expected": "00", "found": found})

    @property
    def proving(self) -> int:
        """Blocks by which a drive that does nothing would be caught."""
        return self.blocks - self.uniform

    def unchanged(self, after: Look) -> int:
        """How many proving blocks read the same afterwards."""
        nothing = bytes(DIGEST)
        count = 0
        for offset, marks in self.digests.items():
            now = after.digests.get(offset, b"")
            for at in range(0, min(len(marks), len(now)), DIGEST):
                mark = marks[at : at + DIGEST]
                count += mark != nothing and mark == now[at : at + DIGEST]
        return count


def look(device: Device, places: Sequence[Area], going: Callable[[int], None]) -> Look:
    """Read areas past the page cache; `going` is told each area's bytes. Raises OSError on the first read error."""
    found = Look()
    for area in places:
        found.take(area.offset, device.read(area.offset, area.length))
        going(area.length)
    return found


def marker(seed: str, name: str, offset: int, length: int) -> bytes:
    """Bytes to plant, different for each seed and place."""
    return hashlib.shake_128(f"marker/{seed}/{name}/{offset}".encode()).digest(length)


def plant(device: Device, seed: str, places: Sequence[Area], before: Look) -> list[int]:
    """Write markers where nothing is proved (at most 64 places, spread), and read them back. Raises OSError.

    Returns the offsets; `look` has to be taken again. Only ever called on a disk that is about to be erased.
    """
    empty = [area for area in places if not before.digests[area.offset].strip(b"\0")]
    step = max(1, -(-len(empty) // MARKERS))
    chosen = empty[::step]
    for area in chosen:
        device.write(area.offset, marker(seed, device.name, area.offset, SAMPLE))
    device.sync()
    for area in chosen:
        if device.read(area.offset, SAMPLE) != marker(seed, device.name, area.offset, SAMPLE):
            raise OSError(f"/dev/{device.name} does not keep what is written at {area.offset}")
    return [area.offset for area in chosen]


def signatures(device: Device, size: int, starts: Sequence[int]) -> list[str]:
    """Partition tables, file systems and RAID members that can be recognized at the beginnings and at the end."""
    found = []
    for start in dict.fromkeys((0, *starts)):
        for name, distance, magic in SIGNATURES:
            at = start + distance
            if at + len(magic) <= size and _at(device, size, at, len(magic)) == magic:
                found.append(f"{name} at {at}")
        found += _weak(device, size, start)
    tail = size - size % 65536 - 65536
    for name, at, magic in (
        ("md 0.90", tail, b"\xfc\x4e\x2b\xa9"),
        ("md 1.0", (size - 8192) // 4096 * 4096, b"\xfc\x4e\x2b\xa9"),
        ("GPT", size - 512, b"EFI PART"),
        ("GPT", size - 4096, b"EFI PART"),
        ("DDF", size - 512, b"\xde\x11\xde\x11"),
        ("IMSM", size - 1024, b"Intel Raid ISM Cfg Sig. "),
    ):
        if at >= 0 and _at(device, size, at, len(magic)) == magic:
            found.append(f"{name} at {at}")
    return found


def _weak(device: Device, size: int, start: int) -> list[str]:
    """Signatures of two bytes, taken for one only with a second reason: noise has them once in 65536 sectors."""
    found = []
    sector = _at(device, size, start, BLOCK)
    entries = [sector[446 + 16 * number] for number in range(4)]
    if sector[510:512] == b"\x55\xaa" and all(entry in (0, 0x80) for entry in entries):
        found.append(f"MBR at {start}")
    block = _at(device, size, start + 1024, 1024)
    if len(block) == 1024 and block[56:58] == b"\x53\xef":
        shift, state = struct.unpack_from("<I", block, 24)[0], struct.unpack_from("<H", block, 58)[0]
        if shift <= 6 and state <= 7:
            found.append(f"ext at {start + 1024}")
    return found


def _at(device: Device, size: int, offset: int, length: int) -> bytes:
    low = offset - offset % SAMPLE
    high = min(-(-(offset + length) // SAMPLE) * SAMPLE, size)
    if offset + length > high:
        return b""
    return bytes(device.read(low, high - low)[offset - low : offset - low + length])


class Whole:
    """The whole of one device read once, for `full`: zeroes and uniform contents are judged byte by byte.

    Where an erase leaves noise, only blocks that are as they were tell of it; they have `block` bytes. Hashing sectors
    one by one takes the interpreter longer than reading them, so that large devices have larger blocks.
    """

    def __init__(self, size: int) -> None:
        self.block = BLOCK if size <= SMALL else LARGE_BLOCK
        while size > self.block * MAX_BLOCKS:
            self.block *= 2
        self.size = size
        self.digests = bytearray()
        self.uniform = 0
        self.mixed: list[dict[str, Any]] = []
        self.nonzero: list[dict[str, Any]] = []

    def read(self, device: Device, going: Callable[[int], None]) -> Whole:
        """Read all of it. Raises OSError on the first read error."""
        step = max(self.block, MIB)
        for start in range(0, self.size, step):
            digest, is_plain = hashlib.blake2b(digest_size=DIGEST), True
            for at in range(start, min(start + step, self.size), MIB):
                data = device.read(at, min(MIB, self.size - at))
                is_uniform_piece = self._judge(at, data)
                if self.block < MIB:
                    self._mark(data, is_uniform_piece)
                else:
                    digest.update(data[:1] if is_uniform_piece else data)
                is_plain &= is_uniform_piece
                going(len(data))
            if self.block >= MIB:
                self.digests += bytes(DIGEST) if is_plain else digest.digest()
        return self

    def _mark(self, data: memoryview, is_plain: bool) -> None:
        """A digest for each block of what was read at once."""
        for at in range(0, len(data), self.block):
            piece = data[at : at + self.block]
            is_empty = is_plain or is_uniform(piece)
            self.digests += bytes(DIGEST) if is_empty else hashlib.blake2b(piece, digest_size=DIGEST).digest()

    def _judge(self, offset: int, data: memoryview) -> bool:
        if is_uniform(data):
            self.uniform += 1
            if data[0] and len(self.nonzero) < SHOWN:
                self.nonzero.append({"offset": offset, "expected": "00", "found": bytes(data[:16]).hex()})
            return True
        if len(self.nonzero) >= SHOWN and len(self.mixed) >= SHOWN and self.uniform:
            return False
        for at in range(0, len(data), BLOCK):
            block = bytes(data[at : at + BLOCK])
            is_plain = is_uniform(block)
            self.uniform += is_plain
            if not (is_plain and not block[0]) and len(self.nonzero) < SHOWN:
                self.nonzero.append({"offset": offset + at, "expected": "00", "found": block[:16].hex()})
            if not is_plain and len(self.mixed) < SHOWN:
                self.mixed.append({"offset": offset + at, "expected": "uniform", "found": block[:16].hex()})
        return False

    def unchanged(self, after: Whole) -> int:
        """How many blocks that were not uniform read the same afterwards."""
        pairs = zip(memoryview(self.digests).cast("Q"), memoryview(after.digests).cast("Q"), strict=True)
        return sum(one == other and one != 0 for one, other in pairs)
