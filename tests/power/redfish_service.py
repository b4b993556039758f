"""A small Redfish service for tests: any tree of resources over real HTTP(S), with sessions, writes and faults."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import tarfile
import threading
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metalbox.power import Credentials, Endpoint

Json = dict[str, Any]
USER, PASSWORD = "operator", "pass-word-of-the-bmc"
SESSIONS = "/redfish/v1/SessionService/Sessions"


def key(path: str) -> str:
    return urlsplit(path).path.rstrip("/")


def read_tree(*sources: Path) -> dict[str, Json]:
    """The resources in folders, files and tar archives, by the path that each names itself; a later one wins."""
    tree: dict[str, Json] = {}
    for source in sources:
        for text in _documents(source):
            try:
                document = json.loads(text)
            except ValueError:
                continue
            if isinstance(document, dict) and isinstance(document.get("@odata.id"), str):
                tree[key(document["@odata.id"])] = document
    return tree


def _documents(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        for path in sorted(source.rglob("*.json")):
            yield path.read_bytes()
    elif source.name.endswith(".tar.gz"):
        with tarfile.open(source) as archive:
            for member in archive:
                # Schemas and registries are most of a mockup's bytes, and nobody asks for them here.
                if member.name.endswith(".json") and not re.search("Schemas|Registries", member.name):
                    file = archive.extractfile(member)
                    assert file
                    yield file.read()
    else:
        yield source.read_bytes()


def plain_tree() -> dict[str, Json]:
    """One machine that says everything, of no vendor."""
    system = "/redfish/v1/Systems/1"
    resources: tuple[Json, ...] = (
        {
            "@odata.id": "/redfish/v1/",
            "Id": "RootService",
            "Name": "Root",
            "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "Managers": {"@odata.id": "/redfish/v1/Managers"},
            "Links": {"Sessions": {"@odata.id": SESSIONS}},
        },
        {"@odata.id": "/redfish/v1/Systems", "Members": [{"@odata.id": system}]},
        {
            "@odata.id": system,
            "Id": "1",
            "Manufacturer": "Contoso",
            "Model": "3500",
            "SerialNumber": "SN1",
            "UUID": "38947555-7742-3448-3784-823347823834",
            "PowerState": "Off",
            "BiosVersion": "P79",
            "IndicatorLED": "Off",
            "Boot": {
                "BootSourceOverrideEnabled": "Disabled",
                "BootSourceOverrideTarget": "None",
                "BootSourceOverrideMode": "UEFI",
                "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd", "Cd", "BiosSetup"],
            },
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": f"{system}/Actions/ComputerSystem.Reset",
                    "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart", "GracefulShutdown"],
                }
            },
            "Links": {"ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}]},
        },
        {"@odata.id": "/redfish/v1/Managers", "Members": [{"@odata.id": "/redfish/v1/Managers/1"}]},
        {"@odata.id": "/redfish/v1/Managers/1", "Id": "1", "Name": "Manager", "FirmwareVersion": "1.0"},
    )
    return {key(resource["@odata.id"]): resource for resource in resources}


@dataclass
class Answer:
    """What to say instead of the truth. `raw` goes to the socket as it is, `hang` says nothing for that long."""

    status: int = 500
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""
    hang: float = 0.0


def error(status: int, message_id: str, message: str, **headers: str) -> Answer:
    """A Redfish error as DSP0266 section 8.6 has it."""
    info = [{"MessageId": message_id, "Message": message, "Severity": "Critical"}]
    body = {
        "error": {
            "code": "Base.1.0.GeneralError",
            "message": "See @Message.ExtendedInfo",
            "@Message.ExtendedInfo": info,
        }
    }
    return Answer(status, body, headers)


class Service:
    """Serves `tree`. `requests` is what was asked, `faults` what is answered instead, by "METHOD path" (a regex)."""

    def __init__(self, tree: dict[str, Json] | None = None, *, open_to_all: bool = False) -> None:
        self.tree = plain_tree() if tree is None else tree
        self.open_to_all = open_to_all
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []
        self.faults: dict[str, Answer] = {}
        self.sessions: dict[str, str] = {}
        self.max_sessions = 8
        self.lies_about_power = False
        self.loses_override = False
        self.wants_etag = False
        self.versions: dict[str, int] = {}
        self.url = ""
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    # -- for tests -----------------------------------------------------------------------------------------------

    def endpoint(self, user: str = USER, password: str = PASSWORD, **settings: str) -> Endpoint:
        scheme, _, rest = self.url.partition("://")
        host, _, port = rest.rpartition(":")
        return Endpoint("redfish", host, int(port), Credentials(user, password), {"scheme": scheme, **settings})

    def asked(self, method: str = "", pattern: str = "") -> list[tuple[str, Any]]:
        """The paths and bodies of what was asked."""
        return [(p, b) for m, p, b, _ in self.requests if m == (method or m) and re.search(pattern, p)]

    @property
    def system(self) -> Json:
        return next(r for p, r in self.tree.items() if re.fullmatch(r"/redfish/v1/Systems/[^/]+", p) and "Actions" in r)

    # -- the service ---------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append((method, path, body, headers))
        for pattern, fault in self.faults.items():
            if re.fullmatch(pattern, f"{method} {path}"):
                return fault
        if path == SESSIONS and method == "POST":
            return self._log_in(body)
        if path != "/redfish/v1" and not self._may(headers):
            return error(401, "Base.1.0.NoValidSession", "There is no valid session established")
        if method == "DELETE":
            token = next((token for token, uri in self.sessions.items() if uri == path), "")
            self.sessions.pop(token, None)
            return Answer(204 if token else 404)
        if path not in self.tree and not path.endswith("/Actions/ComputerSystem.Reset"):
            return error(404, "Base.1.0.ResourceMissingAtURI", f"The resource at {path} was not found")
        if method == "GET":
            tag = {"ETag": self.etag(path)} if self.wants_etag else {}
            return Answer(200, self.tree[path], tag)
        return self._reset(body) if method == "POST" else self._change(path, body, headers)

    def etag(self, path: str) -> str:
        return f'"{self.versions.get(path, 1)}"'

    def _log_in(self, body: Any) -> Answer:
        if (body.get("UserName"), body.get("Password")) != (USER, PASSWORD):
            return error(401, "Base.1.0.InsufficientPrivilege", "The user or password is wrong")
        if len(self.sessions) >= self.max_sessions:
            return error(503, "Base.1.0.SessionLimitExceeded", "The session establishment failed: too many sessions")
        uri, token = f"{SESSIONS}/{len(self.requests)}", f"token{len(self.requests)}"
        self.sessions[token] = uri
        return Answer(201, {"@odata.id": uri}, {"X-Auth-Token": token, "Location": uri})

    def _may(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("Authorization", "").partition(" ")
        by_password = kind == "Basic" and b64decode(given).decode() == f"{USER}:{PASSWORD}"
        return self.open_to_all or by_password or headers.get("X-Auth-Token") in self.sessions

    def _reset(self, body: Any) -> Answer:
        if not self.lies_about_power:
            self.system["PowerState"] = "Off" if body["ResetType"] in ("ForceOff", "GracefulShutdown") else "On"
        return Answer(204)

    def _change(self, path: str, body: Any, headers: dict[str, str]) -> Answer:
        given = headers.get("If-Match")
        if self.wants_etag and given is None:
            return error(
                428, "Ami.1.0.PreconditionHeaderMissing", "The request did not provide the required precondition"
            )
        if self.wants_etag and given not in (self.etag(path), "*"):
            return error(412, "Base.1.0.PreconditionFailed", "The ETag did not match")
        if not self.loses_override:
            for name, value in body.items():
                if isinstance(value, dict):
                    self.tree[path].setdefault(name, {}).update(value)
                else:
                    self.tree[path][name] = value
        self.versions[path] = self.versions.get(path, 1) + 1
        return Answer(200, self.tree[path])


@contextmanager
def running(service: Service, certificate: Path | None = None) -> Iterator[Service]:
    """Serve on a free port of the loopback until the block ends; over TLS with this certificate (key in the file)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            answer = service.answer(self.command, key(self.path), body, dict(self.headers))
            self.close_connection = True
            if answer.hang:
                service.stopped.wait(answer.hang)
                return
            if answer.raw:
                self.wfile.write(answer.raw)
                return
            data = b"" if answer.body is None else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """Clients that do not like our certificate hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path, name: str = "bmc") -> Path:
    """A self-signed certificate for 127.0.0.1 and its key in one file."""
    key_file, certificate, both = folder / f"{name}.key", folder / f"{name}.crt", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key_file), "-out", str(certificate)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    both.write_text(certificate.read_text() + key_file.read_text())
    return both
