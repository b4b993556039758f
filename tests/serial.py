"""A serial port in memory: what the machine writes, what is typed at it, and how it gets lost."""

from __future__ import annotations

import asyncio

from metalbox.errors import PowerError
from metalbox.power import Console


class Port(Console):
    """One opened console."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark
        self.typed = b""
        self.breaks = 0
        self.is_closed = False
        self._items: asyncio.Queue[bytes | PowerError] = asyncio.Queue()

    def says(self, item: bytes | PowerError) -> None:
        """The machine writes this, or the console is lost in this way."""
        self._items.put_nowait(item)

    async def read(self) -> bytes:
        item = await self._items.get()
        if isinstance(item, PowerError):
            raise item
        return item

    async def write(self, data: bytes) -> None:
        self.typed += data

    async def send_break(self) -> None:
        self.breaks += 1

    async def close(self) -> None:
        self.is_closed = True


class Bmc:
    """Opens ports, one after the other; `refusals` are raised instead, in turn."""

    def __init__(self) -> None:
        self.ports: list[Port] = []
        self.asked: list[tuple[bool, str, bool]] = []
        self.at: list[float] = []
        self.refusals: list[PowerError | None] = []

    @property
    def port(self) -> Port:
        """The newest."""
        return self.ports[-1]

    async def open(self, force: bool, stale: str, insist: bool) -> tuple[Console, str]:
        """An Opener of metalbox.consoles."""
        self.asked.append((force, stale, insist))
        self.at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.5)
        if self.refusals and (error := self.refusals.pop(0)) is not None:
            raise error
        self.ports.append(Port(f"mark{len(self.ports) + 1}"))
        return self.port, "ipmi"
