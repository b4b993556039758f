"""REST for labels and notes, and machines selected by labels."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Stack

MACHINE = "/api/v1/machines/sn12345"


async def call(stack: Stack, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with stack.rest.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def test_labels_are_set_removed_and_selected_by(stack: Stack) -> None:
    await stack.report()
    status, answer = await call(stack, "POST", f"{MACHINE}/labels", {"set": {"rack": "r1", "pdu": "a"}})
    assert (status, answer["labels"]) == (200, {"pdu": "a", "rack": "r1"})
    status, answer = await call(stack, "POST", f"{MACHINE}/labels", {"remove": ["pdu"]})
    assert (status, answer["labels"]) == (200, {"rack": "r1"})
    for selector, count in (("rack=r1", 1), ("rack!=r1", 0), ("rack", 1), ("pdu", 0), ("", 1)):
        async with stack.rest.get("/api/v1/machines", params={"selector": selector}) as found:
            rows = (await found.json())["machines"]
        assert len(rows) == count, selector
        assert all(row["labels"] == {"rack": "r1"} for row in rows)
    texts = [entry.text for entry in await stack.entries()]
    assert texts[-3:] == ["label pdu: a", "label rack: r1", "label pdu taken away, it was a"]


async def test_owner_and_note(stack: Stack) -> None:
    await stack.report()
    status, answer = await call(stack, "POST", f"{MACHINE}/note", {"owner": "ann", "note": "fan"})
    assert (status, answer["owner"], answer["note"]) == (200, "ann", "fan")
    status, answer = await call(stack, "GET", MACHINE)
    assert (answer["owner"], answer["note"]) == ("ann", "fan")


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("labels", [], "expected {set: {key: value}, remove: [key]}, got a list"),
        ("labels", {}, "no label is named"),
        ("labels", {"set": {"rack": 1}}, "expected texts as keys and values of labels, got 1"),
        ("labels", {"add": {"rack": "1"}}, "expected {set:"),
        ("labels", {"set": {"rack": "a b"}}, "cannot be the value of rack"),
        ("labels", {"remove": "rack"}, "expected {set:"),
        ("note", {}, "expected {owner: text, note: text}"),
        ("note", {"note": 1}, "note: expected a text, got 1"),
        ("note", {"text": "x"}, "expected {owner: text, note: text}"),
    ],
)
async def test_what_cannot_be_read(stack: Stack, path: str, body: Any, sentence: str) -> None:
    await stack.report()
    status, answer = await call(stack, "POST", f"{MACHINE}/{path}", body)
    assert (status, answer["exit_code"]) == (400, 2)
    assert sentence in answer["error"]


async def test_a_selector_that_cannot_be_read_and_a_machine_that_is_not_there(stack: Stack) -> None:
    async with stack.rest.get("/api/v1/machines", params={"selector": "a,,b"}) as answer:
        assert answer.status == 400
    status, _ = await call(stack, "POST", "/api/v1/machines/none/labels", {"set": {"a": "b"}})
    assert status == 404
