"""Speaks REST to the running service over its unix socket, with the standard library's HTTP client."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from metalbox import errors

DEFAULT_SOCKET = "/run/metalbox/metalbox.sock"
TIMEOUT_SECONDS = 60.0

# A list of pairs where a name may come several times.
Query = dict[str, Any] | list[tuple[str, Any]] | None

# Exit code in an error body -> what is raised here, so that `main` leaves with the same code.
RAISES: dict[int, type[errors.MetalboxError]] = {
    2: errors.InvalidValue,
    3: errors.NotFound,
    4: errors.Refused,
    5: errors.TimedOut,
}


def add_arguments(parser: argparse.ArgumentParser, *, output: bool = True) -> None:
    """Add the options shared by all verbs that ask the service."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get("METALBOX_SOCKET", ""),
        help=f"the service's unix socket (default: $METALBOX_SOCKET, the configuration's, or {DEFAULT_SOCKET})",
    )
    if output:
        parser.add_argument(
            "-o",
            "--output",
            choices=("table", "json", "yaml"),
            default="table",
            help="table for people, json and yaml for programs",
        )


def socket_path(named: str) -> str:
    """Where the service listens: the option or environment, else the installed configuration, else the default."""
    if named:
        return named
    from metalbox.config import default_path

    if not Path(DEFAULT_SOCKET).exists() and default_path().exists():
        from metalbox.config import load

        return str(load(default_path()).socket)
    return DEFAULT_SOCKET


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("metalbox", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Raw(str):
    """A body that is sent as it is, a file of the operator's: not JSON."""

    __slots__ = ()


def segment(name: str) -> str:
    """Quote what a person typed as one segment of a path."""
    return quote(name, safe="")


def call(
    named_socket: str,
    method: str,
    path: str,
    query: Query = None,
    body: Any = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Any:
    """Send one request and return the decoded answer. Raises the MetalboxError that the service's answer names."""
    return answer(*_exchange(named_socket, method, path, query, body, timeout))


def fetch(named_socket: str, path: str, query: Query = None) -> bytes:
    """Get something that is no JSON. Raises as `call`."""
    status, body = _exchange(named_socket, "GET", path, query, None, TIMEOUT_SECONDS)
    if status >= 400:
        answer(status, body)
    return body


def no_service(where: str, error: OSError) -> errors.StartError:
    """The sentence for a socket that cannot be connected to."""
    if isinstance(error, PermissionError):
        return errors.StartError(
            f"you may not speak to the service at {where}: use sudo, or become a member of the socket's group"
        )
    return errors.StartError(
        f"no service answers at {where} ({error.strerror or error}): start it with `metalbox serve`, "
        "or name its socket with --socket or METALBOX_SOCKET"
    )


def _exchange(
    named_socket: str,
    method: str,
    path: str,
    query: Query,
    body: Any,
    timeout: float,
) -> tuple[int, bytes]:
    """Send one request; the answer's status and body. Raises StartError and TimedOut."""
    where = socket_path(named_socket)
    connection = _UnixConnection(where, timeout)
    target = path + ("?" + urlencode(query) if query else "")
    try:
        kind = "text/plain; charset=utf-8" if isinstance(body, Raw) else "application/json"
        headers = {"Content-Type": kind} if body is not None else {}
        if os.environ.get("SUDO_USER"):
            headers["X-Metalbox-Operator"] = os.environ["SUDO_USER"]
        connection.request(method, target, _encoded(body), headers)
        response = connection.getresponse()
        text = response.read()
    except TimeoutError:
        raise errors.TimedOut(f"the service at {where} did not answer within {timeout:.0f} s") from None
    except OSError as error:
        raise no_service(where, error) from None
    except http.client.HTTPException as error:
        raise errors.StartError(f"the service at {where} broke off its answer ({error!r})") from None
    finally:
        connection.close()
    return response.status, text


def _encoded(body: Any) -> bytes | None:
    if body is None:
        return None
    return (body if isinstance(body, Raw) else json.dumps(body)).encode()


def answer(status: int, text: bytes) -> Any:
    """Decode an answer. Raises the MetalboxError that it names."""
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = {"error": text.decode("utf-8", "replace")[:200]}
    if status >= 400:
        code = int(document.get("exit_code", 1)) if isinstance(document, dict) else 1
        sentence = document.get("error", f"HTTP {status}") if isinstance(document, dict) else f"HTTP {status}"
        raise RAISES.get(code, errors.MetalboxError)(sentence)
    return document
