"""Each address is a BMC of its own: its password, its machine. With the real emulator behind it: test_bmcs.py."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import pytest

from metalbox.lab.redfish_server import LOCAL, StartResponse, guarded, is_allowed, machine_of

ONE = {"user": "factory", "password": "p:1", "uuid": "e24874bd-c019-5868-86a6-e7a204b45bcc"}
OTHER = "58dcdd8c-f98c-50c4-ab73-3c4b8417db82"


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def status(path: str, authorization: str = "", address: str = "192.0.2.12") -> str:
    """The status of one request; 200 is the emulator's own answer."""

    def application(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        assert "HTTP_AUTHORIZATION" not in environ
        start("200 OK", [])
        return []

    seen: list[str] = []
    environ = {LOCAL: address, "PATH_INFO": path, "HTTP_AUTHORIZATION": authorization}
    list(guarded(application, {"192.0.2.12": ONE})(environ, lambda line, _headers: seen.append(line)))
    return seen[0][:3]


@pytest.mark.parametrize("path", ["/redfish", "/redfish/v1", "/redfish/v1/"])
def test_the_root_is_open(path: str) -> None:
    assert status(path) == "200"


def test_everything_else_asks_for_this_bmcs_password() -> None:
    systems = "/redfish/v1/Systems"
    assert status(systems) == "401"
    assert status(systems, header("factory", "p:2")) == "401"
    assert status(systems, header("factory", "p:1")) == "200"


@pytest.mark.parametrize("kind", ["Systems", "Managers"])
def test_a_bmc_knows_its_own_machine_only(kind: str) -> None:
    account = header("factory", "p:1")
    assert status(f"/redfish/v1/{kind}/{ONE['uuid']}", account) == "200"
    assert status(f"/redfish/v1/{kind}/{ONE['uuid'].upper()}/x", account) == "200"
    assert status(f"/redfish/v1/{kind}/{OTHER}", account) == "404"
    assert status(f"/redfish/v1/{kind}/lab0002/Actions/ComputerSystem.Reset", account) == "404"


def test_an_address_without_a_bmc_is_nothing() -> None:
    assert status("/redfish/v1", address="192.0.2.1") == "404"


@pytest.mark.parametrize("text", ["", "Basic", "Basic !", "Bearer cDox", "Basic " + "A" * 4000])
def test_other_headers_are_no_account(text: str) -> None:
    assert not is_allowed(text, "", "p")


def test_paths_about_no_machine() -> None:
    assert machine_of("/redfish/v1/Systems") == machine_of("/redfish/v1/Chassis/x") == machine_of("/") == ""
