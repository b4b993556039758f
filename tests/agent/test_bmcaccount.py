"""The agent at a BMC: one account, whatever the BMC is like, and no other one touched."""

from __future__ import annotations

import os
import threading
from copy import deepcopy
from typing import Any

import pytest

from metalbox import accountkeys
from metalbox.accountwords import parse
from metalbox.agent import bmc, bmcaccount
from metalbox.agent.errands import WORKS
from tests.agent.bmc_with_users import ADMINISTRATOR, OPERATOR, Account, BmcWithUsers

SALT = bytes(range(32))
NAME = "metalbox"


class FakeErrand:
    """An order whose progress the server takes, or not."""

    def __init__(self, privilege: str = "operator", *, taken: bool = True, **data: Any) -> None:
        self.private = os.urandom(32)
        key = accountkeys.public_key(self.private).hex()
        self.number = 7
        self.data = {"user": NAME, "privilege": privilege, "server_key": key, "salt": SALT.hex(), **data}
        self.cancelled = threading.Event()
        self.lines: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.claimed = False
        self._taken = taken

    def claim(self) -> None:
        self.claimed = True

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, document: dict[str, Any]) -> bool:
        self.told.append(document)
        return self._taken

    def password(self, outcome: dict[str, Any]) -> bytes:
        key = bytes.fromhex(outcome["public_key"])
        return accountkeys.password(self.private, key, SALT, self.number).reveal().encode()


def make(peer: BmcWithUsers, errand: FakeErrand | None = None) -> tuple[dict[str, Any], FakeErrand]:
    errand = errand or FakeErrand()
    outcome = bmcaccount.make(errand, peer)  # type: ignore[arg-type]
    everything = repr(outcome) + repr(errand.told) + repr(errand.lines)
    for user in peer.users.values():
        assert not user.password or user.password.decode() not in everything
    return outcome, errand


def others(peer: BmcWithUsers, own: int) -> dict[int, Account]:
    return {number: deepcopy(user) for number, user in peer.users.items() if number != own}


def test_a_new_account_in_the_first_free_place() -> None:
    peer = BmcWithUsers()
    peer.users[3] = Account("backup", b"backups-own", False, 0x34)
    before = others(peer, 4)
    outcome, errand = make(peer)
    assert outcome["error"] == "" and outcome["notes"] == []
    assert {name: outcome[name] for name in ("user_id", "channel", "address", "privilege", "is_new", "others")} == {
        "user_id": 4, "channel": 1, "address": "192.0.2.11", "privilege": "operator", "is_new": True, "others": 9,
    }  # fmt: skip
    assert peer.users[4] == Account(NAME, errand.password(outcome), True, 0x30 | OPERATOR, True)
    assert others(peer, 4) == before
    assert errand.lines == ["order 7: the BMC has the account 'metalbox' (id 4, operator, channel 1)"]
    assert parse(outcome).error == ""


def test_the_server_has_the_key_before_anything_is_set() -> None:
    peer = BmcWithUsers()
    outcome, errand = make(peer, FakeErrand())
    assert parse(errand.told[0]).error == "" and errand.told[0]["public_key"] == outcome["public_key"]

    class NeverTaken(FakeErrand):
        def progress(self, document: dict[str, Any]) -> bool:
            self.cancelled.set()
            return False

    untouched = BmcWithUsers()
    outcome, _ = make(untouched, NeverTaken())
    assert "has not taken the key" in outcome["error"]
    assert untouched.users == BmcWithUsers().users


def test_its_own_account_gets_a_new_password_and_keeps_its_place() -> None:
    peer = BmcWithUsers()
    first, _ = make(peer)
    old = peer.users[3].password
    second, errand = make(peer)
    assert (first["user_id"], second["user_id"], second["is_new"]) == (3, 3, False)
    assert peer.users[3].password == errand.password(second) != old


def test_ids_1_and_2_fixed_names_and_accounts_without_a_name_are_never_taken() -> None:
    peer = BmcWithUsers(fixed=5)
    peer.users[2] = Account()
    peer.users[6] = Account("", b"", True, 0x34)
    outcome, _ = make(peer)
    assert outcome["user_id"] == 7


def test_id_2_is_its_makers_also_when_it_is_empty() -> None:
    peer = BmcWithUsers(fixed=0)
    peer.users[2] = Account()
    outcome, _ = make(peer)
    assert outcome["user_id"] == 3


def test_a_name_that_cannot_be_read_is_somebodys() -> None:
    peer = BmcWithUsers(silent_names=False, codes={0x46: 0xFF})
    outcome, _ = make(peer)
    assert "full" in outcome["error"]


def test_a_full_table() -> None:
    peer = BmcWithUsers(most=5)
    peer.users |= {number: Account(f"u{number}", b"x", True, 0x34) for number in (3, 4, 5)}
    before = deepcopy(peer.users)
    outcome, _ = make(peer)
    assert outcome["error"].startswith("the BMC's table of users is full: none of the ids 3 to 5 is")
    assert peer.users == before


def test_a_password_that_is_refused_leaves_nothing_behind() -> None:
    peer = BmcWithUsers(takes=0)
    before = deepcopy(peer.users)
    outcome, _ = make(peer)
    assert outcome["error"] == (
        "the BMC does not store a password of 20 bytes for user 3: "
        "the length of the data is wrong (completion code 0xc7)"
    )
    assert outcome["notes"] == ["user 3 was disabled and its name taken away again"]
    assert peer.users == before


def test_a_bmc_that_stores_20_bytes_only() -> None:
    peer = BmcWithUsers(takes=20)
    outcome, errand = make(peer)
    assert outcome["error"] == "" and outcome["notes"] == ["the BMC stores passwords with 20 bytes only"]
    assert peer.users[3].password == errand.password(outcome)


def test_operator_is_not_taken_so_administrator_and_why() -> None:
    peer = BmcWithUsers(operators=False)
    outcome, _ = make(peer)
    assert (outcome["error"], outcome["privilege"]) == ("", "administrator")
    assert outcome["notes"][0].startswith("administrator instead of operator: the BMC does not let user 3 be operator")
    assert peer.users[3].access & 0x0F == ADMINISTRATOR


def test_a_channel_that_lets_nobody_be_operator_is_not_changed() -> None:
    peer = BmcWithUsers(limit=2)
    before = deepcopy(peer.users)
    outcome, _ = make(peer)
    assert "channel 1 lets nobody be more than user, and operator is needed" in outcome["error"]
    assert peer.users == before and not any(command == 0x40 for _, command, _ in peer.said)


def test_a_channel_that_is_switched_off_is_switched_on_and_said_so() -> None:
    peer = BmcWithUsers(mode=0x28)
    outcome, _ = make(peer)
    assert outcome["error"] == "" and peer.mode == 0x2A, "only the access mode is another one"
    assert (
        outcome["notes"][0] == "IPMI over LAN was switched off on channel 1: it is switched on (from its next start on)"
    )


def test_a_channel_that_is_open_is_left_alone() -> None:
    peer = BmcWithUsers(mode=3)
    make(peer)
    assert not any(command == 0x40 for _, command, _ in peer.said)


def test_a_bmc_that_changes_another_user_is_told_loudly() -> None:
    peer = BmcWithUsers(also_changes=2)
    outcome, _ = make(peer)
    assert outcome["error"].startswith(
        "the BMC has changed other accounts while user 3 was set: the access of user 2 was"
    )
    assert outcome["notes"] == ["user 3 was disabled and its name taken away again"]
    assert not peer.users[3].enabled and "privilege" not in outcome


def test_a_bmc_that_says_yes_and_keeps_nothing() -> None:
    peer = BmcWithUsers(forgets=True)
    outcome, _ = make(peer)
    assert "took everything, and user 3 is not as it was set" in outcome["error"]
    assert peer.users[3].name == "" and not peer.users[3].enabled


@pytest.mark.parametrize(
    ("command", "words"), [(0x47, "store a password"), (0x45, "take the user name"), (0x44, "users are")]
)
def test_every_refusal_is_a_sentence(command: int, words: str) -> None:
    outcome, _ = make(BmcWithUsers(codes={command: 0xD4}))
    assert words in outcome["error"] and "the function is locked (completion code 0xd4)" in outcome["error"]


def test_what_is_not_there_for_the_console_or_the_test_is_a_note() -> None:
    outcome, _ = make(BmcWithUsers(codes={0x4C: 0xC1, 0x41: 0xC1}))
    assert outcome["error"] == ""
    assert any("the serial console may be closed to it" in note for note in outcome["notes"])


def test_a_channel_other_than_1() -> None:
    outcome, _ = make(BmcWithUsers(channel=8))
    assert (outcome["error"], outcome["channel"]) == ("", 8)


@pytest.mark.parametrize(
    "data",
    [
        {"user": "root; reboot"},
        {"user": "x" * 17},
        {"privilege": "oem"},
        {"server_key": "00"},
        {"server_key": 7},
        {"salt": ""},
    ],
)
def test_an_order_that_cannot_be_right(data: dict[str, Any]) -> None:
    peer = BmcWithUsers()
    outcome, _ = make(peer, FakeErrand(**data))
    assert outcome["error"] and peer.said == []


def test_a_machine_without_a_bmc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmc, "DEVICES", ())
    errand = FakeErrand()
    outcome = bmcaccount.work(errand)  # type: ignore[arg-type]
    assert errand.claimed and "there is no /dev/ipmi0" in outcome["error"]


def test_the_agent_knows_the_order() -> None:
    assert WORKS["bmc-account"] == bmcaccount.__name__
