"""How two lines of the timeline become one."""

from __future__ import annotations

from metalbox.timeline import MAX_MESSAGES, merge_data


def test_messages_are_joined_micros_summed_and_the_rest_is_the_newest() -> None:
    before = {"messages": ["DISCOVER", "OFFER"], "micros": 30, "address": "", "client": "bios"}
    after = {"messages": ["REQUEST", "ACK"], "micros": 40, "address": "192.0.2.5"}
    assert merge_data(before, after) == {
        "messages": ["DISCOVER", "OFFER", "REQUEST", "ACK"],
        "micros": 70,
        "address": "192.0.2.5",
        "client": "bios",
    }
    assert before["messages"] == ["DISCOVER", "OFFER"]


def test_messages_are_bounded() -> None:
    data: dict[str, object] = {"messages": ["DISCOVER"]}
    for _ in range(100):
        data = merge_data(data, {"messages": ["DISCOVER", "OFFER"]})
    assert len(data["messages"]) == MAX_MESSAGES  # type: ignore[arg-type]
