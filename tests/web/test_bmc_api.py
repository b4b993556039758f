"""REST for BMCs: a password goes in and never comes out."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from tests.web.conftest import Stack

PASSWORD = "correct-horse-7"


async def call(stack: Stack, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with stack.rest.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def test_added_listed_forgotten(stack: Stack) -> None:
    await stack.report()
    body = {"address": "192.0.2.50", "user": "root", "password": PASSWORD, "serial": "SN12345", "port": 623}
    status, answer = await call(stack, "POST", "/api/v1/bmcs", body)
    assert status == 200
    assert (answer["bmc"]["machine"], answer["bmc"]["user"], answer["bmc"]["has_password"]) == ("sn12345", "root", True)
    _, listed = await call(stack, "GET", "/api/v1/bmcs")
    assert [row["address"] for row in listed["bmcs"]] == ["192.0.2.50"]
    await stack.journal.flush()
    everything = str(listed) + str(answer) + str(await stack.entries())
    assert PASSWORD not in everything
    assert not [path for path in stack.folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert (await call(stack, "DELETE", "/api/v1/bmcs/192.0.2.50"))[0] == 200
    assert (await call(stack, "GET", "/api/v1/bmcs"))[1] == {"bmcs": []}


async def test_added_with_settings_of_its_driver(stack: Stack) -> None:
    body = {"address": "192.0.2.50", "driver": "ipmi", "settings": {"channel": "8", "kg": "00112233aa"}}
    status, answer = await call(stack, "POST", "/api/v1/bmcs", body)
    assert status == 200
    assert "00112233aa" not in str(answer) + str(await call(stack, "GET", "/api/v1/bmcs"))
    for settings, sentence in (
        ({"chanel": "8"}, "the driver ipmi has no setting chanel"),
        ({"kg": 112233}, "settings: expected an object of texts"),
        (["kg"], "settings: expected an object of texts"),
    ):
        status, answer = await call(stack, "POST", "/api/v1/bmcs", {**body, "settings": settings})
        assert (status, answer["exit_code"]) == (400, 2)
        assert sentence in answer["error"] and "112233" not in answer["error"]
    status, answer = await call(stack, "POST", "/api/v1/bmcs", {**body, "driver": ""})
    assert status == 400
    assert "settings belong to a driver" in answer["error"]


async def test_an_account_of_its_own_is_ordered_of_the_agent(stack: Stack) -> None:
    await stack.report(bmc={"address": "192.0.2.50", "mac": "02:00:00:00:00:bc", "channel": 1, "vendor": "Dell"})
    answer = await call(stack, "GET", "/api/v1/bmcs/sn12345/account")
    assert answer == (200, {"state": "none", "user": "", "has_password": False, "account": None})
    status, answer = await call(stack, "POST", "/api/v1/bmcs/sn12345/rotate", {})
    assert (status, answer["listens"]) == (200, True)
    again = (await call(stack, "POST", "/api/v1/bmcs/192.0.2.50/rotate", {}))[1]
    assert again["order"] == answer["order"], "one order is enough"
    async with stack.http.get("/agent/v1/orders?boot_id=boot-1&run=r1") as told:
        (order,) = (await told.json())["orders"]
    assert (order["id"], order["verb"], order["data"]["user"]) == (answer["order"], "bmc-account", "metalbox")
    assert (await call(stack, "GET", "/api/v1/bmcs/sn12345/account"))[1]["state"] == "ordered"
    await call(stack, "POST", "/api/v1/bmcs", {"address": "192.0.2.60"})
    status, answer = await call(stack, "POST", "/api/v1/bmcs/192.0.2.60/rotate", {})
    assert status == 409 and "has no machine whose agent could set its password" in answer["error"]


async def test_a_list_is_taken_whole_or_not_at_all(stack: Stack) -> None:
    await stack.report()
    good = f"address,user,password,serial\n192.0.2.50,root,{PASSWORD},SN12345\n192.0.2.51,root,{PASSWORD},\n"
    async with stack.rest.post("/api/v1/bmcs/import?name=list.csv", data=good.encode()) as answer:
        assert answer.status == 200
        done = await answer.json()
    assert (done["added"], len(done["unmatched"])) == (2, 1)
    bad = "address,user\n192.0.2.52,root\n192.0.2.300,root\n"
    async with stack.rest.post("/api/v1/bmcs/import?name=list.csv", data=bad.encode()) as answer:
        assert answer.status == 400
        assert "list.csv:3:" in (await answer.json())["error"]
    assert len((await call(stack, "GET", "/api/v1/bmcs"))[1]["bmcs"]) == 2


async def test_a_test_of_what_a_person_switches(stack: Stack) -> None:
    await stack.report()
    await call(stack, "POST", "/api/v1/bmcs", {"address": "192.0.2.50", "driver": "none", "machine": "sn12345"})
    status, answer = await call(stack, "POST", "/api/v1/bmcs/sn12345/test", {})
    assert status == 200
    (row,) = answer["tries"]
    assert (row["driver"], row["code"]) == ("none", "not-supported")


async def test_a_scan_that_names_no_addresses(stack: Stack) -> None:
    wrong: list[Any] = [{}, {"addresses": []}, {"addresses": "192.0.2.1"}, {"addresses": [1]}, []]
    for body in wrong:
        status, answer = await call(stack, "POST", "/api/v1/bmcs/scan", body)
        assert (status, answer["exit_code"]) == (400, 2)
    status, answer = await call(stack, "POST", "/api/v1/bmcs/scan", {"addresses": ["10.0.0.0/8"]})
    assert status == 409
    assert "65,536" in answer["error"] or "65536" in answer["error"]


async def test_a_scan_remembers_what_it_finds(stack: Stack) -> None:
    """On loopback, where a small Redfish root answers at the port that every BMC has."""
    root = {"RedfishVersion": "1.6.0", "Vendor": "Contoso", "Product": "BMC", "UUID": "x"}

    async def answer_root(request: web.Request) -> web.Response:
        return web.json_response(root)

    app = web.Application()
    app.add_routes([web.get("/redfish/v1/", answer_root)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.77", 80).start()
        status, answer = await call(stack, "POST", "/api/v1/bmcs/scan", {"addresses": ["127.0.0.77"]})
    except OSError as error:
        pytest.skip(f"port 80 of 127.0.0.77 cannot be had: {error.strerror}")
    finally:
        await runner.cleanup()
    assert status == 200
    (row,) = answer["found"]
    assert (row["is_new"], row["bmc"]["address"], row["bmc"]["vendor"]) == (True, "127.0.0.77", "Contoso")
    assert (row["bmc"]["drivers"], row["bmc"]["source"], row["bmc"]["uuid"]) == (["redfish"], "scan", "")
    assert answer["asked"] == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (3, "expected an object"),
        ({"address": 7}, "address: expected a text, got 7"),
        ({"address": "192.0.2.50", "password": ["x", PASSWORD]}, "password: expected a text"),
        ({"address": "192.0.2.50", "driver": "magic"}, "driver: expected one of redfish, ipmi"),
        ({"address": "192.0.2.50", "port": 70000}, "expected a port from 1 to 65535"),
        ({"address": "192.0.2.50", "mac": "zz"}, "is not a MAC address"),
    ],
)
async def test_what_is_no_bmc(stack: Stack, body: Any, sentence: str) -> None:
    status, answer = await call(stack, "POST", "/api/v1/bmcs", body)
    assert (status, answer["exit_code"]) == (400, 2)
    assert sentence in answer["error"]
    assert PASSWORD not in str(answer)


async def test_what_is_not_there(stack: Stack) -> None:
    assert (await call(stack, "POST", "/api/v1/bmcs/none/test", {}))[0] == 404
    assert (await call(stack, "DELETE", "/api/v1/bmcs/none"))[0] == 404
