"""Orders that take more than a report: each in a thread of its own, while the agent goes on listening.

    claim      before anything is touched the server must say that the order still stands; any other answer ends it
    progress   how far it is, whenever there is news; a refusal means that the order was taken back
    done       what came of it, said until the server has taken it

An order that was begun is not begun again in this run of the agent, whatever the server repeats.
"""

from __future__ import annotations

import importlib
import os
import threading

from metalbox.agent.client import Refused, Unreachable, expect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from metalbox.agent.client import Client
    from metalbox.agent.journal import Journal

# Verbs and the modules that do them: each has `work(errand) -> outcome`, a JSON object.
WORKS: Mapping[str, str] = {
    "bmc-account": "metalbox.agent.bmcaccount",
    "erase": "metalbox.agent.eraser",
    "power-off": "metalbox.agent.poweroff",
}
MAX_FAILURE = 1000


class Cancelled(Exception):
    """The server does not want this any more."""


class Errand:
    """One order while it is carried out. `data` is what it is about; `cancelled` is set when it should end soon."""

    def __init__(
        self,
        order: dict[str, Any],
        boot: Mapping[str, str],
        client: Callable[[], Client],
        hardware: Callable[[], dict[str, Any]],
        journal: Journal,
        pause: Callable[[int], float],
    ) -> None:
        data = order.get("data")
        self.number: int = order["id"]
        self.verb: str = order["verb"]
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        self.hardware = hardware
        self.say = journal.say
        self.cancelled = threading.Event()
        self._boot = boot
        self._token = order.get("token", "")
        self._client = client
        self._pause = pause

    @property
    def boot_id(self) -> str:
        """The boot that this is, as the kernel names it."""
        return self._boot["boot_id"]

    def claim(self) -> None:
        """Ask whether the order still stands; to be called before anything is touched. Raises Cancelled."""
        failures = 0
        while not self.cancelled.is_set():
            try:
                self._post("claim", {})
            except Unreachable:
                failures += 1
                self.cancelled.wait(self._pause(failures))
            except Refused as error:
                raise Cancelled(str(error)) from None
            else:
                return
        raise Cancelled("the agent stops")

    def progress(self, document: dict[str, Any]) -> bool:
        """Tell how far it is, once, and whether the server has it; one that cannot be reached costs nothing."""
        try:
            self._post("progress", {"progress": document})
        except Unreachable:
            return False
        except Refused:
            self.cancelled.set()
            return False
        return True

    def finish(self, outcome: dict[str, Any], stop: threading.Event) -> None:
        """Say what came of it until the server takes it, or refuses to."""
        failures = 0
        while not stop.is_set():
            try:
                self._post("done", {"outcome": outcome})
            except Unreachable:
                failures += 1
                stop.wait(self._pause(failures))
            except Refused as error:
                self.say(f"order {self.number}: the server does not take what came of it: {error}")
                return
            else:
                return

    def _post(self, what: str, document: dict[str, Any]) -> None:
        marks = {"boot_id": self._boot["boot_id"], "run": self._boot["run"], "token": self._token}
        expect(self._client().post(f"/agent/v1/orders/{self.number}/{what}", {**marks, **document}))


class Errands:
    """The orders of this run of the agent: those that go on and those that were done."""

    def __init__(
        self,
        boot: Mapping[str, str],
        client: Callable[[], Client],
        hardware: Callable[[], dict[str, Any]],
        journal: Journal,
        pause: Callable[[int], float],
        works: Mapping[str, str] = WORKS,
    ) -> None:
        """`client` is the way to the server as it is now, `pause` the seconds to wait after so many failures."""
        self._boot = boot
        self._client = client
        self._hardware = hardware
        self._journal = journal
        self._pause = pause
        self._works = works
        self._stop = threading.Event()
        self._begun: dict[int, Errand] = {}

    def knows(self, verb: object) -> bool:
        """Whether this agent can do such a thing."""
        return verb in self._works

    def begin(self, order: dict[str, Any]) -> bool:
        """Start a known order with a number; False when this run has begun it before."""
        if order["id"] in self._begun:
            return False
        errand = Errand(order, self._boot, self._client, self._hardware, self._journal, self._pause)
        self._begun[errand.number] = errand
        self._journal.say(f"order {errand.number}: {errand.verb}")
        threading.Thread(target=self._carry_out, args=(errand,), name=f"order {errand.number}", daemon=True).start()
        return True

    def stop(self) -> None:
        """Ask all of them to end."""
        self._stop.set()
        for errand in self._begun.values():
            errand.cancelled.set()

    def _carry_out(self, errand: Errand) -> None:
        try:
            outcome = importlib.import_module(self._works[errand.verb]).work(errand)
        except Cancelled as error:
            self._journal.say(f"order {errand.number} is not carried out: {error}")
            return
        except Exception as error:  # a bug in one order costs that order, and the server must not wait for it
            outcome = {"error": f"the agent failed with {type(error).__name__}: {error}"[:MAX_FAILURE]}
            self._journal.say(f"order {errand.number}: {outcome['error']}")
        errand.finish(outcome, self._stop)


def new_run() -> str:
    """A name for one start of the agent."""
    return os.urandom(8).hex()
