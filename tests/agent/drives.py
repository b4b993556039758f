"""Simulated drives at the level of their commands: real bytes, their sanitize, security and format states, and faults.

They stand behind the passthrough layer, as `Device` and `Kernel`. Time is turned by waiting. Every write is recorded,
and `is_gone` looks at the medium itself, whatever the drive says when it is read.

Faults: lies, fails, refuses, stale, vanishes, swapped, resized, frozen, locked, foreign-lock, protected, hpa, dco,
sanitizing, sanitize-failed, one-sector, unreadable-after, hang, stuck, reset, held, keeps-password.
"""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path
from typing import Any

from metalbox.agent import ata
from metalbox.agent.passthrough import Device, Kernel, ScsiAnswer
from tests.agent.snapshots import write

SECTOR = 512
MIB = 1 << 20
DURATION = 100.0
UUID, SERIAL, MAC = "4c4c4544-0042-3510-8054-b7c04f333732", "MB42", "52:54:00:12:34:56"


class Drive:
    """What all kinds have in common. `size` is what the drive shows, `medium` all that it has."""

    transport = "virtio"
    can_hide = False

    def __init__(self, name: str, serial: str, *faults: str, size: int = 3 * MIB, seed: int = 1) -> None:
        self.name = name
        self.serial = serial
        self.model = f"ACME {type(self).__name__}"
        self.wwn = "" if self.transport == "virtio" else f"0x5{seed:015x}"
        self.faults = set(faults)
        self.size = size
        hidden = MIB if self.can_hide and {"hpa", "dco"} & self.faults else 0
        self.random = random.Random(seed)
        self.medium = bytearray(self.random.randbytes(size + hidden))
        self.original = bytes(self.medium)
        self.shown: bytes | None = None  # what a drive with "stale" gives instead
        self.writes: list[tuple[str, int]] = []
        self.began = 0  # erases that the drive began
        self.is_erased = False
        self.is_here = True
        self.is_held = "held" in self.faults
        self.pending: tuple[str, float] | None = None
        self.state = ""
        self.release = threading.Event()
        self.kernel: SimulatedKernel

    def record(self) -> dict[str, Any]:
        """As `disks.disks` tells of it."""
        return {
            "name": self.name, "model": self.model, "serial": self.serial, "wwn": self.wwn, "firmware": "1.0",
            "size_bytes": self.size, "transport": self.transport, "namespaces": [], "read_only": False,
            "removable": False, "rotational": False, "health": {}, "erasing": None,
        }  # fmt: skip

    def is_gone(self) -> bool:
        """Whether no block of the medium is what it was."""
        return all(
            self.medium[at : at + SECTOR] != self.original[at : at + SECTOR]
            for at in range(0, len(self.original), SECTOR)
            if any(self.original[at : at + SECTOR])
        )

    # the block device

    def read(self, offset: int, length: int) -> bytes:
        self.tick()
        self.must_be_here()
        if self.state in ("in progress", "failed") or ("unreadable-after" in self.faults and self.began):
            raise OSError(errno.EIO, "Input/output error")
        source = self.shown if self.shown is not None else self.medium
        return bytes(source[offset : offset + length])

    def put(self, offset: int, data: bytes) -> None:
        self.must_be_here()
        self.writes.append(("write", offset))
        if "protected" in self.faults:
            raise OSError(errno.EROFS, "Read-only file system")
        is_erasing = not any(data)
        if is_erasing:
            self.begin()
        if is_erasing and "fails" in self.faults:
            raise OSError(errno.EIO, "Input/output error")
        if is_erasing and "lies" in self.faults:
            return
        kept = self.medium[-SECTOR:] if is_erasing and "one-sector" in self.faults else None
        self.medium[offset : offset + len(data)] = data
        if kept is not None:
            self.medium[-SECTOR:] = kept
        if is_erasing and "stale" not in self.faults:
            self.is_erased = True

    # erasing

    def begin(self) -> None:
        """The drive begins to erase: here it hangs, vanishes, or remembers what it will go on giving."""
        self.began += 1
        if "stale" in self.faults and self.shown is None:
            self.shown = bytes(self.medium)
        if "hang" in self.faults:
            self.release.wait(30)
            raise OSError(errno.EIO, "Input/output error")
        if "vanishes" in self.faults:
            self.is_here = False
            self.must_be_here()

    def must_be_here(self) -> None:
        if not self.is_here:
            raise OSError(errno.ENODEV, "No such device")

    def erase(self, way: str) -> None:
        """What remains on the medium after a way of erasing."""
        if "lies" in self.faults:
            return
        kept = bytes(self.medium[-SECTOR:])
        if way == "crypto":
            self.medium[:] = self.random.randbytes(len(self.medium))
        else:
            self.medium[:] = bytes(len(self.medium))
        if "one-sector" in self.faults:
            self.medium[-SECTOR:] = kept
        self.is_erased = True

    def start_sanitize(self, way: str) -> None:
        self.writes.append(("sanitize", 0))
        self.begin()
        self.pending, self.state = (way, self.kernel.clock() + DURATION), "in progress"

    def progress(self) -> float:
        if "stuck" in self.faults:
            return 0.25
        assert self.pending
        # The work on another drive may have turned the clock beyond the end since this one looked at it.
        return min(1.0, max(0.0, 1 - (self.pending[1] - self.kernel.clock()) / DURATION))

    def tick(self) -> None:
        if self.pending and self.kernel.clock() >= self.pending[1] and "stuck" not in self.faults:
            way, self.pending = self.pending[0], None
            if "fails" in self.faults:
                self.state = "failed"
                return
            self.erase(way)
            self.state = "done"

    def is_refused(self) -> bool:
        return "refuses" in self.faults

    # commands

    def nvme(self, opcode: int, nsid: int, cdw10: int, length: int) -> tuple[int, bytes]:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def scsi(self, cdb: bytes, send: bytes, length: int) -> ScsiAnswer:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def told_serial(self) -> str:
        return "OTHER" if "swapped" in self.faults else self.serial


def put(data: bytearray, at: int, text: str, length: int) -> None:
    data[at : at + length] = text.encode().ljust(length)


class NvmeDrive(Drive):
    """One namespace, 512-byte sectors; sanitize in three ways, format in two."""

    transport = "nvme"

    def __init__(self, name: str, serial: str, *faults: str, **options: int) -> None:
        super().__init__(name, serial, *faults, **options)
        self.command = 0
        if "sanitizing" in self.faults:
            self.command = 2
        if "sanitize-failed" in self.faults:
            self.state = "failed"

    def record(self) -> dict[str, Any]:
        space = {"nsid": 1, "name": self.name, "size_bytes": self.size, "wwn": self.wwn}
        return {**super().record(), "namespaces": [space]}

    def nvme(self, opcode: int, nsid: int, cdw10: int, length: int) -> tuple[int, bytes]:
        self.must_be_here()
        self.tick()
        if opcode == 0x06:
            return 0, self._identify(cdw10 & 0xFF, length)
        if opcode == 0x02 and cdw10 & 0xFF == 0x81:
            return 0, self._log()
        if opcode == 0x84:
            if self.is_refused():
                return 0x4002, b""
            self.command = cdw10
            self.start_sanitize({2: "block", 3: "overwrite", 4: "crypto"}[cdw10 & 7])
            return 0, b""
        if opcode == 0x80:
            if self.is_refused() or "protected" in self.faults:
                return 0x4020 if "protected" in self.faults else 0x4001, b""
            self.writes.append(("format", nsid))
            self.begin()
            if "fails" in self.faults:
                return 0x0006, b""  # Internal Error: nobody knows what was done
            self.erase("crypto" if cdw10 >> 9 & 7 == 2 else "user-data")
            return 0, b""
        return 0x4001, b""

    def _identify(self, cns: int, length: int) -> bytes:
        data = bytearray(length)
        if cns == 1:
            put(data, 4, self.told_serial(), 20)
            put(data, 24, self.model, 40)
            data[256], data[524], data[328] = 0x02, 0x04, 0x07
        elif cns == 0:
            data[0:8] = (self.size // SECTOR).to_bytes(8, "little")
            data[128 + 2], data[33] = 9, 1
        return bytes(data)

    def _log(self) -> bytes:
        state = {"": 0, "done": 1, "in progress": 2, "failed": 3}[self.state]
        progress = int(self.progress() * 65535) if self.pending else 65535
        head = progress.to_bytes(2, "little") + state.to_bytes(2, "little") + self.command.to_bytes(4, "little")
        return (head + b"\xff" * 12).ljust(512, b"\0")


def registers(count: int = 0, lba: int = 0, status: int = 0x50, error: int = 0, device: int = 0x40) -> ScsiAnswer:
    """CHECK CONDITION with the ATA Status Return descriptor, as libata gives it."""
    low = [lba >> shift & 0xFF for shift in (0, 8, 16, 24, 32, 40)]
    field = bytes([0x09, 12, 1, error, count >> 8, count & 0xFF, low[3], low[0], low[4], low[1], low[5], low[2],
                   device, status])  # fmt: skip
    return ScsiAnswer(2, bytes([0x72, 1, 0, 0x1D, 0, 0, 0, 14]) + field)


def aborted(lba: int = 0) -> ScsiAnswer:
    """Sense as libata of Linux 6.1 gives it for a command that the drive aborted: fixed format, at its own places."""
    return ScsiAnswer(2, bytes.fromhex("70000b000000000a0441400000000000a0") + bytes([lba]))


class AtaDrive(Drive):
    """Sanitize, security with both erases, host protected area, configuration overlay, TRIM with zeroes."""

    transport = "sata"
    can_hide = True

    def __init__(self, name: str, serial: str, *faults: str, **options: int) -> None:
        super().__init__(name, serial, *faults, **options)
        self.password = b""
        self.is_locked = False
        self.is_frozen = "frozen" in self.faults
        self.is_prepared = False
        self.is_asked_native = False
        if {"locked", "foreign-lock"} & self.faults:
            self.password = b"somebody".ljust(32) if "foreign-lock" in self.faults else ata.PASSWORD
            self.is_locked = True
        if "sanitize-failed" in self.faults:
            self.state = "failed"

    def read(self, offset: int, length: int) -> bytes:
        if self.is_locked:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(offset, length)

    @property
    def native(self) -> int:
        return (self.size if "dco" in self.faults else len(self.medium)) // SECTOR

    def scsi(self, cdb: bytes, send: bytes, length: int) -> ScsiAnswer:
        self.must_be_here()
        self.tick()
        if cdb[0] != 0x85:
            return ScsiAnswer(2, bytes([0x72, 5, 0x20, 0, 0, 0, 0, 0]))
        command, features = cdb[14], cdb[3] << 8 | cdb[4]
        lba = cdb[8] | cdb[10] << 8 | cdb[12] << 16 | cdb[7] << 24 | cdb[9] << 32 | cdb[11] << 40
        if command == 0xEC:
            return ScsiAnswer(0, b"", self._identify())
        if command == 0xB4:
            return self._sanitize(features, lba)
        if command in (0xF1, 0xF2, 0xF3, 0xF4, 0xF6):
            return self._security(command, send)
        return self._hidden(command, features, lba)

    def _identify(self) -> bytes:
        words = [0] * 256
        for start, length, text in ((10, 10, self.told_serial()), (23, 4, "1.0"), (27, 20, self.model)):
            raw = text.encode().ljust(length * 2)
            words[start : start + length] = [raw[at] << 8 | raw[at + 1] for at in range(0, length * 2, 2)]
        words[59] = 0xF000
        words[69], words[169] = 0x4020, 1
        words[82], words[83] = 0x0402, 0x0400 | (0x0800 if "dco" in self.faults else 0)
        words[87] = 0x4100
        words[89] = words[90] = 1
        sectors = self.size // SECTOR
        words[100], words[101] = sectors & 0xFFFF, sectors >> 16
        wwn = int(self.wwn, 16)
        words[108:112] = [wwn >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
        words[128] = 0x21 | bool(self.password) << 1 | self.is_locked << 2 | self.is_frozen << 3
        return b"".join(word.to_bytes(2, "little") for word in words)

    def _sanitize(self, features: int, lba: int) -> ScsiAnswer:
        if features == 0:
            if self.state == "failed":
                return aborted(1)
            going = int(self.progress() * 65535) if self.pending else 0xFFFF
            return registers({"in progress": 0x4000, "done": 0x8000}.get(self.state, 0), going)
        ways = {key: way for way, key in ata.SANITIZE_COMMANDS.items()}
        way = ways.get((features, lba, 1 if features == 0x14 else 0))
        if way is None or self.is_refused():
            return aborted()
        self.start_sanitize(way)
        return registers()

    def _security(self, command: int, send: bytes) -> ScsiAnswer:
        if self.is_frozen or (command == 0xF1 and self.is_locked):
            return aborted()
        if command == 0xF3:
            self.is_prepared = True
            return registers()
        given = send[2:34]
        if command == 0xF1:
            self.password = given
        elif given != self.password:
            return aborted()
        elif command == 0xF2:
            self.is_locked = False
        elif command == 0xF6:
            self.password = b""
        else:
            return self._security_erase(enhanced=bool(send[0] & 2))
        return registers()

    def _security_erase(self, *, enhanced: bool) -> ScsiAnswer:
        if not self.is_prepared or self.is_refused():
            return aborted()
        self.writes.append(("security erase", 0))
        self.begin()
        if "reset" in self.faults:  # power lost in the middle of it: locked at the next start
            self.medium[:MIB] = bytes(MIB)
            self.is_locked = True
            raise OSError(errno.EIO, "Input/output error")
        if "fails" in self.faults:
            return ScsiAnswer(2, bytes.fromhex("700003000000000a1041400000000000a000"))
        self.erase("crypto" if enhanced else "zeroes")
        if "keeps-password" not in self.faults:
            self.password = b""
        return registers()

    def _hidden(self, command: int, features: int, lba: int) -> ScsiAnswer:
        if command == 0x27:
            self.is_asked_native = True
            return registers(lba=self.native - 1)
        if command == 0x37 and self.is_asked_native and lba < self.native:
            self.size = (lba + 1) * SECTOR
            return registers()
        if command == 0xB1 and features == 0xC0:
            self.faults.discard("dco")
            return registers()
        if command == 0xB1 and features == 0xC2:
            last = len(self.medium) // SECTOR - 1
            return ScsiAnswer(0, b"", (bytes(6) + last.to_bytes(8, "little")).ljust(512, b"\0"))
        return aborted()


class ScsiDrive(Drive):
    """A SAS drive with sanitize in three ways."""

    transport = "sas"

    def __init__(self, name: str, serial: str, *faults: str, **options: int) -> None:
        super().__init__(name, serial, *faults, **options)
        if "sanitize-failed" in self.faults:
            self.state = "failed"

    def scsi(self, cdb: bytes, send: bytes, length: int) -> ScsiAnswer:
        self.must_be_here()
        self.tick()
        if cdb[0] == 0x12 and cdb[1]:
            serial = self.told_serial().encode()
            name = bytes([0x01, 0x03, 0, 8]) + bytes.fromhex(self.wwn[2:])
            body = serial if cdb[2] == 0x80 else name
            return ScsiAnswer(0, b"", bytes([0, cdb[2], 0, len(body)]) + body)
        if cdb[0] == 0x03:
            return ScsiAnswer(0, b"", self._sense())
        if cdb[0] == 0x00:
            sense = self._sense()
            return ScsiAnswer(2, sense) if sense[2] else ScsiAnswer(0)
        if cdb[0] == 0xA3:
            return ScsiAnswer(0, b"", bytes([0, 3, 0, 10]))
        if cdb[0] == 0x9E:
            return ScsiAnswer(0, b"", bytes(14) + b"\xc0" + bytes(17))
        if cdb[0] == 0x1A:
            return ScsiAnswer(0, b"", bytes([3, 0, 0x80 if "protected" in self.faults else 0, 0]))
        if cdb[0] == 0x48 and not self.is_refused():
            self.start_sanitize({1: "overwrite", 2: "block", 3: "crypto"}[cdb[1] & 0x1F])
            return ScsiAnswer(0)
        return ScsiAnswer(2, bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]))

    def _sense(self) -> bytes:
        data = bytearray(18)
        data[0], data[7] = 0x70, 10
        if self.pending:
            data[2], data[12], data[13], data[15] = 2, 0x04, 0x1B, 0x80
            data[16:18] = int(self.progress() * 65535).to_bytes(2, "big")
        elif self.state == "failed":
            data[2], data[12], data[13] = 3, 0x31, 0x03
        return bytes(data)


class SimulatedDevice(Device):
    """A drive that is open."""

    def __init__(self, drive: Drive, exclusive: bool) -> None:
        self.name = drive.name
        self._drive = drive
        self._exclusive = exclusive

    def close(self) -> None:
        if self._exclusive:
            self._drive.is_held = False

    def nvme(
        self, opcode: int, *, nsid: int = 0, cdw10: int = 0, cdw11: int = 0, length: int = 0, seconds: float = 60.0
    ) -> tuple[int, bytes]:
        assert self._exclusive or opcode in (0x02, 0x06)
        return self._drive.nvme(opcode, nsid, cdw10, length)

    def scsi(self, cdb: bytes, *, send: bytes = b"", length: int = 0, seconds: float = 60.0) -> ScsiAnswer:
        return self._drive.scsi(cdb, send, length)

    def size(self) -> int:
        self._drive.must_be_here()
        return self._drive.size - (MIB if "resized" in self._drive.faults else 0)

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(self._drive.read(offset, length))

    def write(self, offset: int, data: Any) -> None:
        assert self._exclusive
        self._drive.put(offset, bytes(data))

    def sync(self) -> None:
        self._drive.must_be_here()

    def discard(self, offset: int, length: int) -> None:
        assert self._exclusive
        self._drive.must_be_here()
        if self._drive.is_refused():
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        self._drive.writes.append(("discard", offset))
        self._drive.begin()
        if "fails" in self._drive.faults:
            raise OSError(errno.EIO, "Input/output error")
        self._drive.erase("zeroes")

    def forget(self) -> None:
        pass


class SimulatedKernel(Kernel):
    """A machine with such drives; waiting turns the clock."""

    def __init__(self, root: Path, *drives: Drive) -> None:
        self.root = write(
            root,
            {
                "sys/class/dmi/id/product_uuid": UUID, "sys/class/dmi/id/product_serial": SERIAL,
                "sys/class/net/eth0/address": MAC, "sys/class/net/eth0/type": "1",
                "sys/class/net/eth0/device/vendor": "0x8086",
            },
        )  # fmt: skip
        self.drives = list(drives)
        self._time = 1000.0
        self._lock = threading.Lock()
        self.slept = 0
        for drive in drives:
            drive.kernel = self
            if "sanitizing" in drive.faults:
                drive.pending, drive.state = ("block", self._time + DURATION), "in progress"

    def disks(self) -> list[dict[str, Any]]:
        return [drive.record() for drive in self.drives if drive.is_here]

    def open(self, name: str, *, exclusive: bool = False) -> Device:
        drive = next((drive for drive in self.drives if drive.name == name and drive.is_here), None)
        if drive is None:
            raise OSError(errno.ENXIO, "No such device or address")
        if exclusive and drive.is_held:
            raise OSError(errno.EBUSY, "Device or resource busy")
        drive.is_held = drive.is_held or exclusive
        return SimulatedDevice(drive, exclusive)

    def clock(self) -> float:
        return self._time

    def now(self) -> float:
        return 1_700_000_000.0 + self._time

    def wait(self, seconds: float) -> None:
        with self._lock:
            self._time += seconds

    def rescan(self, name: str) -> None:
        pass

    def sleep(self, seconds: int) -> None:
        self.slept += 1
        for drive in self.drives:
            if isinstance(drive, AtaDrive):
                drive.is_frozen = False


def row(drive: Drive, *methods: str, preparations: tuple[str, ...] = ()) -> dict[str, Any]:
    """The row of an order for a drive."""
    record = drive.record()
    keys = ("serial", "wwn", "model", "size_bytes", "namespaces")
    return {key: record[key] for key in keys} | {
        "methods": list(methods), "preparations": list(preparations), "seconds": [DURATION] * len(methods),
    }  # fmt: skip


def order(*rows: dict[str, Any], untouched: tuple[Drive, ...] = (), **more: Any) -> dict[str, Any]:
    """An order for this machine."""
    return {
        "machine": {"uuid": UUID, "serial": SERIAL, "macs": [MAC]}, "boot_id": "b1", "level": "purge",
        "verify": "sample", "seed": "00ff", "samples": 64, "issued_at": 1, "parallel": 8, "disks": list(rows),
        "untouched": [{**drive.record(), "reason": "kept"} for drive in untouched], "refused": [], **more,
    }  # fmt: skip


class Asked:
    """An errand without a server: what it is told of, and whether it was claimed."""

    number = 7
    boot_id = "b1"

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.claims = 0
        self.told: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.cancelled = threading.Event()

    def claim(self) -> None:
        self.claims += 1

    def progress(self, document: dict[str, Any]) -> bool:
        self.told.append(document)
        return True

    def say(self, line: str) -> None:
        self.lines.append(line)
