"""Both halves of the agreement come to the same password, and what was recorded of it does not."""

from __future__ import annotations

import os

import pytest

from metalbox import accountkeys
from metalbox.agent import agreement


def test_service_and_agent_agree() -> None:
    for order in (1, 7, 2**40, *range(100, 150)):
        server, agent, salt = os.urandom(32), os.urandom(32), os.urandom(32)
        server_public = accountkeys.public_key(server)
        agent_public = agreement.x25519(agent, agreement.BASE)
        theirs = agreement.password(agent, server_public, salt, order, server_public, agent_public)
        assert accountkeys.password(server, agent_public, salt, order).reveal() == theirs
        # Who has heard everything and lacks both private keys has a third one.
        third = os.urandom(32)
        for public in (server_public, agent_public):
            assert agreement.password(third, public, salt, order, server_public, agent_public) != theirs


@pytest.mark.parametrize("key", [bytes(32), bytes([1]) + bytes(31)])
def test_a_key_of_small_order_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        accountkeys.password(os.urandom(32), key, bytes(32), 1)


def test_it_is_in_no_repr() -> None:
    agent = agreement.x25519(os.urandom(32), agreement.BASE)
    made = accountkeys.password(os.urandom(32), agent, bytes(32), 1)
    assert made.reveal() not in f"{made!r} {made} {made:>40}"
