"""Serves a folder by TFTP with metalbox's own server until ended; for tests, which start it inside a namespace.

python -m tests.tftp.serve FOLDER [PORT [SECONDS]]

With SECONDS nothing is sent again before they are over: for a wire that loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from metalbox import config
from metalbox.files import ServedFile
from metalbox.journal import Journal
from metalbox.presence import Presence
from metalbox.tftp import session
from metalbox.tftp.server import TftpServer


async def serve(folder: Path, port: int) -> None:
    def resolve(name: str, _: str) -> ServedFile | None:
        path = folder / name.lstrip("/")
        return ServedFile(path.name, path) if path.is_file() else None

    server = TftpServer(config.Tftp(port=port), resolve, Journal(), Presence(lambda _: None))
    await server.start()
    print(server.listening, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()
    print(json.dumps(server.counters), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        session.FIRST_WAIT = session.SHORTEST_WAIT = session.LONGEST_WAIT = float(sys.argv[3])
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 69))
