"""Asking the service: answers, errors with their exit codes, and a service that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metalbox import errors
from metalbox.cli import client


def test_an_answer(scripted: Any) -> None:
    scripted.answers["GET /api/v1/leases"] = (200, {"leases": []})
    assert client.call(str(scripted.path), "GET", "/api/v1/leases", {"a": "x y"}) == {"leases": []}
    assert scripted.requests == [("GET", "/api/v1/leases", "a=x+y", None)]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, 3, errors.NotFound),
        (409, 4, errors.Refused),
        (504, 5, errors.TimedOut),
        (400, 2, errors.InvalidValue),
        (500, 1, errors.MetalboxError),
    ],
)
def test_an_error_keeps_its_exit_code(scripted: Any, status: int, code: int, kind: type[Exception]) -> None:
    scripted.answers["GET /x"] = (status, {"error": "a sentence", "exit_code": code})
    with pytest.raises(kind, match=r"^a sentence$") as caught:
        client.call(str(scripted.path), "GET", "/x")
    assert isinstance(caught.value, errors.MetalboxError)
    assert caught.value.exit_code == code


def test_an_answer_that_is_no_json(scripted: Any) -> None:
    scripted.answers["GET /x"] = (502, b"<html>")
    with pytest.raises(errors.MetalboxError, match="<html>"):
        client.call(str(scripted.path), "GET", "/x")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(errors.StartError, match=r"no service answers at .*none.sock .*No such file.*metalbox serve"):
        client.call(str(tmp_path / "none.sock"), "GET", "/x")


def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is for root and its group. (The tests run as root, who may do everything.)"""

    def refuse(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(client._UnixConnection, "connect", refuse)
    with pytest.raises(errors.StartError, match=r"you may not speak to the service at .*: use sudo"):
        client.call(str(tmp_path / "metalbox.sock"), "GET", "/x")


def test_the_socket_named_in_the_installed_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metalbox.yaml"
    file.write_text("socket: /srv/box.sock\n")
    monkeypatch.setenv("METALBOX_CONFIG", str(file))
    monkeypatch.setattr(client, "DEFAULT_SOCKET", str(tmp_path / "absent.sock"))
    assert client.socket_path("") == "/srv/box.sock"
    assert client.socket_path("/named") == "/named"


def test_a_name_cannot_leave_its_place_in_the_path() -> None:
    assert client.segment("../x?y") == "..%2Fx%3Fy"
