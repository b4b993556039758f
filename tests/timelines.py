"""Hand-written timelines: entries by one short line each. Times are seconds after NOON."""

from __future__ import annotations

import itertools
from typing import Any

from metalbox.machine import Mac
from metalbox.timeline import Entry, Kind

NOON = 1_800_000_000.0
MAC = Mac("52:54:00:00:00:01")
SERVER = "192.0.2.1"
_numbers = itertools.count(1)


def entry(kind: Kind, at: float, text: str = "", *, last: float | None = None, count: int = 1, **data: Any) -> Entry:
    """One line at `at` seconds after noon, growing until `last`."""
    end = NOON + (at if last is None else last)
    words = text or f"{kind} {data}"
    return Entry(next(_numbers), NOON + at, end, count, kind, MAC, None, words, data)


def dhcp(at: float, client: str, *messages: str, last: float | None = None, **data: Any) -> Entry:
    """A DHCP conversation; proxy mode and port 67 unless told otherwise."""
    arch = {"bios": 0, "uefi": 7, "http": 16, "ipxe": 7}.get(client)
    values = {"client": client, "arch": arch, "mode": "proxy", "port": 67, "messages": list(messages)} | data
    return entry(Kind.DHCP, at, f"{client}: {' '.join(messages)}", last=last, count=len(messages), **values)


def tftp(at: float, file: str, outcome: str = "sent", size: int = 70_000, seconds: float = 0.5) -> Entry:
    """A TFTP transfer that ended at `at`."""
    size = size if outcome == "sent" else 0
    return entry(Kind.TFTP, at, f"{outcome} {file}", file=file, bytes=size, seconds=seconds, outcome=outcome)


def http(at: float, role: str, outcome: str = "sent", size: int = 1000, seconds: float = 0.0) -> Entry:
    """An HTTP transfer that ended at `at`."""
    return entry(
        Kind.HTTP, at, f"{outcome} {role}", path=f"/{role}", status=200, bytes=size, seconds=seconds, outcome=outcome,
        role=role,
    )  # fmt: skip


def decision(at: float, target: str = "agent", reason: str = "it is new") -> Entry:
    return entry(Kind.DECISION, at, f"decided: boots {target}", target=target, reason=reason, inputs={})


def agent(at: float, what: str, boot_id: str = "b1", last: float | None = None) -> Entry:
    return entry(Kind.AGENT, at, f"agent: {what}", last=last, what=what, boot_id=boot_id, address="192.0.2.100")


def report(at: float, boot_id: str = "b1") -> Entry:
    return entry(Kind.REPORT, at, "reported", machine="m", summary="", boot_id=boot_id)


def rival(at: float, server: str, boot_file: str = "", is_proxy: bool = False) -> Entry:
    return entry(
        Kind.RIVAL, at, f"{server} offers", server=server, next_server=server, boot_file=boot_file, is_proxy=is_proxy,
        interface="eth0",
    )  # fmt: skip


def bios_boot(start: float = 0.0) -> list[Entry]:
    """A BIOS machine in proxy mode that comes as far as the initramfs at 20 s."""
    return [
        dhcp(
            start,
            "bios",
            "DISCOVER",
            "OFFER",
            "REQUEST",
            "IGNORED",
            last=start + 2,
            boot_file="undionly.kpxe",
            micros=300,
        ),
        tftp(start + 3, "undionly.kpxe"),
        dhcp(
            start + 5,
            "ipxe",
            "DISCOVER",
            "OFFER",
            "REQUEST",
            "IGNORED",
            last=start + 6,
            boot_file="http://192.0.2.1:8080/ipxe/first.ipxe",
        ),
        http(start + 6.5, "first script"),
        decision(start + 7),
        http(start + 7, "script"),
        http(start + 9, "kernel", size=8_000_000, seconds=1.5),
        http(start + 20, "initrd", size=90_000_000, seconds=10.5),
    ]
