"""HTTP for firmware, iPXE and shim: the scripts, the boot files, the agent's kernel and initramfs.

Written for clients that do little: no redirect, always a Content-Length, the `Host` header is not looked at (EDK2
leaves out the port), HTTP/1.0 is fine. Each answer is a line of the asking machine's timeline.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote

import jinja2
from aiohttp import hdrs, web

from metalbox import boot
from metalbox.boot import Asking, Decision, Target, Templates
from metalbox.config import Boot, Http
from metalbox.errors import StartError
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac, Machine
from metalbox.presence import Presence
from metalbox.web.downloads import Downloads, Find

# More than iPXE sends; what comes after it is not read.
MAX_CLAIMS = 32

Recognise = Callable[[Asking], Awaitable[Machine | None]]


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
        http: Http | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        self._settings = settings
        self.downloads = Downloads(http or Http(), find, journal, presence, now, counters)
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

    async def close(self, app: web.Application | None = None) -> None:
        """Break off the transfers; the signature is aiohttp's for what is done at the end."""
        self.downloads.close()

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
        return await self.downloads.answer(request, request.match_info["name"], "boot file")

    async def agent_file(self, request: web.Request) -> web.StreamResponse:
        """The agent's kernel or initramfs."""
        part = request.match_info["part"]
        name = f"agent/{request.match_info['arch']}/{part}"
        return await self.downloads.answer(request, name, "kernel" if part == "vmlinuz" else "initrd")

    def _who(self, request: web.Request) -> Mac | None:
        return self._presence.mac_of(request.remote or "", self._now())

    def _text(self, request: web.Request, body: bytes, role: str, mac: Mac | None, began: float) -> web.Response:
        seconds = time.monotonic() - began
        text = f"got the {role} by HTTP: {len(body)} bytes in {seconds:.2f} s"
        if request.method == "HEAD":
            text = f"asked by HTTP for the size of the {role}"
        data = {
            "path": request.path[:200],
            "status": 200,
            "bytes": len(body),
            "seconds": round(seconds, 4),
            "outcome": "sent",
            "role": role,
            "address": request.remote or "",
        }
        self._journal.record(Kind.HTTP, text, now=self._now(), mac=mac, data=data)
        return web.Response(body=body, content_type="text/plain", headers={hdrs.CACHE_CONTROL: "no-store"})


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
