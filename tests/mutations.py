"""Mutated packets for parsers: bits flipped, bytes cut, repeated, replaced; seeded, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# A parser that keeps something of each packet would show here as tens of megabytes after this many.
COUNT = 100_000


def mutations(seeds: Sequence[bytes], count: int = COUNT, seed: int = 1) -> Iterator[bytes]:
    """Yield `count` damaged copies of the seeds."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0:
                    del data[at:]
                case 1:
                    data[at:at] = chance.randbytes(chance.randint(1, 8))
                case 2:
                    del data[at : at + chance.randint(1, 8)]
                case 3:
                    data[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF))])
                case _:
                    data[at:at] = data[at : at + chance.randint(1, 32)]
        yield bytes(data)
