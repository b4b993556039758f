"""What each kind of trouble with a BMC means, and what a person can do about it, with commands to try. PURE.

The commands ask for the password themselves: none is ever written into one.
"""

from __future__ import annotations

from dataclasses import dataclass

from metalbox.evidence import Bmc

# What vendors call the licence that opens what is closed, by how their names begin.
LICENCES = (
    ("dell", "iDRAC Enterprise (or Datacenter)"),
    ("hpe", "iLO Advanced"),
    ("hewlett", "iLO Advanced"),
    ("super", "SFT-OOB-LIC (or SFT-DCMS-SINGLE)"),
    ("lenovo", "XClarity Controller Enterprise (XCC2: Platinum)"),
    ("fujitsu", "iRMC KVM or eLCM"),
    ("cisco", "an Intersight or IMC licence"),
)
PORTS = {"redfish": 443, "ipmi": 623}


@dataclass(frozen=True, slots=True)
class Cause:
    """What a code means: the predicate of a sentence about the BMC, the likely cause, whom we wait for, what to do."""

    doing: str
    text: str
    waiting_for: str
    advice: tuple[str, ...] = ()


CAUSES: dict[str, Cause] = {
    "unreachable": Cause(
        "cannot be reached",
        "its address has changed, its cable or VLAN is wrong, a firewall is in between, or it has no power",
        "the BMC, to answer",
        (
            "look at the address: `metalbox bmc list`; `metalbox bmc scan NETWORK` finds where it is now",
            "look at the cable of its port and at the VLAN; a BMC on a shared port loses it while the host starts",
        ),
    ),
    "hung": Cause(
        "takes requests and does not answer",
        "its firmware hangs: it needs a restart of its own, which does not touch the machine",
        "the BMC, to answer",
        (
            "restart the BMC: `ipmitool mc reset cold` on the host, its web interface, or the plug",
            "a newer firmware of the BMC often mends it",
        ),
    ),
    "refused": Cause(
        "understands and says no",
        "the account has too few rights, or the machine is in a state in which the BMC does not do that",
        "you, to look at what it says",
        (
            "give the account administrator's rights on the BMC",
            "power off at the plug for 30 s if it refuses everything",
        ),
    ),
    "in-use": Cause(
        "gives its console to somebody else",
        "a BMC has one console, and another program or person holds it",
        "whoever holds it, or you, to take it",
        ("`metalbox console NAME --force` takes it; the other end is told by its BMC, or not at all",),
    ),
    "wrong-password": Cause(
        "does not take our account",
        "the password was changed, the account is locked or lacks the right to log in this way",
        "you, to store the right password",
        (
            "it is not tried again for 15 minutes, so that the account is not locked; a new password is tried at once",
            "the account may be locked for some minutes, or lack `IPMI over LAN` or the role that Redfish wants",
        ),
    ),
    "sessions-full": Cause(
        "has no session left",
        "other programs hold all its sessions: open web interfaces, monitoring that does not log out",
        "the BMC, to end a session",
        (
            "end sessions in its web interface, or wait until they expire (5 to 30 minutes)",
            "restarting the BMC ends them all: `ipmitool mc reset cold` on the host",
        ),
    ),
    "garbage": Cause(
        "answers what cannot be understood",
        "its firmware is broken or too old, or something else than a BMC listens there",
        "you, to look who answers there",
        ("update the BMC's firmware", "look whether the address and port are the BMC's: `metalbox bmc list`"),
    ),
    "bad-tls": Cause(
        "has a certificate or a TLS that is not acceptable",
        "its certificate was renewed or has expired, is not from the authority that is set, or it is not the BMC",
        "you, to set how its certificate is checked",
        ("set `verify` of the BMC to its authority's file, to sha256:<fingerprint>, or to no",),
    ),
    "licence": Cause(
        "wants a licence for what was asked",
        "the vendor sells this function separately",
        "you, to install the licence or to use another way",
    ),
    "not-supported": Cause(
        "has no such function",
        "neither the BMC nor the driver can do that",
        "you, to do it by hand",
        ("add another way to the same machine, IPMI beside Redfish: `metalbox bmc test` shows what it speaks",),
    ),
    "not-obeyed": Cause(
        "said yes, and nothing changed",
        "the BMC takes commands and does not carry them out: its firmware hangs, or it lies about the power",
        "the BMC, to do what it said",
        (
            "look at the machine itself: is it on or off?",
            "restart the BMC (`ipmitool mc reset cold` on the host), then order it again",
        ),
    ),
}


def advice_of(code: str, bmc: Bmc | None, machine: str, driver: str = "") -> tuple[str, ...]:
    """Lines of what to do; the last ones repeat the question without metalbox. `driver` "": any that the BMC has."""
    lines = [*(CAUSES[code].advice if code in CAUSES else ())]
    if bmc is None:
        return tuple(lines)
    if code == "wrong-password":
        user = bmc.user or "USER"
        lines.insert(0, f"`metalbox bmc add {bmc.address or bmc.name} --user {user} --machine {machine}` asks for it")
    if code == "licence":
        vendor = bmc.vendor.lower()
        names = [name for begin, name in LICENCES if vendor.startswith(begin)]
        lines.append(f"install the licence: {names[0] if names else 'the vendor knows its name'}")
        lines.append("power and boot orders often go without it by IPMI: switch IPMI over LAN on in the BMC")
    lines.append(f"`metalbox bmc test {bmc.name}` tries it again, by every driver")
    return (*lines, *_without_metalbox(code, bmc, driver))


def _without_metalbox(code: str, bmc: Bmc, driver: str) -> tuple[str, ...]:
    """The same question by curl and ipmitool, which ask for the password themselves."""
    if not bmc.address:
        return ()
    kinds = [driver] if driver in PORTS else [kind for kind in bmc.drivers if kind in PORTS] or list(PORTS)
    lines = []
    for kind in kinds:
        port = bmc.port if bmc.port and (not bmc.drivers or kind == bmc.drivers[0]) else PORTS[kind]
        host = f"[{bmc.address}]" if ":" in bmc.address else bmc.address
        if kind == "redfish":
            where = host if port == PORTS[kind] else f"{host}:{port}"
            account = "" if code in ("unreachable", "hung", "garbage", "bad-tls") else f" -u {bmc.user or 'USER'}"
            path = "/redfish/v1/Systems" if account else "/redfish/v1/"
            lines.append(f"by hand: curl -kv{account} https://{where}{path}")
        else:
            where = f"-H {bmc.address}" + ("" if port == PORTS[kind] else f" -p {port}")
            lines.append(f"by hand: ipmitool -I lanplus {where} -U {bmc.user or 'USER'} -a chassis power status")
    return tuple(lines)
