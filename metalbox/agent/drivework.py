"""The whole story of one disk: checked, prepared, read, erased by the first method that it takes, read again, judged.

The outcome says "erased" only when the drive's own end was seen and reading proved it; everything else is "failed", and
"refused" when nothing was written.
"""

from __future__ import annotations

from metalbox.agent.erasemethods import METHODS
from metalbox.agent.passthrough import DriveError
from metalbox.agent.preparations import Preparations
from metalbox.agent.proof import Proof, why_not
from metalbox.agent.target import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from metalbox.agent.target import Target

RETURN_SECONDS = 60.0
FACTS = ("serial", "wwn", "model", "firmware", "size_bytes", "name", "transport")


class DriveWork:
    """One disk of an order."""

    def __init__(self, target: Target, order: dict[str, Any], erased: Collection[str]) -> None:
        """`erased` are the kernel names of all block devices that the order erases."""
        self.target = target
        self.preparations = Preparations()
        self._order = order
        self._erased = erased
        self._attempts: list[dict[str, Any]] = []
        self._started_at = 0
        self._method = ""
        self._firmware_status = ""
        self._verification: dict[str, Any] | None = None
        self._has_written = False

    def run(self) -> dict[str, Any]:
        """Do it; the disk's part of the outcome."""
        target = self.target
        self._started_at = int(target.kernel.now())
        try:
            self._work()
        except (DriveError, OSError) as error:
            return self.outcome("failed" if self._has_written else "refused", _sentence(error))
        except Exception as error:  # a bug on odd hardware costs this disk its success, not the others
            return self.outcome("failed", f"the agent failed with {type(error).__name__}: {error}")
        finally:
            target.close()
        return self.outcome("erased", "")

    def outcome(self, result: str, evidence: str) -> dict[str, Any]:
        """The disk's part of the outcome as far as it is known."""
        target = self.target
        target.ended = target.kernel.clock()
        target.phase = "done" if result == "erased" else "failed"
        if result == "erased":
            target.percent = 100.0
        disk = target.disk or target.row
        return {
            **{key: disk.get(key, "") for key in FACTS},
            "result": result,
            "method": self._method,
            "attempts": list(self._attempts),
            "preparations": list(self.preparations.done),
            "started_at": self._started_at,
            "seconds": round(target.ended - target.started),
            "firmware_status": self._firmware_status,
            "verification": self._verification,
            "evidence": evidence,
        }

    def _work(self) -> None:
        target = self.target
        target.check()
        target.disk = find(target.kernel.disks(), target.row)
        if "stop-holders" in target.row["preparations"]:
            self.preparations.stop_holders(target, self._erased)
        target.open()
        self._has_written = True  # from here on a drive may be changed: never again "refused"
        self.preparations.open_up(target)
        target.phase = "sample"
        proof = Proof(target, self._order["seed"], self._order["samples"], full=self._order["verify"] == "full")
        proof.take()
        self._erase()
        target.phase, target.percent = "verify", 0.0
        self._open_again()
        self._verification = proof.check(METHODS[self._method])
        if self._verification["result"] != "passed":
            raise DriveError(f"{self._method}: {why_not(self._verification)}")

    def _open_again(self) -> None:
        """Find the disk anew, whatever its name is now: a drive that was reset is away for some seconds."""
        target = self.target
        deadline = target.kernel.clock() + RETURN_SECONDS
        while True:
            try:
                target.reopen()
            except (DriveError, OSError) as error:
                target.check()
                if target.kernel.clock() >= deadline:
                    raise DriveError(f"after {self._method} the disk did not come back: {_sentence(error)}") from None
                target.kernel.wait(1.0)
            else:
                return

    def _erase(self) -> None:
        """The first method of the order that the drive takes. Raises DriveError."""
        target = self.target
        methods = target.row["methods"]
        estimates = target.row.get("seconds") or []
        for number, word in enumerate(methods):
            target.check()
            target.phase, target.method, target.percent = "erase", word, 0.0
            target.seconds = float(estimates[number]) if number < len(estimates) else None
            self._method = word
            started = target.kernel.clock()
            try:
                target.within()
                self._firmware_status = METHODS[word].run(target)
            except (DriveError, OSError) as error:
                begun = not isinstance(error, DriveError) or error.begun
                self._attempt("failed" if begun else "not taken", _sentence(error), started)
                if begun or number + 1 == len(methods):
                    raise DriveError(f"{word}: {_sentence(error)}") from None
            else:
                self._attempt("done", self._firmware_status, started)
                return

    def _attempt(self, result: str, evidence: str, started: float) -> None:
        seconds = round(self.target.kernel.clock() - started)
        self._attempts.append({"method": self._method, "result": result, "evidence": evidence, "seconds": seconds})


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} (errno {error.errno}){f', {error.filename}' if error.filename else ''}"
    return str(error)
