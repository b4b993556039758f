"""Joins a machine's serial port to its BMC: ipmi_sim connects once, at its start, and QEMU anew with every power-on.

Run as a program of its own: `python -m metalbox.lab.serial_hub ADDRESS BMC_PORT MACHINE_PORT ADDRESS ...`. Whatever one
side sends while the other is not there is lost, as on a wire; nothing is kept, and neither side ever waits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

CHUNK = 4096
# Bytes that a side may leave unread before more are lost.
PATIENCE = 2**16


class Cable:
    """The two ends of one serial line."""

    def __init__(self) -> None:
        self.ends: list[asyncio.StreamWriter | None] = [None, None]

    async def plug(self, end: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection to one end until it closes; it replaces the one before."""
        self.ends[end], before = writer, self.ends[end]
        if before:
            before.close()
        try:
            while data := await reader.read(CHUNK):
                other = self.ends[1 - end]
                if other and other.transport.get_write_buffer_size() < PATIENCE:
                    other.write(data)
        except ConnectionError:
            pass
        finally:
            if self.ends[end] is writer:
                self.ends[end] = None
            writer.close()


async def serve(lines: Sequence[tuple[str, int, int]]) -> None:
    """Hold these lines (address, the BMC's port, the machine's port) until cancelled."""
    servers = []
    for address, *ports in lines:
        cable = Cable()
        servers += [await asyncio.start_server(_plugger(cable, end), address, port) for end, port in enumerate(ports)]
    print("serving", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _plugger(cable: Cable, end: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    return lambda reader, writer: cable.plug(end, reader, writer)


if __name__ == "__main__":
    words = iter(sys.argv[1:])
    asyncio.run(serve([(address, int(near), int(far)) for address, near, far in zip(words, words, words, strict=True)]))
