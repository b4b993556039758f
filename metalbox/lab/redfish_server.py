"""sushy-tools' Redfish emulator as many BMCs: each address shows its own machine only, behind its own password.

Run by the Python that has sushy-tools and libvirt's binding (`bmcs.python`), which is not metalbox's own. As it comes,
the emulator has every machine of the libvirt in one list behind one password, and whoever takes the first takes any.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import importlib
import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# DSP0266 section 13.3: what is readable without an account.
OPEN_PATHS = {"", "redfish", "redfish/v1"}
# The environ key with our own address of the connection.
LOCAL = "metalbox.local_address"
# Resources whose names are a machine's UUID.
NAMED_BY_MACHINE = ("Systems", "Managers")

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def is_allowed(header: str, user: str, password: str) -> bool:
    """Whether an Authorization header (RFC 7617) holds this account."""
    kind, _, token = header.partition(" ")
    try:
        given = base64.b64decode(token.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, f"{user}:{password}".encode())


def machine_of(path: str) -> str:
    """The machine that a path under /redfish/v1 is about, "" when it is about none."""
    parts = path.strip("/").split("/")
    return parts[3].lower() if len(parts) > 3 and parts[2] in NAMED_BY_MACHINE else ""


def guarded(application: Application, bmcs: dict[str, dict[str, str]]) -> Application:
    """The application, with each address asking for its own password and knowing its own machine."""

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        bmc = bmcs.get(environ.get(LOCAL, ""))
        path = environ.get("PATH_INFO", "")
        if bmc is None:
            return _refuse(start, "404 Not Found", "there is no BMC at this address")
        is_open = path.strip("/") in OPEN_PATHS
        header = environ.pop("HTTP_AUTHORIZATION", "")
        if not is_open and not is_allowed(header, bmc["user"], bmc["password"]):
            return _refuse(start, "401 Unauthorized", "authorization required")
        if machine_of(path) not in ("", bmc["uuid"]):
            return _refuse(start, "404 Not Found", "there is no such machine at this BMC")
        return application(environ, start)

    return answer


def _refuse(start: StartResponse, status: str, message: str) -> list[bytes]:
    body = json.dumps({"error": {"code": "Base.1.0.GeneralError", "message": message}}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if status.startswith("401"):
        headers.append(("WWW-Authenticate", 'Basic realm="BMC"'))
    start(status, headers)
    return [body]


def serve(settings: dict[str, Any]) -> None:
    """Serve every BMC of `settings` (bmcs.py writes it) until killed."""
    flask: Any = importlib.import_module("flask")
    emulator: Any = importlib.import_module("sushy_tools.emulator.main")
    libvirtdriver: Any = importlib.import_module("sushy_tools.emulator.resources.systems.libvirtdriver")
    serving: Any = importlib.import_module("werkzeug.serving")

    bmcs: dict[str, dict[str, str]] = settings["bmcs"]

    class Handler(serving.WSGIRequestHandler):  # type: ignore[misc]
        def make_environ(self) -> dict[str, Any]:
            return {**super().make_environ(), LOCAL: self.connection.getsockname()[0]}

    emulator.app.configure(extra_config=settings["emulator"])
    # The lists of systems and managers, and the chassis' links to them, are made of this.
    libvirtdriver.LibvirtDriver.systems = property(lambda _: [bmcs[flask.request.environ[LOCAL]]["uuid"]])
    application = guarded(emulator.app.wsgi_app, bmcs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])
    for port, tls in ((80, None), (443, context)):
        server = serving.make_server("0.0.0.0", port, application, threaded=True, request_handler=Handler)
        if tls:
            # Given to make_server, the handshake would be made where connections are accepted: whoever connects and
            # says nothing would stop every BMC.
            server.ssl_context = tls
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever).start()
    print("serving", flush=True)


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
