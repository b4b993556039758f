"""Commands to disks as Linux passes them through, and the disk's bytes past the page cache. Tests replace only this.

A `Device` is one open block device (or NVMe controller), `Kernel` what is asked of Linux about all of them. Nothing
here knows what a command means. Every call may hang as long as the drive does.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

from metalbox.agent import disks, sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# linux/nvme_ioctl.h: _IOWR('N', 0x41, struct nvme_passthru_cmd), 72 bytes; scsi/sg.h; linux/fs.h.
NVME_IOCTL_ADMIN_CMD = 0xC0484E41
SG_IO = 0x2285
BLKRRPART, BLKFLSBUF = 0x125F, 0x1261
BLKDISCARD = 0x1277
BLKGETSIZE64 = 0x80081272
NVME_FORMAT = "<BBHIIIQQIIIIIIIIII"
SG_FORMAT = "<iiBBHIQQQIIi4xQBBBBHHiII4x"
TO_DEVICE, FROM_DEVICE, NO_DATA = -2, -3, -1
SENSE_BYTES = 64
CHUNK = 4 << 20  # one write or read; measured: larger ones are not quicker, and each costs one Python call
READ_BYTES = 1 << 20  # at once, for each disk that is open: there may be hundreds


class DriveError(Exception):
    """What a drive answered instead of doing it; the message is a sentence.

    `begun` is False only when the drive said that it did not begin: another method may then be tried.
    """

    def __init__(self, text: str, *, begun: bool = True) -> None:
        super().__init__(text)
        self.begun = begun


class ScsiAnswer:
    """The end of one SCSI command: status byte, sense bytes, the adapter's and driver's own status, data read."""

    def __init__(self, status: int, sense: bytes = b"", data: bytes = b"", host: int = 0, driver: int = 0) -> None:
        self.status = status
        self.sense = sense
        self.data = data
        self.host = host
        self.driver = driver


class Device:
    """One open device. With `exclusive` nothing else (a file system, md, swap) has it or can get it meanwhile."""

    def __init__(self, name: str, *, exclusive: bool = False, number: str = "") -> None:
        """Open /dev/`name`, for writing only when exclusive. `number` is "major:minor" as /sys says. Raises OSError."""
        self.name = name
        self._buffer: mmap.mmap | None = None
        path = f"/dev/{name}"
        flags = os.O_RDWR | os.O_EXCL if exclusive else os.O_RDONLY | os.O_NONBLOCK
        direct = 0 if not number else os.O_DIRECT
        self._descriptor = os.open(path, flags | direct | os.O_CLOEXEC)
        device = os.fstat(self._descriptor).st_rdev
        if number and f"{os.major(device)}:{os.minor(device)}" != number:
            self.close()
            raise OSError(f"{path} is the device {os.major(device)}:{os.minor(device)}, and /sys says {number}")

    def close(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._buffer = None

    def nvme(
        self, opcode: int, *, nsid: int = 0, cdw10: int = 0, cdw11: int = 0, length: int = 0, seconds: float = 60.0
    ) -> tuple[int, bytes]:
        """One admin command that reads `length` bytes or none: the NVMe status (0 is success) and the data."""
        page = array.array("B", bytes(length))
        address = page.buffer_info()[0] if length else 0
        request = struct.pack(
            NVME_FORMAT, opcode, 0, 0, nsid, 0, 0, 0, address, 0, length, cdw10, cdw11, 0, 0, 0, 0,
            _milliseconds(seconds), 0,
        )  # fmt: skip
        status = fcntl.ioctl(self._descriptor, NVME_IOCTL_ADMIN_CMD, bytearray(request))
        return status, page.tobytes()

    def scsi(self, cdb: bytes, *, send: bytes = b"", length: int = 0, seconds: float = 60.0) -> ScsiAnswer:
        """One SCSI command that sends `send`, or reads up to `length` bytes, or neither. Raises OSError."""
        command = array.array("B", cdb)
        sense = array.array("B", bytes(SENSE_BYTES))
        data = array.array("B", send or bytes(length))
        direction = TO_DEVICE if send else FROM_DEVICE if length else NO_DATA
        header = bytearray(
            struct.pack(
                SG_FORMAT, ord("S"), direction, len(cdb), SENSE_BYTES, 0, len(data),
                data.buffer_info()[0] if len(data) else 0, command.buffer_info()[0], sense.buffer_info()[0],
                _milliseconds(seconds), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            )
        )  # fmt: skip
        fcntl.ioctl(self._descriptor, SG_IO, header)
        fields = struct.unpack(SG_FORMAT, header)
        status, written, host, driver, left = fields[13], fields[16], fields[17], fields[18], fields[19]
        got = data.tobytes()[: max(0, len(data) - max(0, left))] if length else b""
        return ScsiAnswer(status, sense.tobytes()[:written], got, host, driver)

    def size(self) -> int:
        """Bytes that the kernel takes it to have."""
        answer = bytearray(8)
        fcntl.ioctl(self._descriptor, BLKGETSIZE64, answer)
        return int.from_bytes(answer, "little")

    def read(self, offset: int, length: int) -> memoryview:
        """Bytes from the medium, not the page cache; valid until the next read. Offset and length in whole sectors."""
        if self._buffer is None:
            self._buffer = mmap.mmap(-1, READ_BYTES)
        view = memoryview(self._buffer)[:length]
        got = os.preadv(self._descriptor, [view], offset)
        if got != length:
            raise OSError(f"/dev/{self.name} gave {got} of {length} bytes at {offset}")
        return view

    def write(self, offset: int, data: bytes | memoryview | mmap.mmap) -> None:
        """Write whole sectors from page-aligned memory, past the page cache; bytes are copied there first."""
        if isinstance(data, bytes):
            aligned = mmap.mmap(-1, len(data))
            aligned[:] = data
            data = aligned
        got = os.pwritev(self._descriptor, [data], offset)
        if got != len(data):
            raise OSError(f"/dev/{self.name} took {got} of {len(data)} bytes at {offset}")

    def sync(self) -> None:
        """Have the drive write what it holds in its cache."""
        os.fdatasync(self._descriptor)

    def discard(self, offset: int, length: int) -> None:
        """Tell the drive that a range is not needed (TRIM, UNMAP, Deallocate). Raises OSError."""
        fcntl.ioctl(self._descriptor, BLKDISCARD, struct.pack("<QQ", offset, length))

    def forget(self) -> None:
        """Drop what the kernel remembers of it: cached pages and partitions. What refuses here is found by reading."""
        for request in (BLKFLSBUF, BLKRRPART):
            try:
                fcntl.ioctl(self._descriptor, request)
            except OSError:
                continue


class Kernel:
    """Linux as the eraser asks it: which disks there are now, who uses them, what time it is."""

    root = Path("/")

    def disks(self) -> list[dict[str, Any]]:
        """Every disk, read from /sys now."""
        return disks.disks(self.root)

    def open(self, name: str, *, exclusive: bool = False) -> Device:
        """One of the disks or its controller by its kernel name. Raises OSError."""
        number = sysfs.text(self.root / "sys/class/block" / name / "dev")
        return Device(name, exclusive=exclusive, number=number)

    def clock(self) -> float:
        """Seconds that only go forward."""
        return time.monotonic()

    def now(self) -> float:
        """Unix time."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def rescan(self, name: str) -> None:
        """Have the kernel ask a SCSI or ATA disk for its size again."""
        device = (self.root / "sys/block" / name / "device").resolve()
        for parent in device.parents:
            if parent.name.startswith("host"):
                _write(self.root / "sys/class/scsi_host" / parent.name / "scan", "- - -")
        _write(device / "rescan", "1")

    def sleep(self, seconds: int) -> None:
        """Suspend to memory and wake by the clock's alarm. Raises DriveError where this machine cannot."""
        states = sysfs.text(self.root / "sys/power/state").split()
        alarm = self.root / "sys/class/rtc/rtc0/wakealarm"
        if "mem" not in states:
            raise DriveError(f"this machine cannot suspend to memory: /sys/power/state offers {states}", begun=False)
        if not alarm.exists():
            raise DriveError("no clock of this machine can wake it: it is not put to sleep", begun=False)
        try:
            alarm.write_text("0")
            alarm.write_text(f"+{seconds}")
            (self.root / "sys/power/state").write_text("mem")
        except OSError as error:
            raise DriveError(f"suspending failed: {error.strerror}", begun=False) from None

    def partitions(self, name: str) -> list[tuple[int, int]]:
        """Start and length in bytes of the partitions that the kernel sees on a disk."""
        found = []
        for entry in sysfs.entries(self.root / "sys/class/block" / name):
            start, size = sysfs.number(entry / "start"), sysfs.number(entry / "size")
            if (entry / "partition").exists() and start is not None and size:
                found.append((start * disks.SECTOR, size * disks.SECTOR))
        return found

    def unmount(self, path: str) -> None:
        """umount(2). Raises OSError."""
        _libc("umount2", path.encode(), 0)

    def swap_off(self, path: str) -> None:
        """swapoff(2). Raises OSError."""
        _libc("swapoff", path.encode())

    def control(self, path: str, request: int, data: bytearray) -> None:
        """One ioctl on a device that is no disk: the device mapper's. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, data)
        finally:
            os.close(descriptor)

    def set(self, path: str, text: str) -> None:
        """Write a file of /sys. Raises OSError."""
        (self.root / path).write_text(text)


def _milliseconds(seconds: float) -> int:
    return min(0xFFFFFFFF, int(seconds * 1000))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        return  # not this kind of device: who asked looks at the size afterwards


def _libc(name: str, *arguments: bytes | int) -> None:
    import ctypes  # used when something must be unmounted, which is seldom

    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
