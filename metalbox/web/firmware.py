"""HTTP for firmware, iPXE and shim: the scripts, the boot files, the agent's kernel and initramfs.

Written for clients that do little: no redirect, always a Content-Length, the `Host` header is not looked at (EDK2
leaves out the port), HTTP/1.0 is fine. Files leave by sendfile. Each answer is a line of the asking machine's timeline.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import jinja2
from aiohttp import hdrs, web

from metalbox import boot
from metalbox.boot import Asking, Decision, Target, Templates
from metalbox.config import Boot
from metalbox.errors import StartError
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac, Machine
from metalbox.presence import Presence

# UEFI HTTP Boot takes a file by its type, and refuses one that it does not know (UEFI 2.10, section 24.7.3.1).
TYPES = {".efi": "application/efi", ".iso": "application/vnd.efi-iso", ".img": "application/vnd.efi-img"}
OTHER_TYPE = "application/octet-stream"
# More than iPXE sends; what comes after it is not read.
MAX_CLAIMS = 32

Recognise = Callable[[Asking], Awaitable[Machine | None]]
Find = Callable[[str], Path | None]


def load_templates(own: Path | None) -> Templates:
    """Read the scripts of `ipxe/`; a file in the folder `own` takes the place of the shipped one. Raises StartError."""
    here = Path(__file__).resolve().parents[1]
    shipped = [here / "_shipped" / "ipxe", here.parent / "ipxe"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in (own, *shipped) if folder]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    try:
        return Templates(
            first=environment.get_template("first.ipxe.j2"),
            targets={target: environment.get_template(f"{target}.ipxe.j2") for target in Target},
            grub=environment.get_template("grub.cfg.j2"),
        )
    except jinja2.TemplateSyntaxError as error:
        raise StartError(
            f"the template {error.filename or error.name}:{error.lineno} is wrong: {error.message}"
        ) from None
    except jinja2.TemplateNotFound as error:
        raise StartError(f"the template {error.name} is missing: install metalbox again") from None


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes from `start` up to `stop` of a file of `size` bytes."""

    start: int
    stop: int
    size: int
    status: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def _asked_part(request: web.Request, size: int) -> _Part:
    """What the Range header asks for; one that cannot be read is ignored (RFC 9110 section 14.2)."""
    whole = _Part(0, size, size, 200)
    try:
        asked = request.http_range
    except ValueError:
        return whole
    if asked.start is None:
        return whole
    start = max(0, size + asked.start) if asked.start < 0 else asked.start
    stop = size if asked.stop is None else min(asked.stop, size)
    if start >= stop:
        return _Part(0, 0, size, 416)
    return _Part(start, stop, size, 206)


class Firmware:
    """The answers. `recognise` finds the machine in the inventory, `find` the file of a boot file's name."""

    def __init__(
        self,
        settings: Boot,
        templates: Templates,
        recognise: Recognise,
        find: Find,
        journal: Journal,
        presence: Presence,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._templates = templates
        self._recognise = recognise
        self._find = find
        self._journal = journal
        self._presence = presence
        self._now = now
        self._first = boot.first_script(templates)

    async def first_script(self, request: web.Request) -> web.StreamResponse:
        """The constant script in which iPXE introduces the machine."""
        return self._text(request, self._first, "first script", self._who(request), time.monotonic())

    async def script(self, request: web.Request) -> web.StreamResponse:
        """The decided script. Always 200: whoever asks, and however oddly, is told something to do."""
        began = time.monotonic()
        peer = request.remote or ""
        asking = Asking.parse(_claims(request.rel_url.raw_query_string), mac=self._who(request), address=peer)
        if asking.mac:
            self._presence.saw(asking.mac, peer, now=self._now(), booting=True)
        decision = self.decide(await self._recognise(asking), asking)
        body = boot.script(self._templates, decision, asking, _our_address(request), self._settings)
        return self._text(request, body, "script", asking.mac, began)

    def decide(self, machine: Machine | None, asking: Asking) -> Decision:
        """Decide for a machine that introduced itself, and keep the decision with its inputs in the timeline."""
        arch = asking.agent_arch
        parts = [self._find(f"agent/{arch}/{part}") for part in ("vmlinuz", "initrd")]
        decision = boot.decide(machine, asking, {arch} if arch and all(parts) else ())
        self._journal.record(
            Kind.DECISION,
            f"decided: boots {decision.target}, because {decision.reason}",
            now=self._now(),
            mac=asking.mac,
            machine_id=machine.id if machine else None,
            key=f"{decision.target}:{decision.reason}",
            data={"target": str(decision.target), "reason": decision.reason, "inputs": decision.inputs},
        )
        return decision

    def grub_script(self, machine: Machine | None, mac: Mac | None, address: str, http_port: int) -> bytes:
        """The decided grub.cfg. GRUB cannot introduce itself: of the machine only its MAC is known."""
        asking = Asking(mac=mac, arch="x86_64", platform="uefi", address=address, loader="grub")
        decision = self.decide(machine, asking)
        return boot.grub_script(self._templates, decision, asking, http_port, self._settings)

    async def boot_file(self, request: web.Request) -> web.StreamResponse:
        """A boot loader by its plain name."""
        return await self._file(request, request.match_info["name"], "boot file")

    async def agent_file(self, request: web.Request) -> web.StreamResponse:
        """The agent's kernel or initramfs."""
        part = request.match_info["part"]
        name = f"agent/{request.match_info['arch']}/{part}"
        return await self._file(request, name, "kernel" if part == "vmlinuz" else "initrd")

    def _who(self, request: web.Request) -> Mac | None:
        return self._presence.mac_of(request.remote or "", self._now())

    def _text(self, request: web.Request, body: bytes, role: str, mac: Mac | None, began: float) -> web.Response:
        self._record(request, role, mac, "sent", 200, len(body), time.monotonic() - began)
        return web.Response(body=body, content_type="text/plain", headers={hdrs.CACHE_CONTROL: "no-store"})

    async def _file(self, request: web.Request, name: str, role: str) -> web.StreamResponse:
        path = self._find(name)
        mac = self._who(request)
        if mac:
            self._presence.saw(mac, request.remote or "", now=self._now(), booting=True)
        try:
            # Opening may wait for a disk or a network file system.
            file = await asyncio.to_thread(path.open, "rb") if path else None
        except OSError:
            file = None
        if file is None:
            self._record(request, role, mac, "not found", 404, 0, 0.0)
            raise web.HTTPNotFound
        with file:
            part = _asked_part(request, os.fstat(file.fileno()).st_size)
            response = web.StreamResponse(status=part.status)
            response.content_type = TYPES.get(Path(name).suffix, OTHER_TYPE)
            response.content_length = part.length
            response.headers[hdrs.ACCEPT_RANGES] = "bytes"
            if part.status == 206:
                response.headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{part.size}"
            elif part.status == 416:
                response.headers[hdrs.CONTENT_RANGE] = f"bytes */{part.size}"
            await self._send(request, response, file, part, role, mac)
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        file: BinaryIO,
        part: _Part,
        role: str,
        mac: Mac | None,
    ) -> None:
        began = time.monotonic()
        outcome = "aborted"
        wanted = 0 if request.method == "HEAD" else part.length
        file.seek(part.start)
        try:
            await response.prepare(request)
            transport = request.transport
            if wanted and transport is not None:
                await asyncio.get_running_loop().sendfile(transport, file, part.start, wanted)
            if transport is not None and file.tell() - part.start == wanted:
                await response.write_eof()
                outcome = "sent"
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            # The event loop says "Transport is closing" as a RuntimeError; any other is a mistake of ours.
            if isinstance(error, RuntimeError) and request.transport is not None and not request.transport.is_closing():
                raise
        finally:
            if outcome == "aborted" and request.transport is not None:
                # Also when the file became shorter meanwhile: the promised length cannot be kept.
                request.transport.abort()
            sent = file.tell() - part.start
            self._record(request, role, mac, outcome, part.status, sent, time.monotonic() - began)

    def _record(
        self, request: web.Request, role: str, mac: Mac | None, outcome: str, status: int, size: int, seconds: float
    ) -> None:
        path = request.path[:200]
        what = f"{role} {path}" if role in ("boot file", "kernel", "initrd") else role
        text = {
            "sent": f"got the {what} by HTTP: {size} bytes in {seconds:.2f} s",
            "aborted": f"broke off the {what} by HTTP after {size} bytes and {seconds:.2f} s",
            "not found": f"asked by HTTP for the {what}, which we do not have",
        }[outcome]
        if request.method == "HEAD":
            text = f"asked by HTTP for the size of the {what}"
        data = {
            "path": path,
            "status": status,
            "bytes": size,
            "seconds": round(seconds, 4),
            "outcome": outcome,
            "role": role,
            "address": request.remote or "",
        }
        # One line for each file; only those who ask in a loop for what is not there share a line.
        key = f"{outcome}:{path}" if outcome == "not found" else ""
        self._journal.record(Kind.HTTP, text, now=self._now(), mac=mac, key=key, data=data)


def _claims(query: str) -> dict[str, str]:
    """Read iPXE's query. Of a name that comes twice the first counts; iPXE does not escape +, so it is a plus sign."""
    claims: dict[str, str] = {}
    for part in query.split("&")[:MAX_CLAIMS]:
        name, _, value = part.partition("=")
        claims.setdefault(name, unquote(value, errors="replace"))
    return claims


def _our_address(request: web.Request) -> str:
    """Our end of the connection as "address:port": the address of ours that this machine can reach."""
    assert request.transport is not None
    address, port = request.transport.get_extra_info("sockname")[:2]
    return f"{address}:{port}"
