"""Kea's own load generator, the foreign witness: its command line, and what it prints at the end. Pure."""

from __future__ import annotations

import re

_NUMBER = r"(-?[0-9.]+(?:e[+-]?[0-9]+)?)"
_RATE = re.compile(rf"Rate: {_NUMBER} 4-way exchanges/second")
_SECTION = re.compile(r"\*\*\*Statistics for: ([A-Z-]+)\*\*\*")
_FIELDS = {
    "sent packets": "sent",
    "received packets": "received",
    "drops": "drops",
    "drops ratio": "drops_percent",
    "orphans": "orphans",
    "avg delay": "avg_ms",
    "max delay": "max_ms",
}


def command(server: str, relay: str, rate: int, seconds: int, clients: int) -> list[str]:
    """Open loop as a relay: `rate` new exchanges a second of so many made-up clients, late after a second.

    -u counts addresses given twice; -W waits for what is still under way at the end.
    """
    return [
        "perfdhcp", "-4", "-l", relay, "-r", str(rate), "-R", str(clients), "-p", str(seconds), "-d", "1",
        "-u", "-W", "1000000", server,
    ]  # fmt: skip


def parse(text: str) -> dict[str, float]:
    """`rate` in exchanges a second, and `request_drops` and the like of both halves of an exchange.

    Raises ValueError when no rate is in it.
    """
    rate = _RATE.search(text)
    if rate is None:
        raise ValueError(f"perfdhcp told no rate: {text.strip()[-200:]!r}")
    found = {"rate": float(rate[1])}
    section = ""
    for line in text.splitlines():
        if header := _SECTION.search(line):
            section = {"DISCOVER-OFFER": "discover", "REQUEST-ACK": "request"}.get(header[1], "")
            continue
        name, colon, value = line.partition(":")
        key = _FIELDS.get(name.strip())
        if section and colon and key and (numeric := re.match(_NUMBER, value.strip())):
            found[f"{section}_{key}"] = float(numeric[1])
    return found


def lost_percent(found: dict[str, float]) -> float:
    """Of all exchanges begun, those that did not end with an ACK."""
    begun = found.get("discover_sent", 0.0)
    if not begun:
        return 100.0
    return 100.0 * (1 - found.get("request_received", 0.0) / begun)
