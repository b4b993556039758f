"""Whether a disk was erased, by reading: both looks at it put together into the `verification` of an outcome."""

from __future__ import annotations

import hashlib
from collections import Counter

from metalbox.agent import verify
from metalbox.agent.passthrough import DriveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from metalbox.agent.erasemethods import Method
    from metalbox.agent.target import Target


class Proof:
    """What was read of every device of one disk before its erase, to be compared with what is read afterwards."""

    def __init__(self, target: Target, seed: str, samples: int, *, full: bool) -> None:
        self.seed = seed
        self.full = full
        self.markers = 0
        self._target = target
        self._starts: list[list[int]] = []
        self._areas: list[list[verify.Area]] = []
        self._before: list[verify.Look] = []
        self._whole: list[verify.Whole] = []
        for number, (device, size) in enumerate(zip(target.devices, target.sizes, strict=True)):
            partitions = target.kernel.partitions(device.name)
            self._starts.append([verify.MIB, *(start for start, _ in partitions)])
            self._areas.append(verify.areas(seed, str(number), size, samples, partitions))

    def take(self) -> None:
        """Read the disk before, with markers planted where it was empty. Raises OSError, DriveError (not begun)."""
        self._before = []
        for device, places in zip(self._target.devices, self._areas, strict=True):
            look = verify.look(device, places, self._going)
            planted = verify.plant(device, self.seed, places, look)
            if planted:
                self.markers += len(planted)
                look = verify.look(device, places, self._going)
            if not look.proving:
                raise DriveError(f"/dev/{device.name}: nothing that was read before can prove an erase", begun=False)
            self._before.append(look)
        if self.full:
            pairs = zip(self._target.devices, self._target.sizes, strict=True)
            self._whole = [verify.Whole(size).read(device, self._going) for device, size in pairs]

    def check(self, method: Method) -> dict[str, Any]:
        """Read the disk after; the `verification` with its result. Raises OSError when it cannot be read."""
        target = self._target
        looks, found = [], []
        for device, size, places, starts in zip(target.devices, target.sizes, self._areas, self._starts, strict=True):
            device.forget()
            looks.append(verify.look(device, places, self._going))
            found += verify.signatures(device, size, starts)
        pairs = zip(target.devices, target.sizes, strict=True)
        wholes = [verify.Whole(size).read(device, self._going) for device, size in pairs] if self.full else []
        return self._judge(method, looks, wholes, found)

    def _judge(
        self, method: Method, looks: list[verify.Look], wholes: list[verify.Whole], found: list[str]
    ) -> dict[str, Any]:
        unchanged = sum(one.unchanged(other) for one, other in zip(self._before, looks, strict=True))
        if wholes:
            unchanged += sum(one.unchanged(other) for one, other in zip(self._whole, wholes, strict=True))
        mismatches: list[dict[str, Any]] = []
        everything: list[verify.Look | verify.Whole] = [*looks, *wholes]
        if method.zeroes:
            mismatches = [one for read in everything for one in read.nonzero]
        elif method.uniform and any(read.uniform for read in everything):
            mismatches = [one for read in everything for one in read.mixed]
        regions = Counter(area.region for places in self._areas for area in places)
        passed = not unchanged and not mismatches and not found
        return {
            "seed": self.seed,
            "samples": sum(regions.values()),
            "regions": {name: regions[name] for name in ("first", "last", "gpt", "superblocks", "random")},
            "markers": self.markers,
            "bytes_read": sum(look.bytes_read for look in looks) + sum(whole.size for whole in wholes),
            "expected": "zeroes" if method.zeroes else "changed",
            "before_digest": _digest(self._before),
            "after_digest": _digest(looks),
            "unchanged": unchanged,
            "mismatches": mismatches[: verify.SHOWN],
            "signatures": found,
            "full": self.full,
            "block": max((whole.block for whole in wholes), default=verify.BLOCK),
            "result": "passed" if passed else "failed",
        }

    def _going(self, length: int) -> None:
        self._target.check()
        self._target.within()


def _digest(looks: list[verify.Look]) -> str:
    if len(looks) == 1:
        return looks[0].whole.hexdigest()
    return hashlib.sha256(b"".join(look.whole.digest() for look in looks)).hexdigest()


def why_not(verification: dict[str, Any]) -> str:
    """A sentence on a verification that failed."""
    parts = []
    if verification["unchanged"]:
        parts.append(f"{verification['unchanged']} blocks read the same as before the erase")
    if verification["mismatches"]:
        first = verification["mismatches"][0]
        parts.append(f"at {first['offset']} is {first['found']}, expected {first['expected']}")
    if verification["signatures"]:
        parts.append(f"found after the erase: {', '.join(verification['signatures'])}")
    return "; ".join(parts)
