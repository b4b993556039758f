"""Machines that are meant, as the service knows them."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli import choice
from metalbox.errors import InvalidValue, NotFound


def test_by_name_by_mark_and_by_label(scripted: Any) -> None:
    rows = [
        {"name": f"m{n}", "id": n, "macs": [f"52:54:00:00:00:0{n}"], "serial": f"S{n}", "uuid": uuid, "labels": labels}
        for n, uuid, labels in ((1, "u1", {"rack": "r1"}), (2, "twin", {"rack": "r1"}), (3, "twin", {}))
    ]
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": rows, "strangers": []})
    socket = str(scripted.path)
    assert choice.machines(socket, ["s2", "52:54:00:00:00:01", "3"]) == ("m2", "m1", "m3")
    assert choice.machines(socket, ["u1", "rack=r1"]) == ("m1", "m2")
    assert choice.machines(socket, [], "rack") == ("m1", "m2")
    with pytest.raises(NotFound, match="no machine is called twin"):
        choice.machines(socket, ["twin"])
    with pytest.raises(InvalidValue, match="not both"):
        choice.machines(socket, ["m1"], "rack")
