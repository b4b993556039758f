"""A machine whose BMC nobody knows the password of gets an account for metalbox, by its agent over KCS."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metalbox.config import Mode
from metalbox.lab.domains import KCS_PORT
from metalbox.lab.machines import BmcKind, Firmware, MachineSpec
from metalbox.lab.rack import Rack
from metalbox.secrets import Vault
from tests.stories.conftest import PATIENCE

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
MACHINE = MachineSpec(firmware=Firmware.BIOS, bmc=BmcKind.IPMI)


def ipmitool(rack: Rack, user: str, password: str, *words: str) -> str:
    """What a foreign client hears from the BMC, from inside the lab's network; it must succeed."""
    address = rack.bmc(rack.machines[0].name).address
    account = ["-E", "-H", address, "-U", user]
    command = ["env", f"IPMI_PASSWORD={password}", "ipmitool", "-I", "lanplus", "-C", "3", *PATIENCE, *account]
    done = rack.exec("lab", [*command, *words], timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(folder: Path) -> tuple[str, str]:
    """User and password out of the service's database, with its key."""
    database = sqlite3.connect(f"file:{folder / 'metalbox.db'}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT id, user, sealed FROM bmcs").fetchall()
    finally:
        database.close()
    ((number, user, sealed),) = rows
    return user, Vault.open(folder, (), {}).unseal(sealed, f"BMC {number} password").reveal()


def rotated(rack: Rack, name: str) -> dict[str, Any]:
    rack.call("POST", f"/api/v1/bmcs/{name}/rotate", body={})

    def look() -> dict[str, Any] | None:
        row: dict[str, Any] = rack.call("GET", f"/api/v1/bmcs/{name}/account")
        return row if row["state"] != "ordered" else None

    row = rack.wait_until(look, 240, "the account to be proved")
    assert row["state"] == "verified", row
    return row


def holders(rack: Rack, passwords: list[str]) -> list[Path]:
    """The files of the rack that hold one of the passwords; the BMC's own memory is one, and is left out."""
    secret = rack.directory / "bmc"
    disks = rack.directory / "disks"
    found = []
    for path in rack.directory.rglob("*"):
        if path.is_file() and not path.is_relative_to(secret) and not path.is_relative_to(disks):
            data = path.read_bytes()
            found += [path for password in passwords if password.encode() in data]
    return found


def without_kcs(rack: Rack, pcap: Path) -> Path:
    """What a listener on the network hears: here KCS, a bus inside of real machines, is a TCP connection on it."""
    wire = pcap.with_suffix(".wire.pcap")
    done = rack.exec("lab", ["tcpdump", "-r", str(pcap), "-w", str(wire), "not", "tcp", "port", str(KCS_PORT)])
    assert done.returncode == 0, done.stderr
    pcap.unlink()
    return wire


def test_an_account_of_its_own_and_no_other_one_touched(rack_factory: RackFactory) -> None:
    rack = rack_factory(mode=Mode.FULL, machines=(MACHINE,))
    rack.up()
    (spec,) = rack.machines
    if spec.bmc is not BmcKind.IPMI:
        pytest.skip("the rack could not make an IPMI BMC: see tools/packages.txt")
    name, bmc = spec.name, rack.bmc(spec.name)
    with rack.capture("account") as pcap:
        rack.power_on(name)
        rack.wait_for_machine(name, 480)
        # The agent has told where the BMC is; nobody has told a password.
        (row,) = rack.call("GET", "/api/v1/bmcs")["bmcs"]
        assert (row["address"], row["machine"], row["has_password"]) == (bmc.address, name, False)
        before = ipmitool(rack, bmc.user, bmc.password, "user", "list", "1").splitlines()
        state = rotated(rack, name)
        assert state["account"]["privilege"] == "operator" and state["account"]["channel"] == 1, state
        user, first = stored(rack.directory / "data")

        # From outside it works, for metalbox and for others; the operator's account is what it was.
        assert "is on" in ipmitool(rack, user, first, "-L", "OPERATOR", "power", "status")
        assert rack.call("GET", f"/api/v1/machines/{name}/power", {"refresh": 1})["state"] == "on"
        assert "is on" in ipmitool(rack, bmc.user, bmc.password, "power", "status")
        after = ipmitool(rack, bmc.user, bmc.password, "user", "list", "1").splitlines()
        own = f"{state['account']['id']} "
        assert [line for line in after if not line.startswith(own)] == [
            line for line in before if not line.startswith(own)
        ]
        assert [line.split()[1] for line in after if line.startswith(own)] == [user]

        rack.kill_service()
        rack.start_service()
        assert rotated(rack, name)["account"]["id"] == state["account"]["id"]
    again, second = stored(rack.directory / "data")
    assert (again, second != first) == (user, True)
    assert "is on" in ipmitool(rack, user, second, "-L", "OPERATOR", "power", "status")
    assert "is on" in ipmitool(rack, bmc.user, bmc.password, "power", "status")

    texts = [entry["text"] for entry in rack.events(name)]
    assert any(text.startswith("the agent made the account 'metalbox' (id 3, operator, channel 1)") for text in texts)
    assert any(text.startswith("the agent gave a new password to the account 'metalbox'") for text in texts)
    # It is in the vault and in the BMC, and was nowhere else: not on the wire, in a log, an answer or on the console.
    answers = [rack.call("GET", f"/api/v1/machines/{name}"), rack.call("GET", "/api/v1/bmcs"), rack.why(name), texts]
    for password in (first, second):
        assert password not in f"{answers} {rack.service_log()} {rack.console(name, whole=True)}"
    wire = without_kcs(rack, pcap)
    assert wire.stat().st_size > 1_000_000 and holders(rack, [first, second]) == []
    assert list(rack.directory.rglob("core*")) == []
