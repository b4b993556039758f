"""`metalbox list`, `show` and `report`: the inventory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metalbox.cli import client, output
from metalbox.labels import shown

Row = Mapping[str, Any]

# What the table of `list` is made of: a third of what there is.
SHOWN = "name,state,vendor,product,serial,address,conflict,memory_bytes,disks,disk_bytes,last_seen,mode,held,fault"
SHOWN_WIDE = f"{SHOWN},owner,labels"


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = verbs.add_parser("list", help="the machines in the inventory")
    parser.add_argument(
        "query", nargs="?", default="", help="only machines with this text in name, serial, product, MAC"
    )
    parser.add_argument("--state", default="", help="only machines in this state")
    parser.add_argument(
        "-l", "--selector", default="", metavar="LABELS", help="only machines with these labels: rack=r1,role!=db"
    )
    parser.add_argument("-w", "--wide", action="store_true", help="with owner and labels")
    client.add_arguments(parser)
    parser.set_defaults(run=run_list)

    parser = verbs.add_parser("show", help="everything known of one machine")
    parser.add_argument("name", help="name, id, MAC, UUID or serial")
    client.add_arguments(parser)
    parser.set_defaults(run=run_show)

    parser = verbs.add_parser("report", help="ask a machine's agent to look at the hardware again")
    parser.add_argument("name", help="name, id, MAC, UUID or serial")
    client.add_arguments(parser, output=False)
    parser.set_defaults(run=run_report)


def run_list(args: argparse.Namespace) -> int:
    """Print one line for each machine; below, those seen on the wire that have not reported."""
    asked = {"state": args.state, "q": args.query, "selector": args.selector}
    query = {key: value for key, value in asked.items() if value}
    shown_only = {"fields": SHOWN_WIDE if args.wide else SHOWN} if args.output == "table" else {}
    answer = client.call(args.socket, "GET", "/api/v1/machines", {**query, **shown_only})
    if output.emit(answer, args.output):
        return 0
    now = time.time()
    rows = [
        (
            machine["name"],
            _state(machine),
            machine["mode"] or "-",
            f"{machine['vendor']} {machine['product']}".strip() or "-",
            machine["serial"] or "-",
            machine["address"] or "-",
            output.size(machine["memory_bytes"]),
            f"{machine['disks']} ({output.size(machine['disk_bytes'])})" if machine["disks"] else "none",
            output.ago(machine["last_seen"], now),
            *((machine["owner"] or "-", shown(machine["labels"]) or "-") if args.wide else ()),
        )
        for machine in answer["machines"]
    ]
    if rows:
        head: tuple[str, ...] = ("NAME", "STATE", "FIRMWARE", "MODEL", "SERIAL", "ADDRESS", "MEMORY", "DISKS", "SEEN")
        head += ("OWNER", "LABELS") if args.wide else ()
        print(output.table(head, rows))
    elif query:
        print("no machine is like that: `metalbox list` shows all")
    else:
        print("no machines yet: switch one on that boots from the network, or try `metalbox lab up`")
    for stranger in answer.get("strangers", []):
        print(f"seen, not in the inventory: {stranger['mac']} {output.ago(stranger['last_seen'])}: {stranger['text']}")
    if answer.get("strangers"):
        print("ask `metalbox why MAC` what holds them up")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print all of one machine."""
    answer = client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(args.name)}")
    if not output.emit(answer, args.output):
        print("\n".join(output.printable(row).rstrip() for row in render(answer)))
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Put the order and say so."""
    answer = client.call(args.socket, "POST", f"/api/v1/machines/{client.segment(args.name)}/report", body={})
    print(f"order {answer['order']}: the agent will report again; see `metalbox events {args.name}`")
    return 0


def render(machine: Row) -> Iterator[str]:
    """The lines of `show`."""
    hardware = machine["hardware"]
    system, firmware = hardware["system"], hardware["firmware"]
    yield f"{machine['name']}  {machine['state']}"
    if machine["conflict"]:
        yield f"  CONFLICT    {machine['conflict']}"
    if fault := machine.get("fault"):
        yield f"  FAULT       {fault['text']} ({fault['code']}, {output.ago(fault['at'])})"
        yield from _section("", list(fault["evidence"]))
    if machine.get("held"):
        yield f"  HELD        {machine['held']}"
    yield from _facts(
        ("model", _join(system["vendor"], system["product"], system["version"])),
        ("serial", system["serial"]),
        ("uuid", system["uuid"]),
        ("asset tag", system["asset_tag"]),
        ("chassis", _join(system["chassis_type"], system["chassis_serial"])),
        ("board", _join(system["board_vendor"], system["board_product"], system["board_serial"])),
        ("firmware", _firmware(firmware)),
        ("location", machine["location"]),
        ("labels", shown(machine["labels"])),
        ("owner", machine["owner"]),
        ("note", machine["note"]),
        ("address", machine["address"]),
        ("seen", f"{output.ago(machine['last_seen'])}, first {output.clock(machine['first_seen'])}"),
    )
    yield from _cpus(hardware)
    yield from _section("memory", _dimms(hardware))
    yield from _section("disks", _disks(hardware["disks"], machine.get("facts", {}).get("keep", ())))
    yield from _section("nics", _nics(hardware["nics"]))
    gpus = [pci for pci in hardware["pci"] if pci["class_code"][:2] in ("03", "12")]
    yield from _section("gpus", [_pci(pci) for pci in gpus])
    if hardware["bmc"]:
        yield from _facts(("bmc", _bmc(hardware["bmc"])))
    yield f"  pci         {len(hardware['pci'])} functions (-o json lists them)"


def _state(machine: Row) -> str:
    """The state, and what stands in its way."""
    fault = machine.get("fault")
    if not (fault or machine["conflict"] or machine.get("held")):
        return str(machine["state"])
    notes = (
        "CONFLICT" if machine["conflict"] else "",
        f"FAULT {fault['code']}" if fault else "",
        "HELD" if machine.get("held") else "",
    )
    return _join(machine["state"], *notes)


def _facts(*rows: tuple[str, str]) -> Iterator[str]:
    return (f"  {label:<11} {value}" for label, value in rows if value)


def _join(*texts: str) -> str:
    return " ".join(text for text in texts if text)


def _section(label: str, rows: list[str]) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield f"  {label if index == 0 else '':<11} {row}"


def _firmware(firmware: Row) -> str:
    secure = {True: "Secure Boot on", False: "Secure Boot off", None: ""}[firmware["secure_boot"]]
    tpm = f"TPM {firmware['tpm']}" if firmware["tpm"] else "no TPM"
    name = _join(firmware["vendor"], firmware["version"], firmware["date"])
    return ", ".join(filter(None, (firmware["mode"].upper(), name, secure, tpm)))


def _cpus(hardware: Row) -> Iterator[str]:
    rows = []
    for cpu in hardware["cpus"]:
        cores = f"{cpu['cores'] or '?'} cores, {cpu['threads'] or '?'} threads"
        speed = f", {cpu['mhz']} MHz" if cpu["mhz"] else ""
        rows.append(f"{_join(cpu['socket'] and cpu['socket'] + ':', cpu['model'] or cpu['vendor'])} ({cores}{speed})")
    return _section("cpus", rows)


def _dimms(hardware: Row) -> list[str]:
    rows = [output.size(hardware["memory_bytes"]) + " in all"]
    for dimm in hardware["dimms"]:
        speed = f"{dimm['speed_mts']} MT/s" if dimm["speed_mts"] else ""
        parts = (dimm["locator"] + ":", output.size(dimm["size_bytes"]), dimm["type"], speed)
        rows.append(_join(*parts, dimm["manufacturer"], dimm["part_number"], dimm["serial"]))
    return rows


def _disks(disks: list[Row], kept: Sequence[str]) -> list[str]:
    cells = []
    for disk in disks:
        kind = {True: "spinning", False: "solid", None: ""}[disk["rotational"]]
        health = disk["health"]
        worn = f"{health['wear_percent']}% worn" if health["wear_percent"] is not None else ""
        flags = [word for word, on in (("removable", disk["removable"]), ("read-only", disk["read_only"])) if on]
        is_kept = any(mark and mark in kept for mark in (disk["serial"], disk["wwn"]))
        told = _abilities(disk.get("erasing"))
        notes = ", ".join(filter(None, ("KEPT" if is_kept else "", kind, health["status"], worn, *flags, *told)))
        serial = disk["serial"] or disk["wwn"] or "no serial"
        cells.append((disk["name"], output.size(disk["size_bytes"]), disk["transport"], disk["model"], serial, notes))
    return _columns(cells)


def _abilities(told: Row | None) -> list[str]:
    """What a disk says that it can do about its data, and what is in the way of that."""
    if told is None:
        return []
    sanitize = [*told["nvme_sanitize"], *told["ata_sanitize"], *told["scsi_sanitize"]]
    secure = told["ata_security"] and ("enhanced secure erase" if told["ata_enhanced"] else "secure erase")
    found = [
        f"sanitize {'/'.join(sanitize)}" if sanitize else "",
        f"format {'/'.join(told['nvme_format'])}" if told["nvme_format"] else "",
        secure,
        "discard with zeroes" if told["discard_zeroes"] else "",
        "WRITE PROTECTED" if told["write_protected"] else "",
        "LOCKED" if told["ata_locked"] else "",
        "frozen" if told["ata_frozen"] else "",
        f"sanitize {told['sanitizing']}" if told["sanitizing"] else "",
        "virtual media" if told["virtual_media"] else "",
        "several paths" if told["multipath"] else "",
        f"used by {', '.join(told['holders'])}" if told["holders"] else "",
    ]
    return [text for text in found if text]


def _nics(nics: list[Row]) -> list[str]:
    cells = []
    for nic in nics:
        speed = f" {nic['speed_mbps']} Mbit/s" if nic["speed_mbps"] else ""
        link = {True: "up" + speed, False: "no link", None: ""}[nic["link"]]
        lldp = nic["lldp"] or {}
        switch = f"-> {lldp['system_name'] or lldp['chassis_id']} {lldp['port_id']}" if lldp else ""
        cells.append((nic["name"], nic["mac"], nic["driver"], link, nic["pci_address"], switch))
    return _columns(cells)


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    if not cells:
        return ["none"]
    head, *rows = cells
    return output.table(head, rows).split("\n")


def _pci(pci: Row) -> str:
    name = _join(pci["vendor"], pci["device"]) or f"{pci['vendor_id']}:{pci['device_id']}"
    return _join(pci["address"], name, pci["driver"] and f"({pci['driver']})")


def _bmc(bmc: Row) -> str:
    channel = f"channel {bmc['channel']}" if bmc["channel"] is not None else ""
    firmware = f"firmware {bmc['firmware']}" if bmc["firmware"] else ""
    return ", ".join(filter(None, (bmc["address"], bmc["mac"], channel, bmc["vendor"], firmware)))
