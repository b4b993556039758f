"""Real block devices of the test host: loop devices over sparse files, which the eraser treats as disks."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalbox.agent.passthrough import Kernel
from metalbox.agent.sysfs import number


@contextmanager
def loop(file: Path, size: int, seed: int = 1) -> Iterator[str]:
    """A loop device full of random bytes; its kernel name."""
    source = random.Random(seed)
    with file.open("wb") as stream:
        for at in range(0, size, 64 << 20):  # randbytes makes one number of them, and has a limit
            stream.write(source.randbytes(min(64 << 20, size - at)))
    done = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=True, timeout=20)
    device = done.stdout.strip()
    try:
        yield device.removeprefix("/dev/")
    finally:
        subprocess.run(["losetup", "-d", device], check=True, timeout=20)


class LoopKernel(Kernel):
    """The real kernel, which has only these disks: {kernel name: serial number}."""

    def __init__(self, serials: dict[str, str]) -> None:
        self.serials = serials

    def disks(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name, "serial": serial, "wwn": "", "model": "loop", "firmware": "", "transport": "",
                "size_bytes": (number(self.root / "sys/class/block" / name / "size") or 0) * 512, "namespaces": [],
                "read_only": False, "removable": False, "rotational": False, "health": {}, "erasing": None,
            }
            for name, serial in self.serials.items()
        ]  # fmt: skip


def order_for(kernel: LoopKernel, marks: dict[str, Any], *methods: str, **more: Any) -> dict[str, Any]:
    """An order to erase all of them."""
    keys = ("serial", "wwn", "model", "size_bytes", "namespaces")
    rows = [
        {**{key: disk[key] for key in keys}, "methods": list(methods), "preparations": ["stop-holders"]}
        for disk in kernel.disks()
    ]
    return {
        "machine": marks, "boot_id": "b1", "verify": "sample", "seed": "ab", "samples": 64, "parallel": 4,
        "disks": rows, "untouched": [], "refused": [], **more,
    }  # fmt: skip
