"""What must not be forgotten when the database is: the last order that erases, and how many were given of late.

A small file beside the database, on disk before the order is. A database that was restored from a copy knows fewer
orders than the ledger: then nothing may be carried out that it still holds for open, because it may have been done, and
the machine may be in use again. Under PostgreSQL the file is in the data folder all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from metalbox.errors import StartError

NAME = "metalbox-ledger"
HOUR = 3600.0


@dataclass(slots=True)
class Ledger:
    """`last_order` is the highest number of an erase order ever made; `wishes` when such were wished (Unix time).

    `unsure_after` is the order before the last one while nobody knows whether the last one reached the database; None
    once that is known.
    """

    path: Path
    last_order: int = 0
    wishes: list[float] = field(default_factory=list)
    unsure_after: int | None = None

    @classmethod
    def open(cls, data_dir: Path) -> Ledger:
        """Read the file; there is none before the first erase order. Raises StartError for one that is damaged."""
        path = data_dir / NAME
        try:
            row = json.loads(path.read_text())
            unsure = row["unsure_after"]
            wishes = [float(at) for at in row["wishes"]]
            return cls(path, int(row["last_order"]), wishes, None if unsure is None else int(unsure))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StartError(
                f"the ledger {path} cannot be read ({error}): it says which erase orders were given; restore it from a "
                "copy, or remove it if you are sure that no machine is at work"
            ) from None

    def wished(self, now: float) -> int:
        """How many destructive wishes there were in the hour before `now`. Those of a future clock count too."""
        return sum(1 for at in self.wishes if at > now - HOUR)

    def note_wish(self, now: float) -> None:
        """A destructive wish is granted."""
        self.wishes = [at for at in self.wishes if now - HOUR < at <= now] + [now]
        self._save()

    def note_order(self, number: int, before: int) -> None:
        """An erase order is being made, `before` was the one before it; on disk when this returns."""
        self.last_order, self.unsure_after = max(self.last_order, number), before
        self._save()

    def note_begun(self, number: int) -> None:
        """An agent begins this order: so it is in the database."""
        if number == self.last_order and self.unsure_after is not None:
            self.unsure_after = None
            self._save()

    def knows_more_than(self, last: int) -> bool:
        """Whether a database whose last erase order is `last` has forgotten some."""
        return last < self.last_order and last != self.unsure_after

    def _save(self) -> None:
        """Whole or not at all (rename(2)), and on disk, its name too."""
        new = self.path.with_name(NAME + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            row = {"last_order": self.last_order, "wishes": self.wishes, "unsure_after": self.unsure_after}
            json.dump(row, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
