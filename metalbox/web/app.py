"""Every URL of metalbox on one screen, and how its two HTTP servers start and stop. What a URL does is elsewhere."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from sqlalchemy.exc import DBAPIError

from metalbox.errors import MetalboxError, StartError
from metalbox.web.agent_api import MAX_BODY, AgentApi
from metalbox.web.api import Api
from metalbox.web.bmc_api import BmcApi
from metalbox.web.console_api import ConsoleApi
from metalbox.web.firmware import Firmware
from metalbox.web.life_api import VERBS, LifeApi
from metalbox.web.power_api import PowerApi

log = logging.getLogger("metalbox.web")

# Who connects and sends no whole request head in this time is let go; iPXE opens a connection only to use it.
IDLE_SECONDS = 75.0
# Transfers in progress get this long when the service stops; long polls are answered at once.
STOP_SECONDS = 0.5
# A machine that was switched off in the middle of a transfer acknowledges nothing (RFC 5482).
USER_TIMEOUT_MS = 60_000
# Machines of a large site that are switched on at the same moment.
BACKLOG = 1024


def firmware_app(firmware: Firmware, agents: AgentApi, counters: Counter[str]) -> web.Application:
    """What machines may ask: their firmware, iPXE, and our agent on them."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_answers(counters)])
    app.on_cleanup.append(firmware.close)
    app.add_routes(
        [
            web.get("/ipxe/first.ipxe", firmware.first_script),
            web.get("/ipxe/script", firmware.script),
            web.get("/boot/{name}", firmware.boot_file),
            web.get("/agent/{arch}/{part:vmlinuz|initrd}", firmware.agent_file),
            web.post("/agent/v1/hello", agents.hello),
            web.post("/agent/v1/report", agents.report),
            web.get("/agent/v1/orders", agents.orders, allow_head=False),
            web.post("/agent/v1/orders/{number:[0-9]{1,9}}/claim", agents.claim),
            web.post("/agent/v1/orders/{number:[0-9]{1,9}}/progress", agents.progress),
            web.post("/agent/v1/orders/{number:[0-9]{1,9}}/done", agents.done),
            web.post("/agent/v1/log", agents.log),
        ]
    )
    return app


def api_app(
    api: Api, power: PowerApi, bmcs: BmcApi, consoles: ConsoleApi, lives: LifeApi, counters: Counter[str]
) -> web.Application:
    """What the command line tool and other programs of the administrator may ask."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_answers(counters)])
    app.add_routes(
        [
            web.get("/api/v1/status", api.status),
            web.get("/api/v1/machines", api.lists.machines),
            web.get("/api/v1/machines/{name}", api.machine),
            web.get("/api/v1/machines/{name}/events", api.events_of),
            web.get("/api/v1/machines/{name}/why", api.why),
            web.post("/api/v1/machines/{name}/report", api.order_report),
            web.post("/api/v1/machines/{name}/labels", api.marks.labels),
            web.post("/api/v1/machines/{name}/note", api.marks.describe),
            web.get("/api/v1/machines/{name}/plan", lives.plan),
            web.get("/api/v1/machines/{name}/life", lives.life),
            web.post("/api/v1/machines/{name}/keep", lives.keep),
            web.post("/api/v1/machines/{name}/approve", lives.approve),
            web.post(f"/api/v1/machines/{{name}}/{{verb:{VERBS}}}", lives.verb),
            web.get("/api/v1/events", api.events),
            web.get("/api/v1/leases", api.lists.leases),
            web.post("/api/v1/notes", api.note),
            web.get("/api/v1/machines/{name}/power", power.state),
            web.post("/api/v1/machines/{name}/power", power.order),
            web.get("/api/v1/machines/{name}/sensors", power.sensors),
            web.get("/api/v1/machines/{name}/sel", power.event_log),
            web.post("/api/v1/machines/{name}/identify", power.identify),
            web.get("/api/v1/orders/{number:[0-9]{1,9}}", power.order_state),
            web.get("/api/v1/machines/{name}/console", consoles.view, allow_head=False),
            web.get("/api/v1/machines/{name}/console/log", consoles.log),
            web.get("/api/v1/certificates", api.certificates.listing),
            web.get("/api/v1/certificates/{number:[0-9]{1,9}}", api.certificates.document),
            web.get("/api/v1/certificates/{number:[0-9]{1,9}}.html", api.certificates.page),
            web.get("/api/v1/certificate-key", api.certificates.key),
            web.get("/api/v1/bmcs", bmcs.listing),
            web.post("/api/v1/bmcs", bmcs.add),
            web.post("/api/v1/bmcs/import", bmcs.take_list),
            web.post("/api/v1/bmcs/scan", bmcs.scan),
            web.post("/api/v1/bmcs/{name}/test", bmcs.test),
            web.post("/api/v1/bmcs/{name}/rotate", bmcs.rotate),
            web.get("/api/v1/bmcs/{name}/account", bmcs.account),
            web.delete("/api/v1/bmcs/{name}", bmcs.forget),
        ]
    )
    return app


def _answers(counters: Counter[str]) -> Middleware:
    """Count each answer, and turn what went wrong into one sentence: JSON for programs, plain text for firmware."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except MetalboxError as error:
            response = _error(request, error.http_status, str(error), error.exit_code)
        except web.HTTPException as error:
            response = _error(request, error.status, _sentence(request, error), 3 if error.status == 404 else 1)
            response.headers.update(
                {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
            )
        except DBAPIError as error:
            log.error("the database cannot be used: %s", error.orig)
            response = _error(request, 503, f"the database cannot be used: {error.orig}", 1)
        except TimeoutError:
            response = _error(request, 408, "the rest of the request did not come in time", 5)
        if response.status >= 400:
            counters[f"ignored: {response.status} {response.reason}"] += 1
        else:
            counters[f"answered: {response.status} {response.reason}"] += 1
        return response

    return middleware


def _sentence(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return f"there is nothing at {request.path!r}"
    if error.status == 405:
        return f"{request.method} is not possible at {request.path!r}"
    if error.status == 413:
        return f"the body is larger than {MAX_BODY} bytes"
    return error.reason


def _error(request: web.Request, status: int, sentence: str, exit_code: int) -> web.Response:
    if request.path.startswith(("/agent/v1/", "/api/")):
        return web.json_response({"error": sentence, "exit_code": exit_code}, status=status)
    return web.Response(text=sentence + "\n", status=status)


@asynccontextmanager
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Answer on a listening socket inside the `with` block; leaving it ends all connections within a second."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=STOP_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


def listen_tcp(address: IPv4Address, port: int) -> socket.socket:
    """Open the port for firmware and agents. Raises StartError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by each connection (Linux).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        listener.bind((str(address), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot serve HTTP on {address} port {port}: {_why_not(error)}") from None
    return listener


def _why_not(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "another program has this port: stop it, or choose another as http.port",
        errno.EADDRNOTAVAIL: "this host has no such address: see http.address",
        errno.EACCES: "not permitted: ports below 1024 need CAP_NET_BIND_SERVICE",
    }.get(error.errno or 0, error.strerror or str(error))


def listen_unix(path: Path) -> socket.socket:
    """Open the unix socket for the command line tool, mode 0660. Takes the place of a dead one. Raises StartError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path)
        # Made with the right mode from its first moment: nobody can connect in between.
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise StartError(f"cannot open the socket {path}: {reason}: see `socket` in the configuration") from None
    except StartError:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path) -> None:
    """Remove a socket that a killed service left behind; one that somebody answers on is a running service."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"cannot open the socket {path}: a file of this name is in the way, and it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (TimeoutError, BlockingIOError):
            pass
    raise StartError(f"cannot open the socket {path}: another metalbox service answers there: stop that one first")


def remove_unix(path: Path) -> None:
    """Take the socket away when stopping."""
    with contextlib.suppress(OSError):
        path.unlink()
