"""`why`, as to power: what is wrong with a machine's BMCs and orders, from what is known of them, and what to do. PURE.

Each rule looks at what is known, with its age, and never at a BMC. `with_power` joins what the rules say with what the
timeline says: power is the answer when it explains the silence of the machine or holds up an order, else a remark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from metalbox.bmcadvice import CAUSES, advice_of
from metalbox.evidence import Bmc, Diagnosis, Ordered, PowerFacts, Trouble, View, clock
from metalbox.timeline import Entry, Kind

# An order that is carried out takes a minute at most for each command; one with a soft stop up to three.
ORDER_SECONDS = 300.0
# A machine may still speak while its power goes, and clocks of the reading and of the packets differ a little.
AFTERGLOW_SECONDS = 10.0
# Orders after which the machine is on when they were carried out.
TO_ON = frozenset({"on", "cycle", "reset"})
# What the timeline says of a machine that nothing was heard of: then power may be the reason.
SILENT = frozenset({"not-seen", "agent-gone", "silent"})
# How long ago an agent may have spoken last while its machine counts as running.
QUIET_SECONDS = 120.0


class Weight(IntEnum):
    """When what a rule says is the answer, and not only a remark."""

    ANSWER = 3  # whatever the timeline says
    SILENCE = 2  # when the machine is silent
    UNSEEN = 1  # when it was never heard of
    REMARK = 0
    HINT = -1  # not even a remark while the machine is heard of


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules look at. `heard` is when the machine was heard of last, `booted` its firmware; 0.0: never."""

    name: str
    power: PowerFacts
    entries: tuple[Entry, ...]
    now: float
    heard: float
    booted: float

    @property
    def bmc(self) -> Bmc | None:
        """The one that is spoken to: with a password before those without."""
        return self.power.bmcs[0] if self.power.bmcs else None


def with_power(view: View, found: Diagnosis) -> Diagnosis:
    """The timeline's answer together with what is known of the machine's power; unchanged when nothing is."""
    if view.facts.power is None or view.machine is None:
        return found
    case = Case(view.machine.name, view.facts.power, view.entries, view.now, *_heard(view))
    is_silent = found.code in SILENT
    least = Weight.UNSEEN if found.code == "not-seen" else Weight.SILENCE if is_silent else Weight.ANSWER
    told = [(weight, one) for rule, weight in RULES for one in rule(case) if is_silent or weight > Weight.HINT]
    main = next((one for weight, one in told if weight >= least and found.code != "duplicate-uuid"), None)
    rest = tuple(one for _, one in told if one is not main)
    if main is None:
        return replace(found, also=rest)
    # "Nothing was ever heard of it" says no more than the answer does.
    return replace(main, also=rest if found.code == "not-seen" else (found, *rest))


def _heard(view: View) -> tuple[float, float]:
    """When the machine sent something last, firmware, agent or system but not its BMC; and when it booted last."""
    boots = [
        entry.last_at
        for entry in view.entries
        if entry.kind in (Kind.TFTP, Kind.HTTP) or (entry.kind is Kind.DHCP and entry.data.get("client") != "bmc")
    ]
    agents = [
        entry.last_at
        for entry in view.entries
        if entry.kind is Kind.REPORT or (entry.kind is Kind.AGENT and entry.data.get("what") != "gone")
    ]
    seen = view.machine.last_seen if view.machine else 0.0
    return max([*boots, *agents, seen]), max(boots, default=0.0)


# -- orders ------------------------------------------------------------------------------------------------------------


def _unfinished(case: Case) -> Iterator[Diagnosis]:
    order = case.power.order
    if order is None or order.finished_at is not None:
        return
    said = (f"{clock(order.created_at)}: ordered: {_words(order)}",)
    if order.place:
        yield Diagnosis(
            "power-budget",
            f"it is to be switched {order.verb} and waits for its turn",
            f"the budget of power-ons: it is number {order.place} in the queue",
            order.created_at,
            "only so many machines may be switched on at once, so that no fuse blows and no boot server is overrun",
            said,
            ("raise the budgets of power-ons in the configuration, and restart", "or wait: nothing is wrong"),
        )
        return
    sent = f"; sent so far: {', '.join(order.sent)}" if order.sent else "; nothing was sent yet"
    late = case.now - order.created_at > ORDER_SECONDS
    bmc = case.bmc
    yield Diagnosis(
        "order-running",
        f"the order {_words(order)} is carried out{sent}",
        f"its BMC {bmc.name}" if bmc else "its BMC",
        order.created_at,
        "the BMC is slow, or does not answer and is asked again" if late else "nothing is wrong: it is in time",
        (*said, *_lines(case.power.trouble)),
        (f"`metalbox bmc test {bmc.name}` asks it now",) if late and bmc else (),
    )


def _asked(case: Case) -> Iterator[Diagnosis]:
    order = case.power.order
    if order is None or order.finished_at is None or not order.asked or _is_mended(case, order):
        return
    yield Diagnosis(
        "person-asked",
        f"the order {_words(order)} waits for a person: no device can switch it",
        f"a person: {order.asked}",
        order.created_at,
        "its power has no BMC: somebody has to press the button",
        (f"{clock(order.finished_at)}: asked: {order.asked}",),
        (order.asked, "when the machine starts, it is seen here by itself"),
    )


def _failed(case: Case) -> Iterator[Diagnosis]:
    """The newest order, when it did not end well and nothing has mended it since."""
    order = case.power.order
    if order is None or not _is_open_failure(case, order):
        return
    at = order.finished_at or order.created_at
    lines = [f"{clock(at)}: {_words(order)}: {order.text}", *([order.evidence] if order.evidence else [])]
    lines += [_line(one) for one in order.attempts if one.text != order.text][-5:]
    doing = f"the order {_words(order)} failed: {order.text}"
    cause = CAUSES.get(order.code)
    if cause is not None:
        advice = advice_of(order.code, _bmc_of(case, order.driver), case.name, order.driver)
        yield Diagnosis(order.code, doing, cause.waiting_for, at, cause.text, tuple(lines), advice)
    elif order.code == "abandoned":
        why = "the service was not running when it was to be carried out, and an old order's reason may be gone"
        advice = (f"order it again, if it is still wanted: {_command(order, case.name)}",)
        yield Diagnosis(order.code, doing, "you", at, why, tuple(lines), advice)
    else:
        advice = ("look into the service's log", f"order it again: {_command(order, case.name)}")
        yield Diagnosis("order-failed", doing, "you", at, "a fault of metalbox", tuple(lines), advice)


def _warnings(case: Case) -> Iterator[Diagnosis]:
    """What did not stop the newest order, and may be why the machine does not boot what it should."""
    order = case.power.order
    if order is None or order.finished_at is None:
        return
    bmc = _bmc_of(case, order.driver)
    for one in order.warnings:
        if one.verb in ("boot_next", "override"):
            doing = f"its BMC did not keep what it was to boot next ({order.boot})" if order.boot else one.text
            yield Diagnosis(
                "override-lost", doing, "you", one.at or order.finished_at,
                f"{one.text}; the machine boots by the order in its firmware's setup",
                tuple(filter(None, (_line(one), one.evidence))),
                (
                    "set network boot before the disks in the firmware's setup: then no override is needed",
                    f"or order it again: `metalbox power cycle {case.name}`",
                    *advice_of("override-lost", bmc, case.name, order.driver),
                ),
            )  # fmt: skip
        elif one.code == "not-obeyed":
            yield _doubtful(case, one.text, one.at or order.finished_at, (_line(one), one.evidence))


def _attempts(case: Case) -> Iterator[Diagnosis]:
    """An order that was carried out in the end, by another way than the first."""
    order = case.power.order
    if order is None or order.finished_at is None or not order.done:
        return
    seen = {case.power.trouble.code} if case.power.trouble else set()
    for one in order.attempts:
        if one.code in CAUSES and one.code not in seen and one.driver != order.driver:
            seen.add(one.code)
            yield Diagnosis(
                one.code,
                f"the order {_words(order)} was carried out by {order.driver or 'another way'}, {one.driver} failed:"
                f" {one.text}",
                CAUSES[one.code].waiting_for,
                one.at or order.finished_at,
                CAUSES[one.code].text,
                tuple(filter(None, (_line(one), one.evidence))),
                advice_of(one.code, _bmc_of(case, one.driver), case.name, one.driver),
            )


# -- BMCs --------------------------------------------------------------------------------------------------------------


def _no_bmc(case: Case) -> Iterator[Diagnosis]:
    if case.power.bmcs:
        return
    yield Diagnosis(
        "no-bmc",
        "nothing is known that switches it",
        "you, to tell of its BMC, or to press its button",
        0.0,
        "no BMC of it was found in-band, by DHCP, in a scan, or in a list",
        (),
        (
            f"`metalbox bmc add ADDRESS --user USER --machine {case.name}`",
            "`metalbox bmc scan NETWORK` looks for BMCs in the addresses that you name",
            f"it has none: `metalbox bmc add {case.name} --driver none --machine {case.name}` asks a person",
        ),
    )


def _no_account(case: Case) -> Iterator[Diagnosis]:
    bmc = case.bmc
    if bmc is None or bmc.has_password or (bmc.drivers and not {"redfish", "ipmi"} & set(bmc.drivers)):
        return
    yield Diagnosis(
        "no-account",
        f"its BMC {bmc.name} is known, and no account on it",
        "you, to tell an account",
        0.0,
        "no password is stored for it, and metalbox tries none",
        (f"the BMC {bmc.name}{f' of {bmc.vendor}' if bmc.vendor else ''} has no password here",),
        (f"`metalbox bmc add {bmc.address or 'ADDRESS'} --user USER --machine {case.name}`",),
    )


def _trouble(case: Case) -> Iterator[Diagnosis]:
    """Why its state cannot be read: as the patrol saw it, or, since the service was started, as it is remembered."""
    one, bmc = case.power.trouble, case.bmc
    order = case.power.order
    if one is None and bmc is not None and bmc.error_code and bmc.error_at > case.power.read_at:
        one = Trouble(bmc.error_code, bmc.error_text, at=bmc.error_at)
    if one is None or one.code not in CAUSES or one.code == "not-supported":
        return
    if order is not None and order.code == one.code and _is_open_failure(case, order):
        return  # told with the order
    since = _since_trouble(case, one.code) or one.at
    yield Diagnosis(
        one.code,
        f"its BMC {bmc.name if bmc else ''} {CAUSES[one.code].doing}: {one.text}",
        CAUSES[one.code].waiting_for,
        since,
        CAUSES[one.code].text,
        (_line(one), *([one.evidence] if one.evidence else []), *([_read(case)] if case.power.source else [])),
        advice_of(one.code, _bmc_of(case, one.driver), case.name, one.driver),
    )


def _switched_off(case: Case) -> Iterator[Diagnosis]:
    """Off, and nothing was heard of it since."""
    power, order = case.power, case.power.order
    if power.state != "off" or not power.source or case.heard > power.read_at or _is_contradicted(case):
        return
    if order is not None and (order.finished_at is None or _is_open_failure(case, order)):
        return  # told with the order
    since = _since_off(case) or power.read_at
    told = "nobody here has ordered it: a person, its operating system or the fuse did it"
    if order is not None and order.done and order.verb in ("off", "soft-off"):
        told = f"it was ordered: {_words(order)} at {clock(order.created_at)}"
    elif order is not None and order.done and order.verb in TO_ON:
        told = f"it was switched on by the order of {clock(order.created_at)}, and went off again by itself"
    advice = (f"`metalbox power on {case.name}`",)
    yield Diagnosis("switched-off", "it is switched off", "you, to switch it on", since, told, (_read(case),), advice)


def _contradicted(case: Case) -> Iterator[Diagnosis]:
    """Off by its BMC, and heard of all the same."""
    if _is_contradicted(case):
        since = _since_off(case)
        words = f"it says off since {clock(since)}, and the machine was heard of at {clock(case.heard)}"
        yield _doubtful(case, words, since, (_read(case),))


def _doubtful(case: Case, text: str, at: float, evidence: tuple[str, ...]) -> Diagnosis:
    return Diagnosis(
        "power-doubtful", f"what its BMC says of its power is not true: {text}", "nobody: the others are believed", at,
        "the BMC lies, lags, or belongs to another machine than is written down", tuple(filter(None, evidence)),
        (
            "restart the BMC itself (`ipmitool ... mc reset cold`, or its web interface): the machine runs on",
            f"look whether it is this machine's: `metalbox bmc list`, and `metalbox identify {case.name}`",
        ),
    )  # fmt: skip


# -- what the rules share ----------------------------------------------------------------------------------------------


def _read(case: Case) -> str:
    power = case.power
    ago = max(0.0, case.now - power.read_at)
    return f"{clock(power.read_at)}: it was {power.state}, as {power.source} read it last ({ago:.0f} s ago)"


def _is_contradicted(case: Case) -> bool:
    since = _since_off(case)
    is_heard = case.heard > since + AFTERGLOW_SECONDS and case.heard > case.power.read_at - QUIET_SECONDS
    return case.power.state == "off" and since > 0.0 and is_heard


def _is_open_failure(case: Case, order: Ordered) -> bool:
    ended = order.finished_at is not None and not order.done and not order.asked
    return ended and not _is_mended(case, order)


def _is_mended(case: Case, order: Ordered) -> bool:
    """Whether what was ordered has come true since, whoever did it."""
    ended = order.finished_at or 0.0
    if order.verb in ("cycle", "reset", "boot-next"):
        return case.booted > ended
    if order.verb == "on":
        return case.heard > ended or (case.power.state == "on" and case.power.read_at > ended)
    if order.asked:
        return case.now - max(case.heard, ended) > QUIET_SECONDS
    return case.power.state == "off" and case.power.read_at > ended


def _bmc_of(case: Case, driver: str) -> Bmc | None:
    return next((bmc for bmc in case.power.bmcs if driver and driver in bmc.drivers), case.bmc)


def _words(order: Ordered) -> str:
    return f"`{order.verb}`" + (f" with {order.boot}" if order.boot else "")


def _command(order: Ordered, name: str) -> str:
    return f"`metalbox {order.verb if order.verb == 'boot-next' else f'power {order.verb}'} {name}`"


def _line(one: Trouble) -> str:
    who = " ".join(filter(None, (one.driver, one.verb)))
    when = f"{clock(one.at)}: " if one.at else ""
    return f"{when}{who + ': ' if who else ''}{one.code}: {one.text}"


def _lines(one: Trouble | None) -> tuple[str, ...]:
    return () if one is None else tuple(filter(None, (_line(one), one.evidence)))


def _power_lines(case: Case) -> list[Entry]:
    return [entry for entry in case.entries if entry.kind is Kind.POWER]


def _since_trouble(case: Case, code: str) -> float:
    """When the timeline told first of this trouble; 0.0 when it did not, or told since that it is over."""
    since = 0.0
    for entry in _power_lines(case):
        if entry.data.get("code") == code and "order" not in entry.data:
            since = since or entry.at
        elif "observed" in entry.data or "driver" in entry.data:
            since = 0.0
    return since


def _since_off(case: Case) -> float:
    """When the timeline told first that it is off, without having told of anything else since."""
    since = 0.0
    for entry in _power_lines(case):
        state = str(entry.data.get("observed") or entry.data.get("power") or entry.data.get("state") or "")
        if state == "off":
            since = since or entry.at
        elif state == "on":
            since = 0.0
    return since


RULES: tuple[tuple[Callable[[Case], Iterator[Diagnosis]], Weight], ...] = (
    (_unfinished, Weight.ANSWER),
    (_asked, Weight.ANSWER),
    (_failed, Weight.SILENCE),
    (_switched_off, Weight.ANSWER),
    (_trouble, Weight.UNSEEN),
    (_contradicted, Weight.REMARK),
    (_warnings, Weight.REMARK),
    (_attempts, Weight.REMARK),
    (_no_account, Weight.REMARK),
    (_no_bmc, Weight.HINT),
)
