"""One order carried out: read, decide, write, read back, until the machine is as wanted or the reasons are known.

What to send next is `orders.next_write`; this does it, by the drivers in their order. A write that fails in doubt is
never simply repeated: the state is read again first. An override that cannot be set is a warning, the power-on follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from metalbox.errors import BmcNotObeyed, BmcNotSupported, PowerError
from metalbox.power import Asked, Device, Endpoint, Override, Power, PowerState
from metalbox.power.breaker import INSIST_SECONDS, rule_of
from metalbox.power.desk import Link, most_telling
from metalbox.power.orders import BLIND, WANTED, Answer, Kept, Note, Outcome, PowerOrder, Verb, Write, next_write
from metalbox.power.verify import ReadBack, describe, is_set, read_back, stays

if TYPE_CHECKING:
    from metalbox.power.polite import Front, Key

# The BMC cannot have carried out what failed like this, so even a restart may be sent again, by another driver.
SURELY_NOT_DONE = frozenset(
    {"unreachable", "refused", "wrong-password", "sessions-full", "bad-tls", "licence", "not-supported"}
)

# How long a BMC that did not answer a write is watched for having obeyed all the same.
IN_DOUBT_SECONDS = 5.0
CROSS_CHECK_SECONDS = 1.0
BOOT_TRIES = 2

SEND: dict[Write, Callable[[Power], Awaitable[None]]] = {
    Write.ON: lambda power: power.on(),
    Write.OFF: lambda power: power.off(),
    Write.SOFT_OFF: lambda power: power.off(graceful=True),
    Write.CYCLE: lambda power: power.cycle(),
}
# The names by which failures are remembered: a BMC that cannot stop gracefully can still be switched off.
NAME = {Write.ON: "on", Write.OFF: "off", Write.SOFT_OFF: "off_graceful", Write.CYCLE: "cycle"}


class Errand:
    """The carrying out of one order. Used once."""

    def __init__(
        self,
        front: Front,
        machine: Key,
        endpoints: Sequence[Endpoint],
        order: PowerOrder,
        saved: Callable[[Write], Awaitable[None]] | None,
        waits: Callable[[int], None] | None = None,
        sets: Callable[[Kept], Awaitable[None]] | None = None,
    ) -> None:
        self._front = front
        self._machine = machine
        self._endpoints = endpoints
        self._order = order
        self._saved = saved
        self._waits = waits
        self._sets = sets
        self._links = front.links(machine, endpoints)
        self._sent: list[Write] = list(order.sent)
        self._writes: list[Write] = []
        self._attempts: list[Note] = []
        self._warnings: list[Note] = []
        # Which drivers failed at a write, in this order.
        self._failed: dict[Write, dict[Link, PowerError]] = {}
        self._rounds: dict[Write, int] = {}
        self._driver = ""
        self._state = PowerState.UNKNOWN
        self._asked: Asked | None = None
        # By whom the state was read a moment ago: the way to it is open, whatever its breaker says meanwhile.
        self._reader: Link | None = None
        self._boot_set = False
        self._boot_driver = ""
        self._boot_error: PowerError | None = None
        self._boot_asked: Asked | None = None
        self._kept: Kept | None = None
        # The driver that comes before the one that carried it out, and why it was not asked or failed.
        self._passed: Note | None = None

    async def run(self) -> Outcome:
        """Carry the order out."""
        started = self._front.clock.tick()
        error: PowerError | None = None
        try:
            await self._steer()
        except PowerError as failure:
            error = failure
        return Outcome(
            done=error is None and self._asked is None,
            state=self._state,
            text=str(error) if error else self._asked.text if self._asked else self._sentence() + self._instead(),
            code=error.code if error else "",
            evidence=error.evidence if error else "",
            driver=self._driver,
            writes=tuple(self._writes),
            warnings=tuple(self._warnings),
            attempts=tuple(self._attempts),
            asked=self._asked,
            seconds=self._front.clock.tick() - started,
            kept=self._kept,
        )

    def _instead(self) -> str:
        """Why it was not the driver that is asked first."""
        if self._passed is None or self._passed.driver == self._driver or not self._driver:
            return ""
        return f"; {self._passed.driver} was passed over: {self._passed.text}"

    def _pass_over(self, chosen: Link, errors: Mapping[Link, PowerError]) -> None:
        first = self._links[0]
        if first is not chosen and first in errors:
            self._passed = self._front.note(first, "", errors[first])

    def _sentence(self) -> str:
        if self._order.verb is Verb.BOOT_NEXT:
            return f"the next boot is set by {self._driver}"
        if not self._writes and self._order.sent:
            sent = " and ".join(self._order.sent)
            return (
                f"{sent} was on its way when the service stopped; the machine is {self._state}, nothing more was sent"
            )
        if not self._writes:
            return f"the machine is {self._state} already"
        # What one driver failed to carry out was sent again by another.
        sent = " and ".join(dict.fromkeys(self._writes))
        if self._state is PowerState.UNKNOWN:
            return f"{sent} was sent by {self._driver}; nobody can read back whether it was obeyed"
        if Write.CYCLE in self._writes and any(warning.verb == NAME[Write.CYCLE] for warning in self._warnings):
            return f"{self._driver} may have taken the restart, which is not sent twice; the machine is {self._state}"
        if Write.CYCLE in self._writes:
            return f"{self._driver} took the restart, and the machine is {self._state}; a restart cannot be read back"
        return f"{sent} was sent by {self._driver}, and read back: the machine is {self._state}"

    async def _steer(self) -> None:
        if self._order.verb is Verb.BOOT_NEXT:
            await self._set_boot()
            if self._boot_error is not None:
                raise self._boot_error
            self._driver, self._asked = self._boot_driver, self._boot_asked
            return
        admitted = False
        while True:
            reader = Answer()
            self._state = await self._front.read_state(self._machine, self._endpoints, answer=reader)
            self._reader = next((link for link in self._links if link.driver == reader.driver), None)
            if self._state is PowerState.UNKNOWN:
                self._links = self._blind_links()
            write = next_write(self._order.verb, self._planned_state(), self._sent)
            if write is None:
                self._warn_of_unused_boot()
                return
            if write is Write.ON and not admitted:
                await self._front.turnstile.admit(self._machine, self._order.labels, self._waits)
                admitted = True
                continue  # it may have been minutes: read again
            link = await self._next_link(write)
            if write in (Write.ON, Write.CYCLE) and not self._boot_set:
                self._boot_set = True
                await self._set_boot()
            await self._write(write, link)
            if self._asked is not None:
                return

    def _planned_state(self) -> PowerState:
        """The state to plan by. A person is asked for off and on in one sentence, not for off alone."""
        only_blind = all(link.driver in BLIND for link in self._links)
        if only_blind and self._state is PowerState.ON and self._order.verb in (Verb.CYCLE, Verb.RESET):
            return PowerState.UNKNOWN
        return self._state

    def _blind_links(self) -> list[Link]:
        """Where nobody can read the state, only a person and Wake-on-LAN are asked: those cannot act against it."""
        blind = [link for link in self._links if link.driver in BLIND]
        if not self._links:
            raise most_telling({}, "is_on")
        if not blind:
            raise BmcNotSupported("no BMC of the machine can tell whether it is on, so nothing is sent to it")
        return blind

    async def _next_link(self, write: Write) -> Link:
        """The driver to try next; after all of them failed, a pause and another round. Raises when it was enough."""
        failed = self._failed.setdefault(write, {})
        rounds = self._rounds.setdefault(write, 1)
        left = [link for link in self._links if link not in failed]
        errors: dict[Link, PowerError] = dict(failed)
        if ready := self._front.candidates(left, NAME[write], insist=True, errors=errors):
            self._pass_over(ready[0], errors)
            return ready[0]
        again = [link for link, error in failed.items() if rule_of(error.code).repeat or error.code == "not-obeyed"]
        # Who did not stop gracefully was asked once and had its three minutes.
        limit = 1 if write is Write.SOFT_OFF else self._front.manners.tries
        if not again or rounds >= limit:
            raise most_telling(errors, NAME[write])
        self._rounds[write] = rounds + 1
        await self._front.clock.sleep(max(INSIST_SECONDS, self._front.pause(rounds)))
        for link in again:
            del failed[link]
        retry = self._front.candidates(again, NAME[write], insist=True, errors=errors)
        if not retry:
            raise most_telling(errors, NAME[write])
        return retry[0]

    async def _write(self, write: Write, link: Link) -> None:
        if self._saved is not None:
            await self._saved(write)
        self._sent.append(write)
        error: PowerError | None = None
        first = link is self._reader and self._rounds[write] == 1
        try:
            await self._front.say(link, NAME[write], SEND[write], seconds=self._front.manners.write, force=first)
        except PowerError as failure:
            error = failure
            self._failed[write][link] = error
            self._attempts.append(self._front.note(link, NAME[write], error))
            if error.code in SURELY_NOT_DONE:
                self._sent.remove(write)
                return
        self._writes.append(write)
        self._driver = link.driver
        self._asked = self._wish(link)
        if self._asked is not None or self._state is PowerState.UNKNOWN:
            return
        if error is None:
            await self._see_it_obeyed(write, link)
        else:
            # It may be carrying it out although it did not answer.
            await self._poll(self._links, WANTED[write], IN_DOUBT_SECONDS)
            if write is Write.CYCLE:
                self._warnings.append(self._front.note(link, NAME[write], error))

    def _wish(self, link: Link) -> Asked | None:
        """What a person shall do now, with what was asked before about the boot."""
        asked = link.power.asked if link.power is not None else None
        if asked is None or self._boot_asked is None:
            return asked
        return replace(asked, text=f"{asked.text} {self._boot_asked.text}")

    async def _see_it_obeyed(self, write: Write, link: Link) -> None:
        wanted = WANTED[write]
        manners = self._front.manners
        seconds = {Write.OFF: manners.off, Write.SOFT_OFF: manners.soft_off}.get(write, manners.on)
        reader = Answer()
        seen = await self._poll(self._links, wanted, seconds, reader)
        if seen.matches or await self._another_saw_it(wanted, reader):
            return
        said = seen.value or (seen.error.code if seen.error else "nothing")
        error = BmcNotObeyed(
            f"{link.driver} took {write}, and {seconds:.0f} s later the machine is still not {wanted}",
            evidence=f"{reader.driver or 'nobody'} reads back: {said}",
        )
        if write is Write.SOFT_OFF:
            raise error  # it is the operating system that does not listen: asking by another driver changes nothing
        link.desk.failed(link, NAME[write], error)
        self._failed[write][link] = error
        self._attempts.append(self._front.note(link, NAME[write], error))

    async def _another_saw_it(self, wanted: PowerState, reader: Answer) -> bool:
        """Whether another driver reads the wanted state; then the first reader lies or lags, and is not asked first."""
        doubted = next((link for link in self._links if link.driver == reader.driver), None)
        others = [link for link in self._links if link is not doubted]
        if doubted is None or not others:
            return False
        witness = Answer()
        if not (await self._poll(others, wanted, CROSS_CHECK_SECONDS, witness)).matches:
            return False
        error = BmcNotObeyed(
            f"{reader.driver} still reports the machine not {wanted}, {witness.driver} reports that it is {wanted}",
            evidence=f"{witness.driver} is believed, for it saw the change",
        )
        doubted.desk.failed(doubted, "is_on", error)
        self._warnings.append(self._front.note(doubted, "is_on", error))
        return True

    async def _poll(
        self, links: Sequence[Link], wanted: PowerState, seconds: float, reader: Answer | None = None
    ) -> ReadBack[PowerState]:
        endpoints = [link.endpoint for link in links]

        async def read() -> PowerState:
            return await self._front.read_state(self._machine, endpoints, tries=1, answer=reader)

        clock = self._front.clock
        return await read_back(read, wanted.__eq__, deadline=seconds, tick=clock.tick, sleep=clock.sleep)

    async def _set_boot(self) -> None:
        """Set the override by the first driver that can and read it back. What fails becomes warnings."""
        wanted = self._order.boot
        if wanted is None:
            return
        failures: list[Note] = []
        errors: dict[Link, PowerError] = {}
        final: set[Link] = set()
        for attempt in range(1, BOOT_TRIES + 1):
            for link in self._front.candidates(self._links, "boot_next", insist=True, errors=errors):
                if link in final:
                    continue
                try:
                    await self._set_boot_by(link, wanted)
                except PowerError as error:
                    errors[link] = error
                    failures.append(self._front.note(link, "boot_next", error))
                    if not rule_of(error.code).repeat:
                        final.add(link)
                else:
                    self._attempts += failures
                    self._boot_driver = link.driver
                    self._pass_over(link, errors)
                    return
            if not any(rule_of(error.code).repeat for link, error in errors.items() if link not in final):
                break
            if attempt < BOOT_TRIES:
                await self._front.clock.sleep(self._front.pause(attempt))
        self._attempts += failures
        self._boot_error = most_telling(errors, "boot_next")
        code, evidence = self._boot_error.code, self._boot_error.evidence
        text = f"what boots next could not be set to {describe(wanted)}: {self._boot_error}"
        self._warnings.append(Note(code, text, evidence, verb="boot_next", at=self._front.clock.now()))

    async def _set_boot_by(self, link: Link, wanted: Override) -> None:
        async def set_it(power: Power) -> None:
            await power.boot_next(wanted.device, mode=wanted.mode, once=wanted.once)

        async def read() -> Override:
            return await self._front.say(link, "override", lambda power: power.override())

        manners, clock = self._front.manners, self._front.clock
        before = await self._before(link, wanted, read)
        if before is not None and self._sets is not None:
            await self._sets(Kept(link.driver, link.endpoint.address, before, wanted, self._front.clock.now()))
        await self._front.say(link, "boot_next", set_it, seconds=manners.write)
        if link.power is not None and link.power.asked is not None:
            self._boot_asked = link.power.asked
            return
        seen = await read_back(
            read, lambda found: is_set(wanted, found), deadline=manners.override, tick=clock.tick, sleep=clock.sleep
        )
        if not seen.matches and seen.error is not None:
            error: PowerError = seen.error
            text = f"{link.driver} took the override, and it could not be read back: {error}"
            self._warnings.append(replace(self._front.note(link, "override", error), text=text))
        elif not seen.matches:
            assert seen.value is not None, "read_back has a value or an error"
            error = BmcNotObeyed(
                f"{link.driver} took the override {describe(wanted)} and has another",
                evidence=f"{link.driver} reads back: {describe(seen.value)}",
            )
            link.desk.failed(link, "boot_next", error)
            raise error
        elif seen.value is not None:
            self._look_again(link, wanted, before, seen.value)

    async def _before(self, link: Link, wanted: Override, read: Callable[[], Awaitable[Override]]) -> Override | None:
        """What is set before something is set for one boot; None where it is set for all, or nobody can read."""
        if not wanted.once or wanted.device is Device.NONE:
            return None
        earlier = self._order.kept
        if earlier is not None and (earlier.driver, earlier.address) == (link.driver, link.endpoint.address):
            return earlier.before
        with suppress(PowerError):  # it is told when it is read back
            return await read()
        return None

    def _look_again(self, link: Link, wanted: Override, before: Override | None, found: Override) -> None:
        """Remember what was set for one boot; warn where the BMC says that it holds for all and nobody will know."""
        if before is not None:
            self._kept = Kept(link.driver, link.endpoint.address, before, found, self._front.clock.now())
        if stays(wanted, found) and before != found:
            then = "it is taken back after that boot" if self._kept else "it must be cleared later"
            error = BmcNotObeyed(
                f"{link.driver} was told {describe(wanted)} and keeps it for all boots: {then}",
                evidence=f"{link.driver} reads back: {describe(found)}",
            )
            self._warnings.append(self._front.note(link, "boot_next", error))

    def _warn_of_unused_boot(self) -> None:
        boot = self._order.boot
        if boot is not None and not self._boot_set and not self._sent:
            text = f"the machine is {self._state} already and was not started: it was not told to boot {describe(boot)}"
            self._warnings.append(Note("unused", text, verb="boot_next", at=self._front.clock.now()))
