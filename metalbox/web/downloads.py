"""The files that firmware, iPXE and GRUB load by HTTP: which part, in whose turn, and what the timeline tells of it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from aiohttp import hdrs, web

from metalbox.config import Http
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.web.conditional import Part, Version, asked_part
from metalbox.web.sender import Sender, Transfer

log = logging.getLogger("metalbox.web")

# UEFI HTTP Boot takes a file by its type, and refuses one that it does not know (UEFI 2.10, section 24.7.3.1).
TYPES = {".efi": "application/efi", ".iso": "application/vnd.efi-iso", ".img": "application/vnd.efi-img"}
OTHER_TYPE = "application/octet-stream"
# Boot loaders are smaller and never wait: nothing but a boot loader is loaded by firmware, which is impatient.
BIG_BYTES = 4 << 20
# Who waits for its turn so long has a line of the timeline that says so.
TOLD_SECONDS = 5.0
# Told to those who may not even wait (503): machines of a rack do not come back in the same second.
RETRY_SECONDS = 10

Find = Callable[[str], Path | None]


class Downloads:
    """Answers with files. `find` gives the file of a name, `counters` counts who had to wait."""

    def __init__(
        self,
        settings: Http,
        find: Find,
        journal: Journal,
        presence: Presence,
        now: Callable[[], float] = time.time,
        counters: Counter[str] | None = None,
    ) -> None:
        self._settings = settings
        self._find = find
        self._journal = journal
        self._presence = presence
        self._now = now
        self._counters = Counter() if counters is None else counters
        # Each with its share of the places, and how many transfers it has now.
        self._senders = {Sender(places): 0 for places in _shares(settings.big_transfers)}
        self._big = 0

    def close(self) -> None:
        """Break off all transfers."""
        for sender in self._senders:
            sender.close()

    def under_way(self) -> Counter[str]:
        """How many big files are being sent at this moment, and how many of those wait for their turn."""
        waiting = sum(sender.turns.in_line for sender in self._senders)
        return Counter({"big files: under way now": self._big, "big files: waiting now": waiting})

    async def answer(self, request: web.Request, name: str, role: str) -> web.StreamResponse:
        """The file of this name, or the part of it that is asked for. Raises HTTPNotFound, HTTPServiceUnavailable."""
        path = self._find(name)
        mac = self._presence.mac_of(request.remote or "", self._now())
        if mac:
            self._presence.saw(mac, request.remote or "", now=self._now(), booting=True)
        try:
            # Opening may wait for a disk or a network file system.
            file = await asyncio.to_thread(path.open, "rb", 0) if path else None
        except OSError:
            file = None
        if file is None:
            self._record(request, role, mac, "not found", 404)
            raise web.HTTPNotFound
        with file:
            return await self._answer(request, file, name, role, mac)

    async def _answer(
        self, request: web.Request, file: BinaryIO, name: str, role: str, mac: Mac | None
    ) -> web.StreamResponse:
        found = os.fstat(file.fileno())
        version = Version.of(found.st_size, found.st_mtime_ns, found.st_ino)
        part = asked_part(request.headers, version, self._now(), is_get=request.method == "GET")
        is_big = part.length >= BIG_BYTES and request.method == "GET"
        if is_big and self._big >= self._settings.big_transfers + self._settings.waiting_transfers:
            self._record(request, role, mac, "turned away", 503)
            raise web.HTTPServiceUnavailable(
                headers={hdrs.RETRY_AFTER: str(RETRY_SECONDS)}, reason="too many machines wait for their turn"
            )
        response = web.StreamResponse(status=part.status, headers=_headers(part, version))
        if part.status != 304:
            response.content_type = TYPES.get(Path(name).suffix, OTHER_TYPE)
            response.content_length = part.length
        self._big += is_big
        try:
            await self._send(request, response, file, part, role, mac, is_big)
        finally:
            self._big -= is_big
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        file: BinaryIO,
        part: Part,
        role: str,
        mac: Mac | None,
        is_big: bool,
    ) -> None:
        began = time.monotonic()
        outcome, transfer = "aborted", None
        sender = min(self._senders, key=self._senders.__getitem__)
        self._senders[sender] += 1
        try:
            await _send_head(request, response)
            transport = request.transport
            if transport is not None and part.length and request.method == "GET":
                copy = os.fdopen(os.dup(file.fileno()), "rb", 0)
                transfer = sender.begin(transport.get_extra_info("socket").dup(), copy, part, is_big=is_big)
                # Else a client that has closed its sending side would close the connection, as far as asyncio knows.
                is_reading = transport.is_reading()
                transport.pause_reading()
                error = await self._seen_through(request, transfer, role, mac)
                if is_reading and not transport.is_closing():
                    transport.resume_reading()
                if error:
                    raise ConnectionError(error)
            if request.transport is not None:
                await response.write_eof()
                outcome = "sent"
        except OSError as error:
            log.debug("%s %s is broken off: %s", request.remote, request.path, error)
        finally:
            self._senders[sender] -= 1
            if transfer is not None:
                sender.drop(transfer)
            if outcome == "aborted" and request.transport is not None:
                # Also when the file became shorter meanwhile: the promised length cannot be kept.
                request.transport.abort()
            seconds = time.monotonic() - began
            self._record(request, role, mac, outcome, part.status, seconds, transfer)

    async def _seen_through(self, request: web.Request, transfer: Transfer, role: str, mac: Mac | None) -> str:
        """Wait for the end, which is told with its error; a long wait in the line is told to the timeline."""
        if transfer.is_big:
            await asyncio.wait((transfer.finished,), timeout=TOLD_SECONDS)
            if transfer.is_waiting and not transfer.finished.done():
                self._record(request, role, mac, "waiting", 200, TOLD_SECONDS)
        return await transfer.finished

    def _record(
        self,
        request: web.Request,
        role: str,
        mac: Mac | None,
        outcome: str,
        status: int,
        seconds: float = 0.0,
        transfer: Transfer | None = None,
    ) -> None:
        """One line of the timeline."""
        size, waited = (transfer.sent, transfer.waited) if transfer is not None else (0, 0.0)
        path = request.path[:200]
        what = f"{role} {path}"
        places = f"{self._settings.big_transfers} others have theirs"
        text = {
            "sent": f"got the {what} by HTTP: {size} bytes in {seconds:.2f} s",
            "aborted": f"broke off the {what} by HTTP after {size} bytes and {seconds:.2f} s",
            "not found": f"asked by HTTP for the {what}, which we do not have",
            "waiting": f"waits for its turn to get the {what} by HTTP: {places}",
            "turned away": f"asked by HTTP for the {what} and was told to come again: too many wait for their turn",
        }[outcome]
        if request.method == "HEAD":
            text = f"asked by HTTP for the size of the {what}"
        elif status == 304:
            text = f"asked by HTTP for the {what}, and has it already"
        if waited:
            text += f", of which it waited {waited:.2f} s for its turn"
            self._counters["big files: waited for their turn"] += 1
        if outcome == "turned away":
            self._counters["big files: turned away, too many wait"] += 1
        data = {
            "path": path,
            "status": status,
            "bytes": size,
            "seconds": round(seconds, 4),
            "outcome": outcome,
            "role": role,
            "address": request.remote or "",
            **({"waited": round(waited, 4)} if waited else {}),
        }
        # One line for each file; only those who ask in a loop for what they do not get share a line.
        key = f"{outcome}:{path}" if outcome in ("not found", "turned away", "waiting") else ""
        self._journal.record(Kind.HTTP, text, now=self._now(), mac=mac, key=key, data=data)


def _shares(places: int) -> tuple[int, ...]:
    """The places of each sender: two of them, so that one that waits for a disk does not hold up all transfers."""
    return (places - places // 2, places // 2) if places > 1 else (places,)


def _headers(part: Part, version: Version) -> dict[str, str]:
    headers: dict[str, str] = {
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.ETAG: version.etag,
        hdrs.LAST_MODIFIED: version.last_modified,
    }
    if part.content_range:
        headers[hdrs.CONTENT_RANGE] = part.content_range
    return headers


async def _send_head(request: web.Request, response: web.StreamResponse) -> None:
    """The headers, to the last byte: what follows goes past the transport and its buffer."""
    writer = await response.prepare(request)
    transport = request.transport
    if writer is not None and transport is not None and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(0)
        await writer.drain()
        transport.set_write_buffer_limits()
