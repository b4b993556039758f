"""What uses a disk in this Linux (mounts, swap, md, device mapper, bcache), read from /sys and /proc; and stopping it.

Nothing is assembled by the agent's image, which has no udev. What is found all the same is stopped from the top down,
and only when every disk below it is to be erased: stopping an array writes to all of its members.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from metalbox.agent import sysfs
from metalbox.agent.passthrough import DriveError, Kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# linux/dm-ioctl.h: struct dm_ioctl of 312 bytes with its version, _IOWR(0xfd, 4, ...) is DM_DEV_REMOVE.
DM_DEV_REMOVE, DM_IOCTL_BYTES = 0xC138FD04, 312


def holders(root: Path, names: Collection[str]) -> tuple[str, ...]:
    """What uses these block devices or anything on top of them: `md127`, `dm-0 (LVM vg-lv)`, `mounted at /x`."""
    found: list[str] = []
    for device in _above(root, names):
        if device not in _family(root, names):
            found.append(describe(root, device))
        found += [f"mounted at {place}" for place in _mounts(root, device)]
        found += [f"swap on {device}" for path in _swaps(root, device) if path]
    return tuple(dict.fromkeys(found))


def is_multipath(root: Path, name: str) -> bool:
    """Whether the disk is a path of a multipath map (dm-multipath)."""
    return any(
        sysfs.text(root / "sys/class/block" / device / "dm/uuid").startswith("mpath-")
        for device in _above(root, [name])
    )


def describe(root: Path, device: str) -> str:
    """A holder's name with what the device mapper says of it."""
    folder = root / "sys/class/block" / device / "dm"
    name, uuid = sysfs.text(folder / "name"), sysfs.text(folder / "uuid")
    if not name:
        return device
    kind = {"LVM": "LVM ", "CRYPT": "LUKS ", "mpath": "multipath "}.get(uuid.partition("-")[0], "")
    return f"{device} ({kind}{name})"


def stop(kernel: Kernel, names: Collection[str], erased: Collection[str]) -> list[str]:
    """Stop all that uses these disks, and say what was stopped. `erased` are the names of all disks to be erased.

    Raises DriveError when something uses another disk too, or does not stop.
    """
    root = kernel.root
    above = _above(root, names)
    for device in above:
        foreign = _below(root, device) - set(erased)
        if foreign:
            raise DriveError(
                f"{describe(root, device)} also uses {', '.join(sorted(foreign))}, which is not to be erased"
            )
    stopped = []
    for device in reversed(above):
        try:
            stopped += _stop_one(kernel, device, device in _family(root, names))
        except OSError as error:
            raise DriveError(f"{describe(root, device)} does not stop: {error.strerror}") from None
    return stopped


def _stop_one(kernel: Kernel, device: str, is_disk: bool) -> list[str]:
    root = kernel.root
    done = []
    for place in reversed(_mounts(root, device)):
        kernel.unmount(place)
        done.append(f"unmounted {place}")
    for path in _swaps(root, device):
        kernel.swap_off(path)
        done.append(f"swap off {path}")
    if is_disk:
        return done
    if device.startswith("md"):
        kernel.set(f"sys/block/{device}/md/array_state", "clear")
    elif device.startswith("dm-"):
        kernel.control(
            "/dev/mapper/control", DM_DEV_REMOVE, dm_request(sysfs.text(root / f"sys/block/{device}/dm/name"))
        )
    elif device.startswith("bcache"):
        kernel.set(f"sys/block/{device}/bcache/stop", "1")
    else:
        raise DriveError(f"{device} uses the disk, and how to stop it is not known")
    done.append(f"stopped {device}")
    return done


def dm_request(name: str) -> bytearray:
    """struct dm_ioctl that names one device by its name."""
    head = struct.pack("<3I7I", 4, 0, 0, DM_IOCTL_BYTES, DM_IOCTL_BYTES, 0, 0, 0, 0, 0)
    return bytearray((head + struct.pack("<Q128s", 0, name.encode())).ljust(DM_IOCTL_BYTES, b"\0"))


def _family(root: Path, names: Collection[str]) -> list[str]:
    """The disks and their partitions."""
    found = list(names)
    for name in names:
        folder = root / "sys/class/block" / name
        found += [entry.name for entry in sysfs.entries(folder) if (entry / "partition").exists()]
    return found


def _above(root: Path, names: Collection[str]) -> list[str]:
    """The disks, their partitions and every device on top of them, each below what stands on it."""
    order: list[str] = []
    queue = _family(root, names)
    while queue:
        device = queue.pop(0)
        if device in order:
            order.remove(device)
        order.append(device)
        if len(order) > 4096:
            break
        for holder in sysfs.entries(root / "sys/class/block" / device / "holders"):
            queue += _family(root, [holder.name])
    return order


def _below(root: Path, device: str) -> set[str]:
    """The disks that a device stands on."""
    folder = root / "sys/class/block" / device
    slaves = [entry.name for entry in sysfs.entries(folder / "slaves")]
    if slaves:
        return set().union(*(_below(root, slave) for slave in slaves))
    if (folder / "partition").exists():
        parent = folder.resolve().parent.name
        return _below(root, parent)
    return {device}


def _number(root: Path, device: str) -> str:
    return sysfs.text(root / "sys/class/block" / device / "dev")


def _mounts(root: Path, device: str) -> list[str]:
    """Where a device is mounted, by its number (proc_pid_mountinfo(5): fields 3 and 5), or as the source of btrfs."""
    number = _number(root, device)
    found = []
    for line in sysfs.text(root / "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 8 and (fields[2] == number or f"/dev/{device}" in fields[6:]):
            found.append(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
    return found


def _swaps(root: Path, device: str) -> list[str]:
    rows = [line.split() for line in sysfs.text(root / "proc/swaps").splitlines()[1:]]
    return [row[0] for row in rows if row and row[0] == f"/dev/{device}"]
