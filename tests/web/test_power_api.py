"""REST for power, with a machine that a person switches: the one driver that needs no device."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Stack


async def call(stack: Stack, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with stack.rest.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def with_person(stack: Stack) -> None:
    await stack.report()
    body = {"address": "192.0.2.50", "driver": "none", "machine": "sn12345"}
    status, answer = await call(stack, "POST", "/api/v1/bmcs", body)
    assert status == 200, answer


async def test_an_order_is_carried_out_by_a_person(stack: Stack) -> None:
    await with_person(stack)
    status, answer = await call(stack, "POST", "/api/v1/machines/sn12345/power", {"verb": "on"})
    assert (status, answer["machine"]) == (200, "sn12345")
    status, row = await call(stack, "GET", f"/api/v1/orders/{answer['order']}?wait=60")
    assert status == 200
    assert (row["verb"], row["boot"]) == ("on", None)
    assert row["finished_at"]
    assert row["outcome"]["asked"]["text"]
    texts = [entry.text for entry in await stack.entries()]
    assert "ordered: on" in texts


async def test_the_state_is_an_observation_with_its_age(stack: Stack) -> None:
    await with_person(stack)
    status, row = await call(stack, "GET", "/api/v1/machines/sn12345/power?refresh=1")
    assert status == 200
    assert (row["machine"], row["state"], row["age"]) == ("sn12345", "unknown", None)
    assert row["waits_behind"] is None


async def test_a_machine_without_a_bmc(stack: Stack) -> None:
    await stack.report()
    for method, path, body in (
        ("POST", "power", {"verb": "on"}),
        ("GET", "power", None),
        ("GET", "sensors", None),
        ("GET", "sel", None),
        ("POST", "identify", {}),
    ):
        status, answer = await call(stack, method, f"/api/v1/machines/sn12345/{path}", body)
        assert (status, answer["exit_code"]) == (409, 4)
        assert "metalbox bmc add" in answer["error"]


async def test_what_a_driver_cannot_do(stack: Stack) -> None:
    await with_person(stack)
    status, answer = await call(stack, "GET", "/api/v1/machines/sn12345/sensors")
    assert status == 501
    assert "cannot read sensors" in answer["error"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "expected an object"),
        ({}, "verb: expected one of on, off, soft-off, cycle, reset, boot-next, got None"),
        ({"verb": "explode"}, "got 'explode'"),
        ({"verb": "boot-next"}, "boot-next needs {device, mode, once}"),
        ({"verb": "on", "boot": 3}, "boot: expected an object, got 3"),
        ({"verb": "on", "boot": {"device": "floppy"}}, "device: expected one of"),
        ({"verb": "on", "boot": {"device": "pxe", "mode": "efi"}}, "mode: expected one of uefi, bios, keep, got 'efi'"),
        ({"verb": "on", "boot": {"device": "pxe", "once": 1}}, "boot.once: expected true or false, got 1"),
    ],
)
async def test_orders_that_are_none(stack: Stack, body: Any, sentence: str) -> None:
    await with_person(stack)
    status, answer = await call(stack, "POST", "/api/v1/machines/sn12345/power", body)
    assert (status, answer["exit_code"]) == (400, 2)
    assert sentence in answer["error"]


async def test_what_is_not_there(stack: Stack) -> None:
    assert (await call(stack, "GET", "/api/v1/orders/99"))[0] == 404
    assert (await call(stack, "GET", "/api/v1/orders/x"))[0] == 404
    assert (await call(stack, "POST", "/api/v1/machines/none/power", {"verb": "on"}))[0] == 404
