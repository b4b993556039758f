"""A certificate in words: sections of labels and values, for the printed page and for the terminal. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalbox.erase.document import Kind, digest

TITLES = {
    Kind.DRIVE: "Certificate of erasure: one drive",
    Kind.MACHINE: "Certificate of erasure: one machine",
    Kind.FAILURE: "Record of a drive that was not proved erased",
}
# What no certificate can say, on each of them.
LIMITS = {
    Kind.DRIVE: "The drive reported success and the samples read back agree with it. What a drive keeps where it lets "
    "nobody read is known only to its maker.",
    Kind.MACHINE: "Holds for the drives that are listed as erased, and for no others. Drives that were not attached, "
    "or that the machine did not show, are not known here.",
    Kind.FAILURE: "This is no certificate. Treat the drive as one that holds all of its data.",
}


@dataclass(frozen=True, slots=True)
class Section:
    """Facts under a heading: pairs of a label and a value; then a table, when `head` is not empty."""

    heading: str
    facts: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def title(document: Mapping[str, Any]) -> str:
    """What the document is."""
    return TITLES[Kind(document["kind"])]


def limits(document: Mapping[str, Any]) -> str:
    """What it does not say."""
    return LIMITS[Kind(document["kind"])]


def sections(document: Mapping[str, Any]) -> list[Section]:
    """All of the document that people read, in the order they ask."""
    kind = Kind(document["kind"])
    found = [_result(document, kind)]
    if kind is Kind.MACHINE:
        found += [_drives(document), _untouched(document)]
    else:
        found.append(_drive(document["drive"]))
    if kind is Kind.DRIVE:
        found.append(_verification(document))
    return [section for section in [*found, _machine(document), _proof(document)] if section.facts or section.rows]


def _facts(*pairs: tuple[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((label, str(value)) for label, value in pairs if value not in (None, "", [], {}))


def _result(document: Mapping[str, Any], kind: Kind) -> Section:
    pairs: list[tuple[str, Any]] = [("Result", document["result"]), ("Asked for", document["level"])]
    if kind is Kind.DRIVE:
        seconds = document["seconds"]
        pairs += [
            ("Standard", document["standard"]),
            ("Method", document["method"]),
            ("Before it", ", ".join(f"{one.get('what')} {one.get('result')}" for one in document["preparations"])),
            ("Drive's own status", document["firmware_status"]),
            ("Begun", document["started_at"]),
            ("Took", None if seconds is None else f"{seconds} s"),
        ]
    if kind is Kind.FAILURE:
        pairs.append(("Because", document["reason"]))
    pairs += [("Ordered by", document["operator"]), ("Issued", document["issued_at"])]
    return Section("Result", _facts(*pairs))


def _drive(drive: Mapping[str, Any]) -> Section:
    return Section(
        "Drive",
        _facts(
            ("Serial number", drive["serial"]),
            ("World Wide Name", drive["wwn"]),
            ("Model", drive["model"]),
            ("Firmware", drive["firmware"]),
            ("Size", f"{drive['size_bytes']} bytes"),
            ("Attached by", drive["transport"]),
            ("Namespaces", ", ".join(f"{one['nsid']} ({one['size_bytes']} bytes)" for one in drive["namespaces"])),
        ),
    )


def _verification(document: Mapping[str, Any]) -> Section:
    told = document["verification"]
    block = told.get("block", 0)  # not told by the first agents
    regions = ", ".join(f"{name} {count}" for name, count in sorted(told["regions"].items()))
    return Section(
        "Verification",
        _facts(
            ("Read back", "the whole drive" if told["full"] else f"{told['samples']} samples"),
            ("Bytes read", told["bytes_read"]),
            ("Regions", regions),
            ("Expected", told["expected"]),
            ("Unchanged blocks", f"{told['unchanged']} (of {block} bytes)" if block else told["unchanged"]),
            ("Seed of positions", told["seed"]),
            ("SHA-256 before", told["before_digest"]),
            ("SHA-256 after", told["after_digest"]),
            ("Verdict", told["result"]),
        ),
    )


def _drives(document: Mapping[str, Any]) -> Section:
    head = ("Certificate", "Serial number", "Model", "Bytes", "Method", "Standard")
    return Section(
        "Drives erased",
        (),
        head,
        _table(document["drives"], "number", "serial", "model", "size_bytes", "method", "standard"),
    )


def _untouched(document: Mapping[str, Any]) -> Section:
    head = ("Serial number", "Model", "Bytes", "Why")
    return Section(
        "Drives left alone", (), head, _table(document["untouched"], "serial", "model", "size_bytes", "reason")
    )


def _table(rows: Sequence[Mapping[str, Any]], *names: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(row[name]) for name in names) for row in rows)


def _machine(document: Mapping[str, Any]) -> Section:
    machine, agent = document["machine"], document["agent"]
    tools = ", ".join(f"{name} {version}" for name, version in sorted(agent["tools"].items()))
    return Section(
        "Machine",
        _facts(
            ("Name", machine["name"]),
            ("Model", f"{machine['vendor']} {machine['product']}".strip()),
            ("Serial number", machine["serial"]),
            ("UUID", machine["uuid"]),
            ("Ports", ", ".join(machine["macs"])),
            (
                "Agent",
                ", ".join(filter(None, (agent["version"], agent["kernel"] and f"Linux {agent['kernel']}", tools))),
            ),
        ),
    )


def _proof(document: Mapping[str, Any]) -> Section:
    signature = document["signature"]
    return Section(
        "Signature",
        _facts(
            ("Number", document["number"]),
            ("Issued by", f"{document['issuer']['product']} {document['issuer']['version']}"),
            ("SHA-256 of the one before", document["previous"]),
            ("SHA-256 of this one", digest(document)),
            ("Key", f"{signature['algorithm']} {signature['key']}"),
            ("Signature", signature["value"]),
        ),
    )


def plain(document: Mapping[str, Any]) -> str:
    """The document as text of any width, without control characters."""
    lines = [f"{title(document)}, number {document['number']}"]
    for section in sections(document):
        lines += ["", section.heading]
        width = max((len(label) for label, _ in section.facts), default=0)
        lines += [f"  {label.ljust(width)}  {value}" for label, value in section.facts]
        if section.rows:
            cells = [section.head, *section.rows]
            widths = [max(len(row[column]) for row in cells) for column in range(len(section.head))]
            lines += [
                "  " + "  ".join(value.ljust(size) for value, size in zip(row, widths, strict=True)).rstrip()
                for row in cells
            ]
    lines += ["", limits(document)]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines) + "\n"
