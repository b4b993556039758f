"""A storage network for a rack: Debian's iSCSI target (tgt) beside the service, and an agent that logs in to it.

metalbox's own image knows no iSCSI. Here a second archive follows it, as Linux allows (kernel documentation,
driver-api/early-userspace/buffer-format): kernel modules, open-iscsi's `iscsistart`, and a script that logs in once the
agent has an address, as an operator at the console would. In the middle of the first erase the script kills the agent.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metalbox.build import debs
from metalbox.build.agent import BUILD_FOLDER, module_closure
from metalbox.build.contents import ARCHITECTURES
from metalbox.build.initramfs import File, Node, pack
from metalbox.build.stage import Stage
from metalbox.errors import BuildError
from metalbox.lab import network, processes
from metalbox.lab.network import SERVER
from metalbox.lab.rack import Rack
from metalbox.lab.record import namespace

ARCH = ARCHITECTURES["x86_64"]
TARGET, INITIATOR = "iqn.2026-01.test.rack:shelf", "iqn.2026-01.test.rack:lab0001"
ATTACHED = "the LUN is attached"
LOOP = "\nwhile :; do\n    python3"
SCRIPT = """#!/bin/sh
for module in {modules}; do insmod /usr/lib/san/$module.ko; done
until ip address show | grep -q "inet 192.0.2."; do sleep 0.2; done
iscsistart -i {initiator} -t {target} -g 1 -a {server} -p 3260 >/run/san.log 2>&1
until grep -q . /sys/class/iscsi_session/*/device/target*/*/block/*/size 2>/dev/null; do sleep 0.2; done
echo "{attached}" >/dev/console
until [ "$(awk '{{print $5}}' /sys/block/sda/stat)" -gt 0 ]; do sleep 0.2; done
sleep 1
kill -9 $(pidof python3)
"""


def image(agent: Path, folder: Path) -> Path:
    """The agent's image with an initiator, in a new folder. Raises BuildError when a package is not to be had."""
    manifest = json.loads((agent / ARCH.name / "manifest.json").read_text())
    cache = debs.default_cache()
    with debs.locked(cache):
        modules = _modules(cache / "stage" / ARCH.name / "usr/lib/modules" / manifest["kernel"])
        tree = {f"usr/lib/san/{name}.ko": File(data) for name, data in modules.items()} | _initiator(cache)
    init = (BUILD_FOLDER / "init").read_text()
    assert init.count(LOOP) == 1
    words = {"initiator": INITIATOR, "target": TARGET, "server": SERVER, "attached": ATTACHED}
    tree["usr/sbin/attach-lun"] = File(SCRIPT.format(modules=" ".join(modules), **words).encode(), 0o755)
    tree["init"] = File(init.replace(LOOP, f"\nattach-lun &\n{LOOP}").encode(), 0o755)
    shutil.copytree(agent, folder)
    with (folder / ARCH.name / "initrd").open("ab") as file:
        file.write(bytes(-file.tell() % 4))
        file.writelines(pack(tree, 0))
    return folder


def _modules(home: Path) -> dict[str, bytes]:
    """Name -> content, in the order in which they must be loaded."""
    if not (home / "modules.dep").is_file():
        raise BuildError(f"the kernel's package is not unpacked in {home}: `metalbox agent build --force` does that")
    rows = {}
    for line in (home / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        rows[path.rpartition("/")[2].split(".ko")[0].replace("-", "_")] = (path, *rest.split())
    soft = {"iscsi_tcp": ("crc32c_generic",)}
    wanted = module_closure("iscsi_tcp", rows, soft)
    # A module has more to load first than each of those that it loads.
    order = sorted(wanted, key=lambda name: (len(rows[name]), name))
    return {name: _plain(home / rows[name][0]) for name in order}


def _plain(module: Path) -> bytes:
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def _initiator(cache: Path) -> dict[str, Node]:
    """`iscsistart` and the libraries that it loads."""
    apt = debs.AptRoot(cache, ARCH.debian)
    apt.refresh()
    packages = [package for package in apt.resolve(["open-iscsi"]) if package.name.startswith(("open-iscsi", "lib"))]
    stage = Stage(cache / "stage" / "san", ARCH)
    debs.unpack(apt.download(packages), stage.root, key=debs.key_of(packages))
    program = stage.program("iscsistart")
    assert program
    stage.add(program)
    stage.add_libraries()
    return stage.tree


@contextmanager
def target(rack: Rack, lun: Path) -> Iterator[None]:
    """Offer a file to whoever logs in, while the block runs."""
    # The number names the socket by which tgtadm speaks to this tgtd.
    port = str(os.getpid() % 30_000 + 1)
    portal = f"portal={SERVER}:3260"
    log = rack.directory / "logs" / "tgtd.log"
    argv = network.inside(namespace(rack.directory), ["tgtd", "-f", "-C", port, "--iscsi", portal])
    process = processes.spawn(argv, what="iSCSI target", log=log)
    try:
        for words in (
            ["target", "--op", "new", "--targetname", TARGET],
            ["logicalunit", "--op", "new", "--lun", "1", "--backing-store", str(lun)],
            ["target", "--op", "bind", "--initiator-address", "ALL"],
        ):
            _tell(rack, ["tgtadm", "-C", port, "--lld", "iscsi", "--tid", "1", "--mode", *words], log)
        yield
    finally:
        processes.end([process])


def _tell(rack: Rack, argv: list[str], log: Path) -> None:
    """Until it has started, nobody listens."""
    deadline = time.monotonic() + 90
    while (done := rack.exec("lab", argv)).returncode:
        assert time.monotonic() < deadline, f"{done.stderr}\n{log.read_text()}"
        time.sleep(0.1)
