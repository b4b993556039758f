"""Everything that is said to BMCs goes through here: who is asked, in which order, how often, and what is remembered.

Redfish is asked first and IPMI when that fails, verb by verb. What failed is not asked again for a while and then tried
once (metalbox.power.breaker); nothing is cached for ever. One order per machine at a time, one command per BMC at a
time (metalbox.power.desk). A sick BMC costs only those who ask for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from metalbox.errors import BmcNotSupported, InvalidValue, PowerError
from metalbox.power import VERBS, Endpoint, Power, PowerState, connect
from metalbox.power.breaker import pause_before, rule_of
from metalbox.power.desk import Clock, Desk, Link, desk_name, most_telling, scrub
from metalbox.power.errand import Errand
from metalbox.power.orders import Answer, Kept, Note, Observation, Outcome, PowerOrder, Write
from metalbox.power.stagger import Budget
from metalbox.power.takeback import Fate, take_back
from metalbox.power.turnstile import Turnstile

__all__ = ["Answer", "Clock", "Desk", "Front", "Manners"]

T = TypeVar("T")
Key = int | str
Saved = Callable[[Write], Awaitable[None]]
Waits = Callable[[int], None]
Sets = Callable[[Kept], Awaitable[None]]

# Redfish reads state and override better than IPMI, and people are asked last.
RANK = {"redfish": 0, "ipmi": 1, "libvirt": 2, "wol": 3, "none": 4}
# The protocol's verbs as infinitives, for sentences.
WORDS = {
    "boot_next": "set what the machine boots next",
    "override": "tell what the machine boots next",
    "identify": "blink the machine's light",
    "sensors": "read sensors",
    "event_log": "read an event log",
    "inventory": "say what machine this is",
    "console": "open a serial console",
}


@dataclass(frozen=True, slots=True)
class Manners:
    """How BMCs are treated. Seconds."""

    gap: float = 0.1  # between two commands to one BMC
    read: float = 10.0  # one question may take this long
    write: float = 30.0  # one command; iDRAC and XCC answer a reset after up to 15 s
    patrol: float = 3.0  # a question of the patrol, which comes again by itself
    tries: int = 3  # of the same thing within one order
    on: float = 60.0  # until the power must be seen to have changed
    off: float = 60.0
    soft_off: float = 180.0  # an operating system that stops its services
    override: float = 6.0  # until an override must be seen to be set
    first_pause: float = 0.5  # before the second try, then doubling


class Front:
    """All desks, and what is known of every machine's power."""

    def __init__(
        self,
        *,
        connect: Callable[[Endpoint], Power] = connect,
        manners: Manners | None = None,
        budgets: Mapping[str, Budget] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`budgets`: power-ons per second by label; "" is all machines together."""
        self.clock = clock or Clock()
        self.manners = manners or Manners()
        self.turnstile = Turnstile(budgets or {}, self.clock)
        self._connect = connect
        self._desks: dict[str, Desk] = {}
        self._links: dict[Key, dict[Endpoint, Link]] = {}
        self._orders: dict[Key, asyncio.Lock] = {}
        self._observations: dict[Key, Observation] = {}

    @property
    def counters(self) -> Counter[str]:
        """What all desks counted, together."""
        total: Counter[str] = Counter()
        for desk in self._desks.values():
            total.update(desk.counters)
        return total

    def observation(self, machine: Key) -> Observation:
        """What is known of the machine's power; never asks."""
        return self._observations.get(machine, Observation())

    def busy(self, machine: Key, endpoints: Sequence[Endpoint]) -> bool:
        """Whether a command to one of the machine's BMCs is in flight or waits."""
        return any(link.desk.busy for link in self._links_of(machine, endpoints))

    async def power(
        self,
        machine: Key,
        endpoints: Sequence[Endpoint],
        order: PowerOrder,
        *,
        saved: Saved | None = None,
        waits: Waits | None = None,
        sets: Sets | None = None,
    ) -> Outcome:
        """Carry out an order and read back that it was obeyed; a failure is an Outcome, not an exception.

        `saved` is awaited before each write leaves, with the write: who stores it can give it back as `order.sent`
        after a crash, and the order goes on where the machine is. `waits` is told how many are before this machine when
        the budgets let it not be switched on at once. `sets` is awaited before an override is set for one boot.
        """
        lock = self._orders.setdefault(machine, asyncio.Lock())
        async with lock:
            return await Errand(self, machine, endpoints, order, saved, waits, sets).run()

    async def take_back(
        self, machine: Key, endpoints: Sequence[Endpoint], kept: Kept, *, wanted: Callable[[], bool]
    ) -> Fate:
        """Take an override back that was set for one boot, unless an order that came first makes it not `wanted`.

        Raises PowerError.
        """
        lock = self._orders.setdefault(machine, asyncio.Lock())
        async with lock:
            return await take_back(self, machine, endpoints, kept) if wanted() else Fate.GONE

    async def ask(
        self,
        machine: Key,
        endpoints: Sequence[Endpoint],
        verb: str,
        call: Callable[[Power], Awaitable[T]],
        *,
        seconds: float | None = None,
        tries: int | None = None,
        insist: bool = True,
        answer: Answer | None = None,
    ) -> T:
        """Ask something that may be asked again (sensors, identify, ...), of the first driver that answers.

        `verb` is the method's name, by which failures are remembered. `insist` is for people's orders: breakers that
        are open are tried all the same when nobody else is left. Raises the PowerError that tells most.
        """
        answer = answer if answer is not None else Answer()
        links = self._links_of(machine, endpoints)
        errors: dict[Link, PowerError] = {}
        final: set[Link] = set()
        for attempt in range(1, (tries or self.manners.tries) + 1):
            for link in self.candidates(links, verb, insist=insist, errors=errors):
                if link in final:
                    continue
                try:
                    value = await self.say(link, verb, call, seconds=seconds, insist=insist)
                except PowerError as error:
                    errors[link] = error
                    answer.failures.append(self.note(link, verb, error))
                    if not rule_of(error.code).repeat:
                        final.add(link)
                else:
                    answer.driver = link.driver
                    return value
            if not any(rule_of(error.code).repeat for link, error in errors.items() if link not in final):
                break
            if attempt < (tries or self.manners.tries):
                await self.clock.sleep(self.pause(attempt))
        raise most_telling(errors, verb)

    async def observe(
        self, machine: Key, endpoints: Sequence[Endpoint], *, insist: bool = False, tries: int = 1
    ) -> Observation:
        """Read the power state now and remember it. A failure is part of the observation, not an exception."""
        with suppress(PowerError):  # it is kept by read_state
            await self.read_state(machine, endpoints, seconds=self.manners.patrol, insist=insist, tries=tries)
        return self.observation(machine)

    async def read_state(
        self,
        machine: Key,
        endpoints: Sequence[Endpoint],
        *,
        seconds: float | None = None,
        insist: bool = True,
        tries: int | None = None,
        answer: Answer | None = None,
    ) -> PowerState:
        """The machine's power, read now; UNKNOWN where no driver can tell. Raises PowerError when none could."""
        answer = answer if answer is not None else Answer()
        try:
            is_on = await self.ask(
                machine, endpoints, "is_on", _is_on, seconds=seconds, insist=insist, tries=tries, answer=answer
            )
        except BmcNotSupported as error:
            self._saw_nothing(machine, error, answer)
            return PowerState.UNKNOWN
        except PowerError as error:
            self._saw_nothing(machine, error, answer)
            raise
        state = PowerState.ON if is_on else PowerState.OFF
        self.saw(machine, state, answer.driver)
        return state

    def saw(self, machine: Key, state: PowerState, source: str) -> None:
        """Remember an observation, also one that came another way (a person's word, an agent that reports)."""
        now = self.clock.now()
        self._observations[machine] = Observation(state, now, source, tried_at=now)

    def _saw_nothing(self, machine: Key, error: PowerError, answer: Answer) -> None:
        before = self.observation(machine)
        if before.code and not answer.failures:
            return  # nobody was asked: what is known of the last real try tells more
        self._observations[machine] = replace(
            before, code=error.code, text=str(error), evidence=error.evidence, tried_at=self.clock.now()
        )

    async def say(
        self,
        link: Link,
        verb: str,
        call: Callable[[Power], Awaitable[T]],
        *,
        seconds: float | None = None,
        insist: bool = True,
        force: bool = False,
    ) -> T:
        """One command to one driver, once; `force` asks no breaker. Raises PowerError."""
        limit = seconds if seconds is not None else self.manners.read
        try:
            return await link.desk.do(link, call, verb=verb, seconds=limit, insist=insist, force=force)
        except PowerError as error:
            error.evidence = scrub(error.evidence, link.endpoint)
            raise

    def candidates(
        self, links: Sequence[Link], verb: str, *, insist: bool, errors: dict[Link, PowerError]
    ) -> list[Link]:
        """Who is asked, in order: those that are well, and only when there are none, for who insists, the others.

        Why a link is not among them is put into `errors`, unless it has an error of its own there.
        """
        well: list[Link] = []
        sick: list[Link] = []
        for link in links:
            if (refusal := self._lacks(link, verb)) is None:
                refusal = link.desk.allows(link, verb)
                if refusal is None:
                    well.append(link)
                    continue
                if insist and link.desk.allows(link, verb, insist=True) is None:
                    sick.append(link)
            errors.setdefault(link, refusal)
        return well or sick

    def _lacks(self, link: Link, verb: str) -> PowerError | None:
        """Why this link never can: the driver has no such verb, or the endpoint cannot be right."""
        try:
            power = link.opened()
        except (InvalidValue, ImportError) as error:
            return BmcNotSupported(scrub(str(error), link.endpoint))
        needed = "boot_next" if verb == "override" else verb
        return power.unable(WORDS.get(verb, verb)) if needed in VERBS and needed not in power.can else None

    def links(self, machine: Key, endpoints: Sequence[Endpoint]) -> list[Link]:
        """The machine's ways to its power, the preferred first."""
        return self._links_of(machine, endpoints)

    def _links_of(self, machine: Key, endpoints: Sequence[Endpoint]) -> list[Link]:
        known = self._links.setdefault(machine, {})
        found: list[Link] = []
        for endpoint in sorted(endpoints, key=lambda endpoint: RANK.get(endpoint.driver, len(RANK))):
            link = known.get(endpoint)
            if link is None:
                name = desk_name(machine, endpoint)
                desk = self._desks.get(name)
                if desk is None:
                    desk = self._desks[name] = Desk(name, self.clock, gap=self.manners.gap)
                link = known[endpoint] = Link(endpoint, desk, self._connect)
            found.append(link)
        return found

    def pause(self, attempt: int) -> float:
        """Seconds before the next try, after `attempt` of them."""
        return pause_before(attempt, first=self.manners.first_pause, jitter=self.clock.jitter())

    def note(self, link: Link, verb: str, error: PowerError) -> Note:
        """A failure as a value, without the password."""
        text, evidence = scrub(str(error), link.endpoint), scrub(error.evidence, link.endpoint)
        return Note(error.code, text, evidence, link.driver, verb, self.clock.now())

    async def keep_only(self, machines: Mapping[Key, Sequence[Endpoint]]) -> None:
        """Forget machines and endpoints that are not in `machines` any more, and give their sessions back."""
        gone: list[Link] = []
        for machine, links in list(self._links.items()):
            endpoints = machines.get(machine, ())
            gone += [links.pop(endpoint) for endpoint in list(links) if endpoint not in endpoints]
            if machine not in machines:
                del self._links[machine]
                self._observations.pop(machine, None)
                self._orders.pop(machine, None)
        used = {link.desk.name for links in self._links.values() for link in links.values()}
        self._desks = {name: desk for name, desk in self._desks.items() if name in used}
        await asyncio.gather(*(link.desk.dismiss(link) for link in gone))

    async def close(self) -> None:
        """Give every session back, in bounded time."""
        await self.keep_only({})


async def _is_on(power: Power) -> bool:
    return await power.is_on()
