"""`power`, `boot-next`, `sensors`, `sel`, `identify` as people use them."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli.main import main


def row(name: str, number: int) -> dict[str, Any]:
    mac, labels = f"52:54:00:00:00:{number:02x}", {"rack": "r1", "place": str(number)}
    return {"name": name, "id": number, "macs": [mac], "serial": "", "uuid": f"u{number}", "labels": labels}


def outcome(text: str, done: bool = True, **more: Any) -> dict[str, Any]:
    return {"text": text, "done": done, "asked": None, "warnings": [], **more}


@pytest.fixture
def two(scripted: Any) -> Any:
    machines = [row("r1-01", 1), row("r1-02", 2)]
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": machines, "strangers": []})
    for number, name in enumerate(("r1-01", "r1-02"), 1):
        scripted.answers[f"POST /api/v1/machines/{name}/power"] = (200, {"order": number, "machine": name})
    return scripted


def run(scripted: Any, *argv: str) -> int:
    return main([*argv, "--socket", str(scripted.path)])


def test_on_and_wait(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    warned = outcome("switched on", warnings=[{"text": "the override was not set"}])
    two.answers["GET /api/v1/orders/1"] = (200, {"finished_at": 2.0, "outcome": warned})
    two.answers["GET /api/v1/orders/2"] = (200, {"finished_at": 2.0, "outcome": outcome("no answer", done=False)})
    assert run(two, "power", "on", "r1-[01-02]", "--boot", "pxe", "--max", "2", "--wait") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["[1/2] r1-01: switched on", "[2/2] r1-02: no answer"]
    assert "warning: the override was not set" in captured.err
    posts = [body for method, _, _, body in two.requests if method == "POST"]
    assert posts == [{"verb": "on", "boot": {"device": "pxe", "mode": "keep", "once": True}}] * 2


def test_more_machines_than_allowed_are_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(two, "power", "off", "all") == 4
    assert "--max 2" in capsys.readouterr().err
    assert not [path for method, path, _, _ in two.requests if method == "POST"]


def test_soft_off_without_waiting(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(two, "power", "off", "r1-01", "--soft") == 0
    assert two.requests[-1][3] == {"verb": "soft-off"}
    assert capsys.readouterr().out == "r1-01: ordered as 1; see `metalbox events r1-01`\n"


def test_by_its_mac(two: Any) -> None:
    assert run(two, "power", "cycle", "52:54:00:00:00:02") == 0
    assert two.requests[-1][1] == "/api/v1/machines/r1-02/power"


def test_not_done_in_time(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    two.answers["GET /api/v1/orders/1"] = (200, {"finished_at": None, "outcome": {}, "waits_behind": 3})
    assert run(two, "power", "reset", "r1-01", "--wait", "0") == 5
    assert "not done within 0 s; it waits for its turn to be switched on, 3 before it" in capsys.readouterr().out


def test_by_label(two: Any) -> None:
    assert run(two, "power", "off", "rack=r1,place!=1") == 0
    assert two.requests[-1][1] == "/api/v1/machines/r1-02/power"


def test_boot_next(two: Any) -> None:
    assert run(two, "boot-next", "disk", "r1-01", "--always", "--mode", "uefi") == 0
    boot = {"device": "disk", "mode": "uefi", "once": False}
    assert two.requests[-1][3] == {"verb": "boot-next", "boot": boot}


def test_status(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"state": "on", "age": 12.4, "source": "redfish", "code": "", "text": "", "waits_behind": None}
    sick = {
        "state": "unknown",
        "age": None,
        "source": "",
        "code": "hung",
        "text": "no answer in 10 s",
        "waits_behind": None,
    }
    for name, answer in (("r1-01", known), ("r1-02", sick)):
        two.answers[f"GET /api/v1/machines/{name}/power"] = (200, {"machine": name, **answer})
    assert run(two, "power", "status", "all") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME   POWER    READ     BY       TROUBLE",
        "r1-01  on       12s ago  redfish",
        "r1-02  unknown  never    -        hung: no answer in 10 s",
    ]


def test_status_as_it_is_now(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"state": "on", "age": 0.1, "source": "ipmi", "code": "", "text": "", "waits_behind": None}
    boots = ({"device": "pxe", "mode": "uefi", "once": True}, {"device": "none", "mode": "keep", "once": True})
    for name, boot in zip(("r1-01", "r1-02"), boots, strict=True):
        two.answers[f"GET /api/v1/machines/{name}/power"] = (200, {"machine": name, **known, "boot": boot})
    assert run(two, "power", "status", "all", "--refresh") == 0
    assert [query for _, path, query, _ in two.requests if path.endswith("/power")] == ["refresh=1", "refresh=1"]
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "NAME   POWER  READ      BY    NEXT BOOT         TROUBLE",
        "r1-01  on     0.1s ago  ipmi  pxe (uefi), once",
        "r1-02  on     0.1s ago  ipmi  as set up",
    ]


def test_sensors_and_log(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sensor = {"name": "Inlet", "kind": "temperature", "value": 21.5, "unit": "C", "health": "ok", "states": []}
    two.answers["GET /api/v1/machines/r1-01/sensors"] = (200, {"sensors": [sensor]})
    two.answers["GET /api/v1/machines/r1-01/sel"] = (200, {"entries": []})
    assert run(two, "sensors", "r1-01") == 0
    assert run(two, "sel", "r1-01") == 0
    assert capsys.readouterr().out.splitlines() == [
        "SENSOR  KIND         VALUE   HEALTH",
        "Inlet   temperature  21.5 C  ok",
        "the log is empty",
    ]


def test_identify(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    two.answers["POST /api/v1/machines/r1-01/identify"] = (200, {})
    assert run(two, "identify", "r1-01", "--seconds", "0") == 0
    assert capsys.readouterr().out == "r1-01: the light is off\n"
