"""Foreign TFTP clients fetch from our server over a cable of their own: a good one, and one that loses 5 of 100.

The loss is made by nftables (`numgen random`) at both ends, since many kernels have no netem.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]

ROOT = Path(__file__).parents[2]
SERVER = "192.0.2.1"
# The words after `ip netns exec ...`; {file} and {to} are filled in.
CLIENTS: dict[str, list[str]] = {
    "tftp-hpa": ["tftp", "-m", "octet", SERVER, "-c", "get", "{file}", "{to}"],
    "atftp": ["atftp", "-g", "-r", "{file}", "-l", "{to}", SERVER],
    "atftp-window": [
        "atftp", "--option", "windowsize 16", "--option", "blksize 1428", "-g", "-r", "{file}", "-l", "{to}", SERVER,
    ],
    "atftp-window-8": [
        "atftp", "--option", "windowsize 8", "--option", "tsize 0", "-g", "-r", "{file}", "-l", "{to}", SERVER,
    ],
    "curl": ["curl", "-s", "-S", "--tftp-blksize", "1468", "-o", "{to}", f"tftp://{SERVER}/{{file}}"],
    "curl-plain": ["curl", "-s", "-S", "--tftp-no-options", "-o", "{to}", f"tftp://{SERVER}/{{file}}"],
    "busybox": ["busybox", "tftp", "-g", "-r", "{file}", "-l", "{to}", SERVER],
    "busybox-1468": ["busybox", "tftp", "-b", "1468", "-g", "-r", "{file}", "-l", "{to}", SERVER],
    "tftpy": [
        sys.executable, "-c",
        "import sys, tftpy; tftpy.TftpClient(sys.argv[1], 69, {{'blksize': 1468}}).download(*sys.argv[2:])",
        SERVER, "{file}", "{to}",
    ],
}  # fmt: skip
SIZES = (0, 1, 511, 512, 513, 1467, 1468, 1469, 1468 * 64, 300_001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    random = Random(1)
    for size in SIZES:
        (path / f"f{size}").write_bytes(random.randbytes(size))
    for boot_file in ("snponly.efi", "ipxe.efi", "undionly.kpxe"):
        source = Path("/usr/lib/ipxe", boot_file)
        if source.exists():
            shutil.copyfile(source, path / boot_file)
    return path


def serve(net: Namespaces, folder: Path, *patience: str) -> subprocess.Popen[str]:
    net.link("server", "eth0", "client", "eth0", left_ip=f"{SERVER}/24", right_ip="192.0.2.2/24")
    command = [sys.executable, "-m", "tests.tftp.serve", str(folder), "69", *patience]
    server = net.popen("server", *command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    assert server.stdout.readline() == "udp 0.0.0.0:69\n"
    return server


# On a wire that loses nothing, a client that was held up misses nothing; atftp and tftpy end at a second OACK.
PATIENT = "60"


def counters(server: subprocess.Popen[str]) -> dict[str, int]:
    server.terminate()
    counted: dict[str, int] = json.loads(server.communicate(timeout=60)[0])
    return counted


@pytest.fixture(scope="module")
def good_wire(folder: Path) -> Iterator[Namespaces]:
    with Namespaces() as net:
        serve(net, folder, PATIENT)
        yield net


def fetch(net: Namespaces, client: str, name: str, to: Path, timeout: float = 120) -> str:
    """Run one client. Returns what it said."""
    if shutil.which(CLIENTS[client][0]) is None:
        pytest.skip(f"{CLIENTS[client][0]} is not installed")
    words = [word.format(file=name, to=to) for word in CLIENTS[client]]
    done = net.run("client", *words, check=False, timeout=timeout)
    return f"{done.returncode} {done.stdout}{done.stderr}"


@pytest.mark.parametrize("client", CLIENTS)
def test_every_size(good_wire: Namespaces, folder: Path, tmp_path: Path, client: str) -> None:
    for path in sorted(folder.iterdir()):
        if path.name == "f0" and client.startswith("curl"):
            continue  # curl makes no file of nothing, and takes `tsize 0` of RFC 2349 for an error
        said = fetch(good_wire, client, path.name, tmp_path / path.name)
        assert (tmp_path / path.name).exists(), f"{path.name}: {said}"
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), f"{path.name}: {said}"


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_not_there_is_said_at_once(good_wire: Namespaces, tmp_path: Path, client: str) -> None:
    said = fetch(good_wire, client, "nothing.efi", tmp_path / "nothing").lower()
    assert "not found" in said or "no such file" in said or said.startswith("78 ") or "68" in said, said
    assert not (tmp_path / "nothing").exists() or not (tmp_path / "nothing").read_bytes()


def test_a_text_in_netascii_comes_back_as_it_was(good_wire: Namespaces, folder: Path, tmp_path: Path) -> None:
    text = folder / "text"
    text.write_bytes(b"one\ntwo\r\n\rthree\n" * 100)
    good_wire.run("client", "tftp", "-m", "netascii", SERVER, "-c", "get", "text", str(tmp_path / "text"), timeout=120)
    assert (tmp_path / "text").read_bytes() == text.read_bytes()
    text.unlink()


@pytest.mark.parametrize("client", ["tftp-hpa", "atftp-window-8"])
def test_more_than_65535_blocks(good_wire: Namespaces, folder: Path, tmp_path: Path, client: str) -> None:
    big = folder / "big"
    big.write_bytes(Random(2).randbytes(40_000_000))
    try:
        said = fetch(good_wire, client, "big", tmp_path / "big", timeout=600)
        assert (tmp_path / "big").read_bytes() == big.read_bytes(), said
    finally:
        big.unlink()
        (tmp_path / "big").unlink(missing_ok=True)


def test_a_narrow_path_lowers_the_block(folder: Path, tmp_path: Path) -> None:
    """Behind an MTU of 1400 nothing may be fragmented: the answer says blksize 1368."""
    with Namespaces() as net:
        server = serve(net, folder, PATIENT)
        for end in ("server", "client"):
            net.run(end, "ip", "link", "set", "eth0", "mtu", "1400")
        fetch(net, "busybox-1468", "f300001", tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == (folder / "f300001").read_bytes()
        fragments = net.run("server", "cat", "/proc/net/snmp").stdout
        names, values = (line.split() for line in fragments.splitlines() if line.startswith("Ip:"))
        assert dict(zip(names, values, strict=True))["FragCreates"] == "0"
        assert counters(server)["sent"] == 1


RULES = """
table ip loss {
  chain input { type filter hook input priority 0; udp dport != 53 numgen random mod 100 < 5 drop; }
}
"""


def test_a_wire_that_loses_5_of_100(folder: Path, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nftables is not installed")
    with Namespaces() as net:
        server = serve(net, folder)
        for end in ("server", "client"):
            subprocess.run([*net.exec(end), "nft", "-f", "-"], input=RULES, text=True, check=True, timeout=60)
        name = "f300001"

        def try_thrice(client: str) -> str:
            """A client may give up for reasons of its own: atftp when its first ACK was lost ("unexpected OACK")."""
            for _ in range(3):
                said = fetch(net, client, name, tmp_path / client, 250)
                if (tmp_path / client).exists() and (tmp_path / client).read_bytes() == (folder / name).read_bytes():
                    break
            return said

        there = [client for client in CLIENTS if shutil.which(CLIENTS[client][0])]
        with ThreadPoolExecutor(len(there)) as pool:
            said = dict(zip(there, pool.map(try_thrice, there), strict=True))
        wrong = [c for c in there if (tmp_path / c).read_bytes() != (folder / name).read_bytes()]
        assert not wrong, {client: said[client] for client in wrong}
        counted = counters(server)
        assert counted["retransmits"] > 50
        assert counted["sent"] >= len(there) - 2  # a client whose last ACK was lost is gone when we ask
