"""The table of users of OpenIPMI's simulator, asked over LAN as the agent does over KCS; ipmitool looks at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.agent.bmcusers import VOLATILE, Said, User, Users, differences
from metalbox.power.ipmisession import Account, Patience, Session
from tests.agent.bmc_with_users import BmcWithUsers
from tests.power import ipmi_peers
from tests.power.ipmi_peers import PASSWORD, USER, Simulator


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with ipmi_peers.simulator(tmp_path / "bmc") as peer:
        yield peer


class InBand:
    """The way of a message over LAN, with KCS' shape: the completion code is the first byte of the answer."""

    def __init__(self, peer: Simulator) -> None:
        account, patience = Account(USER, PASSWORD), Patience(greeting=15, login=15, command=15)
        self.session = Session("127.0.0.1", peer.port, account, patience=patience, deadline=time.monotonic() + 60)

    def __call__(self, function: int, command: int, data: bytes) -> bytes:
        answer = self.session.raw_command(function, command, data=data)
        return bytes([answer["code"]]) + bytes(answer["data"])


def test_an_account_is_made_beside_the_operators(simulator: Simulator) -> None:
    listed = simulator.ipmitool("user", "list", "1")
    ask = InBand(simulator)
    users = Users(ask, 1)
    before = users.read()
    # It does not tell whether a user is enabled.
    assert (before[2].name, before[2].status, before[3]) == (USER, 0, User("", 0, 0, 0)), before
    number, is_own = users.choose(before, "metalbox")
    assert (number, is_own) == (3, False)
    users.set_name(number, "metalbox")
    size = users.set_password(number, "Abcdefgh12345678")
    users.test_password(number, "Abcdefgh12345678", size)
    users.set_access(number, "operator")
    users.enable(number)
    after = users.read()
    assert differences(before, after, number) == []
    assert users.choose(after, "metalbox") == (3, True)
    account = {"user": "metalbox", "password": "Abcdefgh12345678"}
    assert "is off" in simulator.ipmitool("-L", "OPERATOR", "power", "status", **account)
    now = simulator.ipmitool("user", "list", "1")
    assert [line for line in now.splitlines() if "metalbox" not in line and not line.startswith("3 ")] == [
        line for line in listed.splitlines() if not line.startswith("3 ")
    ]
    users.enable(number, on=False)
    users.set_name(number, "")
    assert users.read()[3].name == ""
    ask.session.close()


def test_a_wrong_password_is_told_from_a_right_one() -> None:
    users = Users(BmcWithUsers(), 1)
    users.set_password(3, "right")
    with pytest.raises(Said, match=r"the password is another one \(completion code 0x80\)") as caught:
        users.test_password(3, "wrong", 16)
    assert "wrong" not in str(caught.value) and caught.value.code == 0x80


def test_the_channel_is_read_with_its_limit() -> None:
    assert Users(BmcWithUsers(mode=0x2A, limit=3), 1).channel_access(VOLATILE) == (0x2A, 3)


def test_differences_are_clauses() -> None:
    old = {1: User("", 2, 15, 0), 2: User("ADMIN", 1, 0x34, 0), 3: User("", 2, 15, 0)}
    new = {1: User("", 2, 15, 0), 2: User("ADMIN", 2, 0x34, 0), 4: User("", 2, 15, 0)}
    assert differences(old, new, own=0) == [
        "the status of user 2 was 1 and is 2",
        "user 3 vanished",
        "user 4 appeared",
    ]
    assert differences(old, {**old, 3: User("metalbox", 1, 0x33, 0)}, own=3) == []


def test_answers_that_are_too_short_are_no_users() -> None:
    with pytest.raises(Said, match="too short"):
        Users(lambda function, command, data: b"\0\5", 1).read()
    with pytest.raises(Said, match="it does not say why"):
        Users(lambda function, command, data: b"", 1).read()
