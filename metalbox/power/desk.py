"""One BMC's desk: at most one command in flight, a pause between two, nothing waits for ever.

A BMC is a small computer that freezes when it is asked quickly or by two at once (omni#785), so everything that goes to
one address goes over one desk, whatever the driver. The desk also keeps the breakers of the ways to it. Which driver is
asked, and what is tried again, is metalbox.power.polite's business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from metalbox.errors import (
    BmcBadTls,
    BmcConsoleInUse,
    BmcGarbage,
    BmcHung,
    BmcLicence,
    BmcNotObeyed,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)
from metalbox.power import Credentials, Endpoint, Power
from metalbox.power.breaker import CLOSED, Breaker, Scope, rule_of

log = logging.getLogger("metalbox.power")

T = TypeVar("T")

ERRORS: dict[str, type[PowerError]] = {
    kind.code: kind
    for kind in (
        BmcUnreachable, BmcHung, BmcRefused, BmcConsoleInUse, BmcWrongPassword, BmcSessionsFull,
        BmcGarbage, BmcBadTls, BmcLicence, BmcNotSupported, BmcNotObeyed,
    )
}  # fmt: skip

# A cancelled command gets this long to give its sockets back before the desk calls it stuck.
GRACE_SECONDS = 0.25
# A command that does not even end when cancelled keeps its desk closed for this long; then we go on without it.
STUCK_SECONDS = 600.0
CLOSE_SECONDS = 2.0
# A slow BMC is not a dead one: after a timeout it gets this many times as long.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, so that tests can turn them. `now` is Unix seconds, `tick` never goes back."""

    now: Callable[[], float] = time.time
    tick: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


@dataclass(eq=False, slots=True)
class Link:
    """One machine by one driver: the endpoint, the driver's object while there is one, and a breaker for each verb."""

    endpoint: Endpoint
    desk: Desk
    connect: Callable[[Endpoint], Power]
    power: Power | None = None
    verbs: dict[str, Breaker] = field(default_factory=dict)

    @property
    def driver(self) -> str:
        return self.endpoint.driver

    def opened(self) -> Power:
        """The driver's object, made when there is none."""
        if self.power is None:
            self.power = self.connect(self.endpoint)
        return self.power

    async def close(self) -> None:
        """Give the object back, in bounded time; the next command gets a fresh one."""
        power, self.power = self.power, None
        if power is not None:
            closing = asyncio.ensure_future(power.close())
            await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
            if not closing.done():
                closing.cancel()
            closing.add_done_callback(_taken)


class Desk:
    """The queue in front of one BMC, first come, first served."""

    def __init__(self, name: str, clock: Clock, *, gap: float) -> None:
        """`gap`: seconds between the end of a command and the begin of the next."""
        self.name = name
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._gap = gap
        self._lock = asyncio.Lock()
        self._free_at = 0.0
        self._stuck: tuple[asyncio.Future[Any], float] | None = None
        # By driver and port: the breaker and the credentials that it is about.
        self._breakers: dict[tuple[str, int], tuple[Credentials | None, Breaker]] = {}

    @property
    def busy(self) -> bool:
        """Whether a command is in flight or waits."""
        return self._lock.locked()

    def breaker(self, link: Link) -> Breaker:
        """The breaker of this driver's way to the BMC. Other credentials are another way: closed."""
        credentials, breaker = self._breakers.get((link.driver, link.endpoint.port), (None, CLOSED))
        return breaker if credentials == link.endpoint.credentials else CLOSED

    def allows(self, link: Link, verb: str, *, insist: bool = False) -> PowerError | None:
        """None when `verb` may be sent now, else the failure that is remembered."""
        now = self._clock.tick()
        for breaker in (self.breaker(link), link.verbs.get(verb, CLOSED)):
            if not breaker.allows(now, insist=insist):
                return remembered(breaker, now)
        return None

    async def do(
        self,
        link: Link,
        call: Callable[[Power], Awaitable[T]],
        *,
        verb: str,
        seconds: float,
        insist: bool = False,
        force: bool = False,
    ) -> T:
        """Wait for the turn, send one command, wait at most `seconds` for the answer. Raises PowerError.

        `insist` and `force`: whether a breaker that is open is asked mildly or not at all.
        """
        async with self._lock:
            # Asked again here: what waited behind a command that hung need not hang as well.
            refusal = None if force else self.allows(link, verb, insist=insist)
            if refusal is not None:
                self.counters["not asked"] += 1
                raise refusal
            self._refuse_while_stuck()
            now = self._clock.tick()
            if now < self._free_at:
                await self._clock.sleep(self._free_at - now)
            self._asked(link, verb)
            self.counters["commands"] += 1
            try:
                answer = await self._bounded(link, call, verb, seconds)
            except PowerError as error:
                self.failed(link, verb, error)
                if rule_of(error.code).repeat:
                    # Whatever state the session is in, the next command does not inherit it.
                    await link.close()
                raise
            else:
                self._succeeded(link, verb)
                return answer
            finally:
                self._free_at = self._clock.tick() + self._gap

    async def dismiss(self, link: Link) -> None:
        """Give the link's session back, after the command in flight."""
        async with self._lock:
            await link.close()

    async def _bounded(self, link: Link, call: Callable[[Power], Awaitable[T]], verb: str, seconds: float) -> T:
        breaker = self.breaker(link)
        if breaker.code == "hung":
            seconds *= PATIENCE
        task: asyncio.Future[T] = asyncio.ensure_future(_called(link, call))
        # Who asked may be cancelled in the same moment in which it fails.
        task.add_done_callback(_taken)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                await self._give_up(task)
        if not task.done() or task.cancelled() or isinstance(task.exception(), TimeoutError):
            raise BmcHung(f"the BMC at {link.endpoint.address} did not answer {verb} by {link.driver} in {seconds:g} s")
        error = task.exception()
        if error is None or isinstance(error, PowerError) or not isinstance(error, Exception):
            return task.result()
        # A fault of ours or of the library behind the driver. It must not take 999 other machines with it.
        trace = "".join(traceback.format_exception(error))
        log.error("%s: the driver %s failed at %s\n%s", self.name, link.driver, verb, scrub(trace, link.endpoint))
        raise BmcGarbage(
            f"the driver {link.driver} could not make sense of {link.endpoint.address} at {verb}",
            evidence=scrub(f"{type(error).__name__}: {error}", link.endpoint),
        )

    async def _give_up(self, task: asyncio.Future[T]) -> None:
        task.cancel()
        self.counters["given up"] += 1
        # Two commands at one BMC at once are worse than one that waits: what does not end keeps the desk closed.
        self._stuck = (task, self._clock.tick())
        await asyncio.wait({task}, timeout=GRACE_SECONDS)

    def _refuse_while_stuck(self) -> None:
        if self._stuck is None:
            return
        task, since = self._stuck
        seconds = self._clock.tick() - since
        if task.done() or seconds > STUCK_SECONDS:
            self._stuck = None
            return
        self.counters["stuck"] += 1
        raise BmcHung(f"an earlier command to {self.name} is still not given back, {seconds:.0f} s after its end")

    def _asked(self, link: Link, verb: str) -> None:
        now = self._clock.tick()
        self._keep(link, self.breaker(link).asked(now))
        if verb in link.verbs:
            link.verbs[verb] = link.verbs[verb].asked(now)

    def failed(self, link: Link, verb: str, error: PowerError) -> None:
        """Remember a failure; also for what only reading back has shown."""
        self.counters[f"failed: {error.code}"] += 1
        now, jitter = self._clock.tick(), self._clock.jitter()
        text, evidence = scrub(str(error), link.endpoint), scrub(error.evidence, link.endpoint)
        scope = rule_of(error.code).scope
        whole = self.breaker(link)
        if scope is Scope.VERB:
            # It was answered, only not as we like: the way to the BMC is open.
            self._keep(link, whole.succeeded())
        else:
            self._keep(link, whole.failed(error.code, now, text=text, evidence=evidence, jitter=jitter))
        if scope is not Scope.DRIVER:
            before = link.verbs.get(verb, CLOSED)
            link.verbs[verb] = before.failed(error.code, now, text=text, evidence=evidence, jitter=jitter)

    def _succeeded(self, link: Link, verb: str) -> None:
        self._keep(link, CLOSED)
        link.verbs.pop(verb, None)

    def _keep(self, link: Link, breaker: Breaker) -> None:
        self._breakers[link.driver, link.endpoint.port] = (link.endpoint.credentials, breaker)


async def _called(link: Link, call: Callable[[Power], Awaitable[T]]) -> T:
    return await call(link.opened())


def _taken(task: asyncio.Future[T]) -> None:
    """Look at what a task ended with, so that nobody warns that nobody did."""
    if not task.cancelled():
        task.exception()


def remembered(breaker: Breaker, now: float) -> PowerError:
    """The failure that keeps a breaker open, as the error to raise instead of asking."""
    text = f"{breaker.text} (not asked again for {max(0.0, breaker.until - now):.0f} s)"
    return ERRORS.get(breaker.code, PowerError)(text, evidence=breaker.evidence)


def scrub(text: str, endpoint: Endpoint) -> str:
    """The text without the endpoint's password, wherever it came from."""
    credentials = endpoint.credentials
    return text.replace(credentials.password, "***") if credentials and credentials.password else text


def desk_name(machine: int | str, endpoint: Endpoint) -> str:
    """Which desk a command goes over: the BMC's address.

    Redfish and IPMI at their usual ports are the same BMC. An unusual port is a forwarded or simulated BMC of its own.
    What has no BMC has a desk for each machine: a hypervisor is asked about its domains one by one.
    """
    if endpoint.driver in ("none", "wol", "libvirt"):
        return f"{endpoint.driver}:{machine}"
    return endpoint.address if endpoint.port in (0, 80, 443, 623) else f"{endpoint.address}:{endpoint.port}"


def most_telling(errors: Mapping[Link, PowerError], verb: str) -> PowerError:
    """The error to show for several drivers' failures: the first that is not "cannot", with the others as evidence."""
    if not errors:
        return BmcNotSupported(f"the machine has no way to be asked {verb.replace('_', ' ')}: it has no BMC entered")
    ordered = list(errors.items())
    link, error = next((pair for pair in ordered if pair[1].code != "not-supported"), ordered[0])
    others = [f"{other.driver}: {failure}" for other, failure in ordered if other is not link]
    if not others:
        return error
    evidence = "; ".join(filter(None, [error.evidence, *others]))
    return type(error)(str(error), evidence=evidence)
