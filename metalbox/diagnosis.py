"""`why`: from a machine's timeline to what it does, whom we wait for, since when, the likely cause, what to do. PURE.

Each rule is one function that looks at the newest boot and returns a Diagnosis or None; the first that speaks wins.
They stand in RULES from the most certain to the least, and a machine that is still in time is never called stuck.
What its power and its BMC have to do with it is said by `metalbox.bmcdiagnosis`, what its state by `lifediagnosis`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metalbox.bmcdiagnosis import with_power
from metalbox.evidence import (
    NOT_SERVED,
    Diagnosis,
    Facts,
    Rival,
    View,
    clock,
    evidence_of,
    look,
    messages,
    newest_offer,
    rival_lines,
    was_sent,
)
from metalbox.identity import ALIVE_SECONDS
from metalbox.lifediagnosis import with_life
from metalbox.machine import Machine
from metalbox.sitedhcp import site_dhcp_lines
from metalbox.timeline import Entry, Kind

__all__ = ["Diagnosis", "Facts", "Rival", "site_dhcp_lines", "why"]

# Firmware asks for its file within a second of the answer; EDK2 tries the PXE port for 10 s, then the next device.
TFTP_SECONDS = 10.0
PXE_PORT_SECONDS = 10.0
# After an offer, EDK2 waits up to 8 s for better ones, and asks again for half a minute.
REQUEST_SECONDS = 30.0
# iPXE loads the first script at once; it retries TCP for about 13 s.
HTTP_SECONDS = 15.0
# From the last byte of the loader to its first packet: a slow NIC needs 30 s until its link is up (spanning tree).
LOADER_SECONDS = 60.0
# From the script to the kernel, and from the kernel to the initramfs; EDK2's TCP stalls for seconds.
FILE_SECONDS = 30.0
# In the line for big files; a rack of images at 1 Gbit/s takes longer than a file.
TURN_SECONDS = 900.0
# From the initramfs to the agent's first word. Kernel and drivers take 5 to 20 s, slow disk controllers 40 s.
AGENT_SECONDS = 60.0
# From the agent's first word to its report: 420 disks and a BMC that thinks were read in 70 s.
REPORT_SECONDS = 180.0


def why(machine: Machine | None, entries: Sequence[Entry], facts: Facts | None, now: float) -> Diagnosis:
    """Explain a machine (or, without one, a stranger) from its timeline, oldest line first."""
    view = look(machine, entries, facts or Facts(), now)
    told = (found for rule in RULES if (found := rule(view)) is not None)
    return with_life(view, with_power(view, next(told, None) or _never_seen(view)))


def _conflict(view: View) -> Diagnosis | None:
    machine = view.machine
    if machine is None or not machine.conflict:
        return None
    told = [entry for entry in view.entries if entry.kind is Kind.CONFLICT]
    return Diagnosis(
        "duplicate-uuid",
        f"in state {machine.state}, in conflict",
        "you, to give one of the machines another UUID",
        told[-1].at if told else machine.last_seen,
        f"{machine.conflict}: some boards are shipped with one UUID for all, and orders could reach the wrong box",
        evidence_of(told[-3:]),
        (
            "set another system UUID with the vendor's tool (AMI: amidewin /SU auto; Supermicro: IPMICFG or AMIDELNX;"
            " QEMU: -uuid), then boot the machine again: its next report ends the conflict",
            "or take the other machine away: one that is not heard of for a day no longer counts",
        ),
    )


def _agent(view: View) -> Diagnosis | None:
    """The agent spoke after everything else that the boot did."""
    steps = [entry.last_at for entry in view.boot if entry.kind is not Kind.AGENT]
    spoke = view.contact.last_at if view.contact else 0.0
    if view.machine is not None:
        spoke = max(spoke, view.machine.last_seen)
    if not spoke or spoke < max(steps, default=0.0):
        return None
    contact = view.contact
    if contact is not None and contact.data.get("what") == "hello":
        if not view.is_overdue(contact.last_at, REPORT_SECONDS):
            return view.booting("the agent looks at the hardware", "the agent's report", contact.last_at)
        return _report_missing(view, contact)
    if not view.is_overdue(spoke, ALIVE_SECONDS):
        state = view.machine.state if view.machine else "unknown"
        evidence = evidence_of([contact] if contact else [])
        return Diagnosis(
            "idle", f"in state {state}, its agent holds on", "nobody: it takes orders", spoke, "", evidence
        )
    return _gone(view, spoke)


def _report_missing(view: View, hello: Entry) -> Diagnosis:
    logs = [entry for entry in view.entries if entry.kind is Kind.LOG and entry.last_at >= hello.at]
    return Diagnosis(
        "report-missing",
        "the agent runs and has not reported",
        "the agent's report",
        hello.last_at,
        "a disk or the BMC does not answer the agent's questions, or the report was refused",
        evidence_of([hello], logs[-5:]),
        ("look at the serial console and at `metalbox events`: the agent says there what it is reading",),
    )


def _gone(view: View, spoke: float) -> Diagnosis:
    contact = view.contact
    system = [e for e in view.entries if e.kind is Kind.DHCP and e.data.get("client") == "os" and e.last_at > spoke]
    if system:
        return Diagnosis(
            "system-running",
            "it has left the agent and started an operating system",
            "nobody",
            system[-1].last_at,
            "an operating system asked for an address",
            evidence_of([contact] if contact else [], system[-1:]),
        )
    return Diagnosis(
        "agent-gone",
        "its agent is gone",
        "the machine, to boot from the network again",
        spoke,
        "it was switched off, crashed, lost its network, or boots something else",
        evidence_of([contact] if contact else [], more=[f"{clock(spoke)}: the agent was heard of for the last time"]),
        ("look at its power and console; when it boots from the network again, it will be here at once",),
    )


def _ignored(view: View) -> tuple[Entry, str] | None:
    """The newest question of this machine, if it got no answer from us, and the reason."""
    asked = [entry for entry in view.entries if entry.kind is Kind.DHCP and entry.data.get("client") != "bmc"]
    newest = max(asked, key=lambda entry: entry.last_at, default=None)
    if newest is None or {"OFFER", "ACK"} & set(messages(newest)):
        return None
    return newest, str(newest.data.get("ignored", ""))


def _pool_exhausted(view: View) -> Diagnosis | None:
    found = _ignored(view)
    if found is None or found[1] != "pool exhausted":
        return None
    return Diagnosis(
        "pool-exhausted",
        "asking for an address",
        "us: there is no free address to give",
        found[0].at,
        "the pool of its subnet is exhausted",
        evidence_of([found[0]]),
        (
            "`metalbox leases` shows who has the addresses",
            "make `pools` of the subnet larger, or `lease_seconds` shorter, in the configuration, and restart",
        ),
    )


def _not_served(view: View) -> Diagnosis | None:
    found = _ignored(view)
    if found is None or found[1] not in NOT_SERVED or found[0] not in view.boot:
        return None
    cause, advice = NOT_SERVED[found[1]]
    evidence = evidence_of([found[0]], more=rival_lines(view.rivals))
    doing, waiting_for = "asking for what to boot", "us: we do not answer it"
    return Diagnosis("not-served", doing, waiting_for, found[0].at, cause, evidence, (advice,))


def _system(view: View) -> Diagnosis | None:
    """iPXE has loaded our script: what became of kernel, initramfs and agent?"""
    kernels, initrds = view.files("kernel"), view.files("initrd")
    if kernels and initrds:
        loaded = max(kernels[-1].last_at, initrds[-1].last_at)
        if not view.is_overdue(loaded, AGENT_SECONDS):
            return view.booting("it starts the agent's kernel", "the agent's first word", loaded)
        return _agent_silent(view, loaded, kernels[-1:] + initrds[-1:])
    scripts = view.files("script", "first script")
    if not scripts:
        return None
    decision = next((entry for entry in reversed(view.boot) if entry.kind is Kind.DECISION), None)
    asked = max([scripts[-1].last_at, *(entry.last_at for entry in view.http)])
    if decision is not None and decision.data.get("target") in ("disk", "nothing"):
        return Diagnosis(
            "local-boot",
            f"it was told to boot {decision.data['target']} by us",
            "nobody",
            decision.last_at,
            str(decision.data.get("reason", "")),
            evidence_of([decision]),
        )
    newest = max(view.http, key=lambda entry: entry.last_at, default=scripts[-1])
    if newest.data.get("outcome") == "waiting" and not view.is_overdue(newest.last_at, TURN_SECONDS):
        return view.booting("it waits for its turn to load its files", "the machines before it", newest.at)
    if not view.is_overdue(asked, FILE_SECONDS):
        return view.booting("iPXE loads its files", "iPXE", asked)
    return _files_missing(view, scripts[-1], decision)


def _agent_silent(view: View, loaded: float, files: list[Entry]) -> Diagnosis:
    return Diagnosis(
        "agent-silent",
        "it was given the agent's kernel and initramfs, and nothing was heard since",
        "the agent's first word",
        loaded,
        "the kernel did not start, has no driver for the network card, or the agent cannot reach us"
        f" (TCP port {view.facts.http_port})",
        evidence_of(files),
        (
            "look at the machine's console (serial, 115200): the agent's first line there is `metalbox: init`",
            "nothing at all on it: add the machine's own console to boot.kernel_arguments",
            "`no network`: its driver is not in the agent, or the port needs a VLAN tag: set boot.vlan",
            f"it has an address and goes on trying: open TCP port {view.facts.http_port} to {view.server} for the"
            " addresses that the site's DHCP server gives to the agent",
        ),
    )


def _files_missing(view: View, script: Entry, decision: Entry | None) -> Diagnosis:
    broken = [e for e in view.http if e.data.get("role") in ("kernel", "initrd") and not was_sent(e)]
    missing = [entry for entry in broken if entry.data.get("outcome") == "not found"]
    if missing:
        cause = "the agent's files are not in the folder boot.agent"
        advice = "`metalbox agent build`"
    elif broken:
        cause = "the transfer was broken off: cable, switch port, or a machine with too little memory for the initramfs"
        advice = (
            "look at the machine's console for iPXE's error (https://ipxe.org/err/...); the agent needs 1 GiB of memory"
        )
    else:
        cause = "iPXE loaded the script and stopped: it showed an error, or someone pressed a key"
        advice = "look at the machine's console for iPXE's error (https://ipxe.org/err/...)"
    evidence = evidence_of([script], [decision] if decision else [], broken)
    return Diagnosis(
        "files-missing", "iPXE does not load its files", "iPXE", script.last_at, cause, evidence, (advice,)
    )


def _loader(view: View) -> Diagnosis | None:
    """iPXE asks for its address, and should then ask us by HTTP."""
    first = next((entry for entry in view.ipxe if {"OFFER", "ACK"} & set(messages(entry))), None)
    if first is None:
        return None
    if not view.is_overdue(first.last_at, HTTP_SECONDS):
        return view.booting("iPXE starts", "iPXE, to ask us by HTTP", first.last_at)
    if not any({"REQUEST", "ACK"} & set(messages(entry)) for entry in view.ipxe):
        return _no_address(view, view.ipxe)
    return _http_blocked(view, view.ipxe, "iPXE has its address and does not ask for its script")


def _http_blocked(view: View, evidence: Sequence[Entry], doing: str) -> Diagnosis:
    port = view.facts.http_port
    more = [f"not one HTTP request came from it since {clock(evidence[0].last_at)}"]
    return Diagnosis(
        "http-blocked",
        doing,
        f"its HTTP request to {view.server}:{port}",
        evidence[0].at,
        f"TCP port {port} of {view.server} cannot be reached from the machine's network",
        evidence_of(evidence, more=more),
        (
            f"try from that network: curl -v http://{view.server}:{port}/ipxe/first.ipxe",
            f"open TCP port {port} on this host: nft add rule inet filter input tcp dport {port} accept",
            "and in the firewall between the networks, if there is one",
            "`metalbox doctor` tries it from here",
        ),
    )


def _no_address(view: View, asked: Sequence[Entry]) -> Diagnosis:
    who = "our offer" if view.in_full_mode else "an address: we are in proxy mode and give none"
    cause = (
        "the offer does not reach the machine, or it takes another server's"
        if view.in_full_mode
        else "the site's DHCP server gives it no address: it is down, full, or refuses the machine"
    )
    advice = (
        "look for a switch that filters DHCP (DHCP snooping), and for other DHCP servers: `metalbox doctor`"
        if view.in_full_mode
        else "look into the log of the site's DHCP server; if there is none, set `mode: full` and `pools` here"
    )
    more = ["no DHCPREQUEST followed our offer", *rival_lines(view.rivals)]
    return Diagnosis(
        "no-address", "asking for an address", f"the machine, to take {who}", asked[0].at, cause,
        evidence_of(asked, more=more), (advice,),
    )  # fmt: skip


def _loading(view: View) -> Diagnosis | None:
    """The firmware asked by TFTP or HTTP for a boot file."""
    done = [e for e in view.tftp if was_sent(e)] + view.files("boot file")
    if done:
        loaded = max(entry.last_at for entry in done)
        if not view.is_overdue(loaded, LOADER_SECONDS):
            return view.booting("the boot loader starts", "the boot loader, to ask for its address", loaded)
        return Diagnosis(
            "loader-silent",
            "it loaded the boot loader, and nothing was heard since",
            "the boot loader",
            loaded,
            "the boot loader has no driver for this network card, Secure Boot refused it, or the file is damaged",
            evidence_of(done),
            (
                "with Secure Boot on (the screen says `Security Violation`): set boot.uefi_loader to shim",
                "else use another boot loader: ipxe.efi has drivers of its own, snponly.efi uses the firmware's",
            ),
        )
    offered = newest_offer(view.firmware + view.pxe)
    name = str(offered.data["boot_file"]) if offered else ""
    strange = [
        entry
        for entry in view.tftp
        if entry.data.get("outcome") == "not found" and str(entry.data.get("file", "")).lstrip("/") != name
    ]
    if strange:
        return _wrong_boot_file(view, strange, f"it asks for {strange[-1].data.get('file')!r}, which we did not offer")
    failed = [entry for entry in view.tftp if entry.data.get("outcome") != "not found"]
    if failed and view.is_overdue(failed[0].last_at, TFTP_SECONDS):
        return _tftp_blocked(view, failed, "its request reaches us, but our blocks do not reach it, or its answers us")
    if view.tftp and not view.is_overdue(view.tftp[-1].last_at, TFTP_SECONDS):
        return view.booting("the firmware loads the boot loader", "the firmware", view.tftp[-1].last_at)
    return None


def _wrong_boot_file(view: View, evidence: Sequence[Entry], how: str) -> Diagnosis:
    return Diagnosis(
        "wrong-boot-file",
        "the firmware does not load what we offered",
        "the firmware, to ask for our boot file",
        evidence[0].at,
        f"another server's boot file won: {how}",
        evidence_of(evidence, more=rival_lines(view.rivals)),
        (
            "take boot file and next server (options 66 and 67, `filename`, `next-server`, `dhcp-boot`) out of the"
            " site's DHCP server, or let it send machines to us:",
            *site_dhcp_lines(view.server, view.facts.http_port),
        ),
    )


def _tftp_blocked(view: View, evidence: Sequence[Entry], how: str) -> Diagnosis:
    port = view.facts.tftp_port
    return Diagnosis(
        "tftp-blocked",
        "the firmware has our answer and does not get the boot file",
        f"the firmware, to load the boot file by TFTP from {view.server}",
        evidence[0].at,
        f"UDP port {port} of {view.server} is blocked, or TFTP's answers are: {how}",
        evidence_of(evidence, more=rival_lines(view.rivals)),
        (
            f"try from that network: curl -o /dev/null tftp://{view.server}/undionly.kpxe",
            f"open UDP port {port} on this host: nft add rule inet filter input udp dport {port} accept",
            "firewalls between must know TFTP (its answers come from another port): switch their TFTP helper on",
            "or the firmware ignores a proxy's offer: let the site's DHCP server name the boot file:",
            *site_dhcp_lines(view.server, view.facts.http_port),
        ),
    )


def _asking(view: View) -> Diagnosis | None:
    """The firmware has our answer, and should now ask for the PXE port or for the file."""
    answered = [entry for entry in view.firmware if {"OFFER", "ACK"} & set(messages(entry))]
    offered = newest_offer(answered + list(view.pxe))
    if offered is None:
        return _alone(view)
    # A firmware that tries again and again is as stuck as one that has stopped: the first try counts.
    first = min((entry for entry in (*answered, *view.pxe) if entry.data.get("boot_file")), key=lambda e: e.last_at)
    by_http = offered.data.get("client") == "http"
    went_on = bool(view.pxe) or any("REQUEST" in messages(entry) for entry in view.firmware)
    patience = (HTTP_SECONDS if by_http else TFTP_SECONDS) if went_on else REQUEST_SECONDS
    file = str(offered.data["boot_file"])
    proxies = [rival for rival in view.rivals if rival.is_proxy]
    if not view.is_overdue(first.last_at, TFTP_SECONDS if proxies else patience):
        return view.booting("the firmware has our answer", f"the firmware, to load {file}", first.last_at)
    if proxies:
        return _rival_proxy(view, proxies)
    others = [rival for rival in view.rivals if rival.boot_file]
    if others:
        return _wrong_boot_file(view, answered, f"it is {others[0].boot_file!r} of {others[0].server}")
    if not went_on:
        return _no_address(view, answered)
    chosen = [e for e in view.firmware if e.data.get("server_id") not in (None, "", view.facts.server_address)]
    if view.in_full_mode and chosen and view.facts.server_address:
        return _rival_dhcp(view, chosen)
    if by_http:
        return _http_blocked(view, answered, "the firmware has our URL and does not ask for it")
    if _wants_pxe_port(view, offered) and not view.pxe:
        return _pxe_port_silent(view, answered)
    return _tftp_blocked(view, [*answered, *view.pxe], f"no TFTP request followed within {TFTP_SECONDS:.0f} s")


def _wants_pxe_port(view: View, offered: Entry) -> bool:
    """A proxy's offer to UEFI in the BINL form sends the firmware to port 4011; BIOS is told to skip it."""
    return (
        offered.data.get("client") == "uefi" and offered.data.get("mode") == "proxy" and view.facts.uefi_offer == "binl"
    )


def _pxe_port_silent(view: View, answered: Sequence[Entry]) -> Diagnosis:
    return Diagnosis(
        "pxe-port-silent",
        "the firmware took an address and does not go on",
        f"its request to the PXE port, UDP 4011 of {view.server}",
        answered[0].at,
        f"UDP port 4011 of {view.server} is blocked, or the firmware cannot route to it",
        evidence_of(answered, more=["no request on port 4011 followed our offer", *rival_lines(view.rivals)]),
        (
            "open UDP port 4011 on this host: nft add rule inet filter input udp dport 4011 accept",
            "and in the firewall between the networks; the firmware sends to it from port 4011 with its new address",
            "or do without it: set `uefi_offer: pxe10` for this subnet",
            "or let the site's DHCP server name the boot file:",
            *site_dhcp_lines(view.server, view.facts.http_port),
        ),
    )


def _rival_proxy(view: View, proxies: Sequence[Rival]) -> Diagnosis:
    names = " and ".join(rival.server for rival in proxies)
    return Diagnosis(
        "rival-proxy",
        "the firmware has two proxyDHCP offers and did not take ours",
        "the firmware, to ask for our boot file",
        view.firmware[0].at,
        f"a second proxyDHCP server answers: {names}; firmware takes the first, or any",
        evidence_of(view.firmware, more=rival_lines(proxies)),
        (
            f"switch PXE off on {names}, or keep it away from this network",
            "(WDS/SCCM: the PXE provider; FOG, MAAS, Foreman, dnsmasq `dhcp-range=...,proxy`: their proxy mode)",
            "or set `mode: off` for this subnet here",
        ),
    )


def _rival_dhcp(view: View, chosen: Sequence[Entry]) -> Diagnosis:
    server = str(chosen[-1].data["server_id"])
    return Diagnosis(
        "rival-dhcp",
        "the firmware took another server's address",
        "the firmware, to take our offer",
        chosen[0].at,
        f"another DHCP server, {server}, gives addresses on this network, and was chosen",
        evidence_of(chosen, more=rival_lines(view.rivals)),
        (
            f"switch the DHCP server {server} off on this network, or set `mode: proxy` for the subnet here:"
            " then it gives the addresses and we the boot files",
        ),
    )


def _alone(view: View) -> Diagnosis | None:
    """A boot began (power, a packet), and there is nothing of ours in it yet."""
    if not view.boot:
        return None
    newest = max(view.boot, key=lambda entry: entry.last_at)
    if not view.is_overdue(newest.last_at, AGENT_SECONDS * 3):
        return view.booting("it has begun to boot", "the firmware", newest.last_at)
    return Diagnosis(
        "silent",
        "it began to boot, and nothing was heard since",
        "the firmware, to ask the network",
        newest.last_at,
        "the firmware does not boot from this network port, or not by PXE or HTTP",
        evidence_of(view.boot),
        ("look at the boot order in the firmware's setup, and at the cable of the port",),
    )


def _running(view: View) -> Diagnosis | None:
    """No boot is known; an operating system or nothing at all speaks."""
    system = [e for e in view.entries if e.kind is Kind.DHCP and e.data.get("client") == "os"]
    if not system:
        return None
    return Diagnosis(
        "system-running",
        "it runs an operating system, which asked for an address",
        "nobody: it did not boot from the network",
        system[-1].last_at,
        "it boots from its own disk",
        evidence_of(system[-1:]),
        ("to discover it, boot it from the network once",),
    )


def _never_seen(view: View) -> Diagnosis:
    return Diagnosis(
        "not-seen",
        "nothing is known of it",
        "its first packet",
        view.entries[0].at if view.entries else 0.0,
        "it is switched off, does not boot from the network, or its network has no way to us",
        evidence_of(view.entries[-3:]),
        (
            "switch it on, and let it boot from the network (PXE, IPv4)",
            f"behind a router: let the relay there send DHCP to {view.server} too",
            "`metalbox doctor` looks whether we would hear it",
        ),
    )


RULES: tuple[Callable[[View], Diagnosis | None], ...] = (
    _conflict,
    _agent,
    _pool_exhausted,
    _system,
    _loader,
    _loading,
    _not_served,
    _asking,
    _running,
)
