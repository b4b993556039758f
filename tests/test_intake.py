"""Reports that come together: one transaction for many, and none fails for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from metalbox import intake, inventory
from metalbox.errors import InvalidReport, InvalidValue, MetalboxError
from metalbox.intake import Intake
from metalbox.inventory import Reported
from metalbox.journal import Journal, Kind
from metalbox.lab import pxeclient
from metalbox.machine import Mac
from metalbox.report import Report
from metalbox.store import Database, Store, sqlite_url

NOW = 1_800_000_000.0


@dataclass
class Stack:
    """A database whose commits are counted, and an intake that refuses the serial numbers in `refused`."""

    database: Database
    journal: Journal
    commits: int = 0
    refused: set[str] = field(default_factory=set)
    stored: list[str] = field(default_factory=list)

    def store_report(self, store: Store, report: Report, address: str, now: float) -> Reported:
        serial = report.hardware.system.serial
        reported = inventory.report(store, report, address, now)
        if serial in self.refused:
            raise MetalboxError(f"{serial} is refused")
        self.stored.append(serial)
        return reported

    async def names(self) -> list[str]:
        return sorted((await self.database.run(lambda store: store.machines.names())).values())


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    store = Store.open(sqlite_url(tmp_path / "m.db"))
    database = Database(store)
    found = Stack(database, Journal(database))

    def count(*_: Any) -> None:
        found.commits += 1

    sa.event.listen(store.connection.engine, "commit", count)
    yield found
    await database.close()


def body(number: int, **change: Any) -> bytes:
    return json.dumps({**pxeclient.report(number, "198.18.1.1"), **change}).encode()


async def test_a_crowd_is_stored_by_few_commits(stack: Stack) -> None:
    reports = Intake(stack.database, stack.journal, stack.store_report)
    taken = await asyncio.gather(*(reports.take(body(number), f"198.18.1.{number}", NOW) for number in range(20)))
    assert [reported.machine.serial for _, reported in taken] == [pxeclient.serial_of(number) for number in range(20)]
    assert [reported.machine.address for _, reported in taken] == [f"198.18.1.{number}" for number in range(20)]
    # 8, 8 and 4.
    assert stack.commits == 3
    assert len(await stack.names()) == 20


async def test_one_that_is_wrong_fails_alone(stack: Stack) -> None:
    reports = Intake(stack.database, stack.journal, stack.store_report)
    bodies = [body(0), b"{", body(1, version=9), body(2)]
    found = await asyncio.gather(*(reports.take(each, "", NOW) for each in bodies), return_exceptions=True)
    assert [type(each) for each in found] == [tuple, InvalidValue, InvalidReport, tuple]
    assert await stack.names() == ["storm000000", "storm000002"]


async def test_a_fault_of_our_own_in_checking_one_keeps_nobody_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: bytes) -> Any:
        return 1 // 0 if data == b"odd" else json.loads(data)

    monkeypatch.setattr(intake, "read_json", read)
    reports = Intake(stack.database, stack.journal, stack.store_report)
    found = await asyncio.gather(*(reports.take(each, "", NOW) for each in (b"odd", body(1))), return_exceptions=True)
    assert isinstance(found[0], ZeroDivisionError)
    assert await stack.names() == ["storm000001"]


async def test_one_that_cannot_be_stored_takes_nobody_with_it(stack: Stack) -> None:
    stack.refused = {pxeclient.serial_of(2)}
    reports = Intake(stack.database, stack.journal, stack.store_report)
    found = await asyncio.gather(*(reports.take(body(n), "", NOW) for n in range(4)), return_exceptions=True)
    assert [str(each) if isinstance(each, MetalboxError) else "" for each in found] == [
        "",
        "",
        "STORM000002 is refused",
        "",
    ]
    assert await stack.names() == ["storm000000", "storm000001", "storm000003"]
    assert [report.hardware.system.serial for each in found if isinstance(each, tuple) for report in each[:1]] == [
        "STORM000000", "STORM000001", "STORM000003",
    ]  # fmt: skip


async def test_the_lines_of_the_boot_are_on_disk_before_the_report_looks_back(stack: Stack) -> None:
    seen: list[int] = []

    def store_report(store: Store, report: Report, address: str, now: float) -> Reported:
        seen.append(len(store.events.all(10)))
        return inventory.report(store, report, address, now)

    stack.journal.record(Kind.DHCP, "asked", now=NOW, mac=Mac.from_bytes(pxeclient.mac_of(1)))
    await Intake(stack.database, stack.journal, store_report).take(body(1), "", NOW)
    assert seen == [1]


async def test_who_has_gone_is_stored_nevertheless(stack: Stack) -> None:
    reports = Intake(stack.database, stack.journal, stack.store_report)
    gone = asyncio.create_task(reports.take(body(1), "", NOW))
    await asyncio.sleep(0)
    gone.cancel()
    await reports.take(body(2), "", NOW)
    assert gone.cancelled()
    assert await stack.names() == ["storm000001", "storm000002"]


async def test_large_reports_are_not_checked_in_one_turn(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    check = intake._check

    def note(bodies: list[bytes]) -> Any:
        sizes.append(len(bodies))
        return check(bodies)

    monkeypatch.setattr(intake, "_check", note)
    monkeypatch.setattr(intake, "BATCH_BYTES", 2 * len(body(0)) + 10)
    reports = Intake(stack.database, stack.journal, stack.store_report)
    await asyncio.gather(*(reports.take(body(number), "", NOW) for number in range(5)))
    assert sizes == [2, 2, 1]
