"""Runs programs straight out of an unpacked package tree by that tree's own loader: depmod, Python, zstd, busybox.

So an image depends on the versions in the packages and not on what the builder has installed, and needs no chroot.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metalbox.build.stage import Stage
from metalbox.errors import BuildError

# Marshalled code must not depend on the hash seed (order of frozensets) for images to be equal byte for byte.
COMPILE = """
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
legacy = sys.argv[1] == "sourceless"
ok = compileall.compile_dir(sys.argv[2], quiet=1, force=True, legacy=legacy, optimize=int(sys.argv[4]), workers=1,
                            stripdir=sys.argv[2], prependdir=sys.argv[3], invalidation_mode=mode)
sys.exit(not ok)
"""


class Toolbox:
    """The builder's programs, for the architecture of the machine that builds."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        triplet = stage.arch.triplet
        self.libraries = ":".join(str(stage.root / f"usr/{folder}") for folder in (f"lib/{triplet}", "lib", "lib64"))

    def command(self, name: str, *arguments: str, program: str = "") -> list[str]:
        path = self.stage.program(program or name)
        if path is None:
            raise BuildError(f"{program or name} is not in the packages of the builder")
        loader = str(self.stage.root / self.stage.real(self.stage.arch.loader))
        real = str(self.stage.root / self.stage.real(path))
        return [loader, "--library-path", self.libraries, "--argv0", name, real, *arguments]

    def run(self, command: Sequence[str], data: Iterable[bytes] = (), **environment: str) -> bytes:
        full = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", **environment}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=full
        )
        out, err = process.communicate(b"".join(data), timeout=1800)
        if process.returncode:
            raise BuildError(f"{command[4]} failed while building: {err.decode(errors='replace').strip()[-400:]}")
        return out

    def depmod(self, root: Path, release: str) -> None:
        """Write modules.dep.bin and its like for root/lib/modules/<release>."""
        self.run(self.command("depmod", "-b", str(root), release, program="kmod"))

    def applets(self) -> list[str]:
        """The links that busybox answers to, as paths of the merged tree."""
        out = self.run(self.command("busybox", "--list-full")).decode().split()
        return sorted({f"usr/{path.removeprefix('usr/')}" for path in out if path != "linuxrc"})

    def compile_python(self, folder: Path, prefix: str, *, sourceless: bool) -> None:
        """Byte-compile a folder for the packages' Python; tracebacks will name files below `prefix`.

        `sourceless` puts x.pyc beside x.py, without docstrings and assertions; otherwise __pycache__ is filled.
        """
        kind, optimize = ("sourceless", "2") if sourceless else ("cached", "0")
        command = self.command("python3", "-S", "-B", "-s", "-c", COMPILE, kind, str(folder), prefix, optimize)
        self.run(command, PYTHONHOME=str(self.stage.root / "usr"), PYTHONHASHSEED="0")

    def zstd(self, pieces: Iterable[bytes], level: int) -> bytes:
        """One frame by one thread: the bytes depend on the input and the package's version only."""
        return self.run(self.command("zstd", f"-{level}", "-q", "-c", "--single-thread", "-"), pieces)

    def zstd_files(self, files: Sequence[Path], level: int) -> None:
        """Each file into file.zst, on all processors; how the files are dealt out does not change their bytes."""
        hands = os.cpu_count() or 1
        shares = [share for share in (files[hand::hands] for hand in range(hands)) if share]
        commands = [
            self.command("zstd", f"-{level}", "-q", "--rm", "--single-thread", *map(str, share)) for share in shares
        ]
        with ThreadPoolExecutor(hands) as pool:
            list(pool.map(self.run, commands))
