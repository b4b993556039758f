"""A rack for a story: `rack_factory(mode=..., machines=[...])` gives one that is not up yet and is always taken down.

A failing story reports what each machine wrote to its console, the service's log and the timeline. Racks of test runs
that were killed are removed at the next run's start.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox.errors import MetalboxError
from metalbox.lab import requirements
from metalbox.lab.rack import Rack, sweep
from metalbox.lab.services import check_files, default_folder

# Short: a unix socket's address holds 107 bytes, and pytest's own folders carry the whole name of the test.
RACKS = Path(tempfile.gettempdir()) / "metalbox-racks"
LINES = 60

# ipmitool's for a BMC that stands still for a while, or is busy with libvirt: 5 s between its tries, and nine of them.
PATIENCE = ("-N", "5", "-R", "8")

_racks: dict[str, list[Rack]] = {}


def folder_of(name: str) -> Path:
    """The folder named by METALBOX_AGENT or METALBOX_BOOT, else var/ of the checkout."""
    value = os.environ.get(f"METALBOX_{name.upper()}")
    return Path(value) if value else default_folder(name)


def finished(rack: Rack, number: int) -> dict[str, Any]:
    """A power order, once it has ended."""

    def look() -> dict[str, Any] | None:
        row: dict[str, Any] = rack.call("GET", f"/api/v1/orders/{number}", {"wait": 10})
        return row if row["finished_at"] else None

    return rack.wait_until(look, 300, f"order {number} to end")


@pytest.fixture(scope="session")
def rack_place() -> Iterator[Path]:
    """Skips, saying why, where no rack can stand; else the folder for racks, without those of killed runs."""
    reason = requirements.reason(
        (
            requirements.ALWAYS,
            requirements.MACHINES,
            requirements.DNSMASQ,
            requirements.RELAY,
            requirements.FAULTS,
        )
    )
    if reason:
        pytest.skip(reason)
    try:
        check_files(folder_of("boot"), folder_of("agent"))
    except MetalboxError as error:
        pytest.skip(f"{error} (or set METALBOX_BOOT and METALBOX_AGENT)")
    RACKS.mkdir(mode=0o700, exist_ok=True)
    sweep(RACKS)
    yield RACKS
    with contextlib.suppress(OSError):  # another run's racks stand there
        RACKS.rmdir()


@pytest.fixture
def rack_factory(request: pytest.FixtureRequest, rack_place: Path) -> Iterator[Callable[..., Rack]]:
    """Makes racks with Rack's own arguments except the folder; takes them down after the story."""
    racks = _racks.setdefault(request.node.nodeid, [])

    def make(**arguments: Any) -> Rack:
        rack_place.mkdir(mode=0o700, exist_ok=True)  # another run that found it empty took it away
        directory = Path(tempfile.mkdtemp(dir=rack_place))
        given = {"boot_files": folder_of("boot"), "agent": folder_of("agent"), "owned": True, **arguments}
        rack = Rack(directory, **given)
        racks.append(rack)
        return rack

    yield make
    for rack in _racks.pop(request.node.nodeid):
        rack.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed story what its racks can tell."""
    report = yield
    if call.when == "call" and report.failed:
        for rack in _racks.get(item.nodeid, ()):
            report.sections += list(evidence(rack))
    return report


def evidence(rack: Rack) -> Iterator[tuple[str, str]]:
    """Title and text of everything worth reading after a failure."""
    for spec in rack.machines:
        text = "\n".join(rack.console(spec.name).splitlines()[-LINES:])
        yield f"console of {spec.name} ({spec.firmware}, {spec.mac})", text
    for log in sorted((rack.directory / "logs").glob("*.log")):
        yield f"end of {log.name}", "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
    try:
        rows = rack.events()
    except MetalboxError as error:
        yield "timeline", str(error)
        return
    yield "timeline", "\n".join(f"{row['at']:.3f} {row['mac']} {row['kind']:<9} {row['text']}" for row in rows)
