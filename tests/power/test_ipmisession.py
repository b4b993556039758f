"""One session: each way in which a BMC can disappoint has its own error, within its own time."""

from __future__ import annotations

import random
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from metalbox.errors import (
    BmcGarbage,
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)
from metalbox.power.ipmisession import Account, Patience, Refusal, Session, completion_error
from tests.power.ipmi_peers import (
    ONCE,
    OPEN_SESSION_RESPONSE,
    PASSWORD,
    PATIENT,
    QUICK,
    RAKP_2,
    RAKP_4,
    USER,
    LostTime,
    Rule,
    Simulator,
    Sink,
    Wire,
    changed,
    is_in_session,
    payload_type,
    simulator,
)

APPLICATION, DEVICE_ID = 0x06, 0x01


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Simulator]:
    """One for each test: broken logins hold their places for a minute."""
    with simulator(tmp_path / "sim") as running:
        yield running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LostTime:
    clock = LostTime()
    monkeypatch.setattr("metalbox.power.ipmisession.time", clock)
    return clock


def log_in(
    port: int, password: str = PASSWORD, user: str = USER, *, kg: bytes = b"", seconds: float = 100,
    patience: Patience = PATIENT,
) -> Session:  # fmt: skip
    account = Account(user, password, kg=kg)
    return Session("127.0.0.1", port, account, patience=patience, deadline=time.monotonic() + seconds)


def fails(kind: type[PowerError], port: int, patience: Patience = PATIENT) -> PowerError:
    """The error of a login and one command, which must come by itself: the deadline of the whole is 100 s."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        session = log_in(port, patience=patience)
        try:
            session.ask(APPLICATION, DEVICE_ID)
        finally:
            session.shut()
    assert type(caught.value) is kind
    assert time.monotonic() - started < 90
    assert PASSWORD not in str(caught.value) + caught.value.evidence
    return caught.value


def answering(kind: int, *changes: tuple[int, int]) -> Rule:
    """A rule that changes bytes of one kind of answer."""

    def rule(data: bytes, from_bmc: bool) -> tuple[bytes, None]:
        return (changed(data, *changes) if from_bmc and payload_type(data) == kind else data), None

    return rule


# -- silence and noise ---------------------------------------------------------------------------------------------


def test_silence_before_the_first_answer(clock: LostTime) -> None:
    sink = Sink()
    clock.is_lost = True
    error = fails(BmcUnreachable, sink.port, QUICK)
    assert str(error) == f"nothing answers at 127.0.0.1 port {sink.port}"
    assert sink.received() >= 2  # a greeting that is lost is said again
    sink.close()


@pytest.mark.parametrize(
    ("kind", "stage"), [(OPEN_SESSION_RESPONSE, "OPENSESSION"), (RAKP_2, "EXPECTINGRAKP2"), (RAKP_4, "EXPECTINGRAKP4")]
)
def test_silence_in_the_login(bmc: Simulator, clock: LostTime, kind: int, stage: str) -> None:
    def mute(data: bytes, from_bmc: bool) -> tuple[bytes | None, None]:
        return (None if from_bmc and payload_type(data) == kind else data), None

    with Wire(bmc.port, mute, clock) as wire:
        error = fails(BmcHung, wire.port, QUICK)
    assert error.evidence == stage
    assert "stopped answering in the middle of the login" in str(error)


def test_silence_in_a_command(bmc: Simulator, clock: LostTime) -> None:
    answers = 0

    def hang_after_login(data: bytes, from_bmc: bool) -> tuple[bytes | None, None]:
        nonlocal answers
        answers += from_bmc and is_in_session(data)
        return (None if from_bmc and answers > 1 else data), None

    with Wire(bmc.port, hang_after_login, clock) as wire:
        error = fails(BmcHung, wire.port, QUICK)
    assert str(error).endswith("took a command and does not answer")


NOISE = random.Random(7)


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"\x06\x00\xff\x07",
        b"\x06\x00\xff\x07" + b"\x77" * 60,
        b"\x06\x00\xff\x07\x06\x11" + b"\0" * 9,
        b"\x06\x00\xff\x07\x00" + b"\0" * 8 + b"\x20" + b"\xff" * 4,
        *(NOISE.randbytes(NOISE.randrange(200)) for _ in range(3)),
    ],
    ids=lambda noise: noise[:6].hex() or "empty",
)
def test_noise_in_place_of_answers(bmc: Simulator, clock: LostTime, noise: bytes) -> None:
    with Wire(bmc.port, lambda data, from_bmc: (None, noise), clock) as wire:
        error = fails(BmcGarbage, wire.port, QUICK)
    assert "does not speak IPMI" in str(error)
    assert error.evidence.endswith(noise[:24].hex(" "))


@pytest.mark.parametrize("kind", [OPEN_SESSION_RESPONSE, RAKP_2, RAKP_4])
def test_answers_cut_short(bmc: Simulator, clock: LostTime, kind: int) -> None:
    def cut(data: bytes, from_bmc: bool) -> tuple[bytes, None]:
        return (data[:18] if from_bmc and payload_type(data) == kind else data), None

    with Wire(bmc.port, cut, clock) as wire:
        fails(BmcGarbage, wire.port, QUICK)


def test_noise_between_answers_does_not_matter(bmc: Simulator) -> None:
    with Wire(bmc.port, lambda data, from_bmc: (data, None if from_bmc else b"noise")) as wire:
        session = log_in(wire.port)
        assert session.ask(APPLICATION, DEVICE_ID)[0] == 0
        session.close()


def test_a_wire_that_loses_datagrams(bmc: Simulator) -> None:
    luck = random.Random(5)

    def lossy(data: bytes, from_bmc: bool) -> tuple[bytes | None, None]:
        return (data if luck.random() > 0.15 else None), None

    # Luck depends on how often something is said: each pause is twice the last, and ten in a row are very bad luck.
    patient = Patience(greeting=60, login=60, command=60, resend=0.05)
    with Wire(bmc.port, lossy) as wire:
        account = Account(USER, PASSWORD)
        session = Session("127.0.0.1", wire.port, account, patience=patient, deadline=time.monotonic() + 300)
        for _ in range(20):
            assert len(session.ask(APPLICATION, DEVICE_ID)) >= 11
        session.close()


def test_every_datagram_twice(bmc: Simulator) -> None:
    with Wire(bmc.port, lambda data, _: (data, None)) as wire:
        session = log_in(wire.port)
        wire.copies = 2
        for _ in range(5):
            assert session.ask(APPLICATION, DEVICE_ID)[0] == 0
        session.close()


def test_the_deadline_ends_a_wait(bmc: Simulator) -> None:
    sink = Sink()
    started = time.monotonic()
    with pytest.raises(BmcUnreachable):
        log_in(sink.port, seconds=0.1, patience=Patience(greeting=60, login=60, command=60))
    assert time.monotonic() - started < 30
    sink.close()


def test_a_process_that_stood_still_takes_the_answer_that_lies_there(
    bmc: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = log_in(bmc.port, patience=ONCE)
    send, lost = session._xmit_packet, [0.0]

    def stand_still(retry: bool = True, **more: float | None) -> None:
        send(retry, **more)
        assert select.select([session._own], [], [], 60)[0]
        lost.append(3600.0)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(lost))
    with monkeypatch.context() as patch:
        patch.setattr("metalbox.power.ipmisession.time", clock)
        patch.setattr(session, "_xmit_packet", stand_still)
        assert session.ask(APPLICATION, DEVICE_ID)[0] == 0
    session.close()


# -- what a BMC says to a login ------------------------------------------------------------------------------------


def test_a_wrong_password(bmc: Simulator) -> None:
    for password in ("wrong", "", PASSWORD + "x", PASSWORD.upper()):
        with pytest.raises(BmcWrongPassword, match="does not accept the password of 'factory'") as caught:
            log_in(bmc.port, password)
        assert "may have kept" not in str(caught.value)


def test_a_long_password_may_have_been_cut_by_the_bmc(bmc: Simulator) -> None:
    """As OpenIPMI's simulator does: it takes 20 bytes without a word and keeps 16. ipmitool meets the same."""
    long = "20-bytes-password-ok"
    bmc.ipmitool("user", "set", "name", "5", "long")
    bmc.ipmitool("user", "set", "password", "5", long, "20")
    bmc.ipmitool("channel", "setaccess", "1", "5", "link=on", "ipmi=on", "callin=on", "privilege=4")
    bmc.ipmitool("user", "enable", "5")
    with pytest.raises(BmcWrongPassword, match="it has 20 bytes, and the BMC may have kept 16 of them"):
        log_in(bmc.port, long, "long")
    with pytest.raises(subprocess.CalledProcessError):
        bmc.ipmitool("power", "status", user="long", password=long)
    log_in(bmc.port, long[:16], "long").close()
    bmc.ipmitool("power", "status", user="long", password=long[:16])


def test_an_unknown_user(bmc: Simulator) -> None:
    with pytest.raises(BmcWrongPassword, match="does not know the user 'nobody'") as caught:
        log_in(bmc.port, user="nobody")
    assert caught.value.evidence == "status 0x0d in RAKP 2: Unauthorized name"


@pytest.mark.parametrize(
    ("stage", "status", "kind"),
    [
        (OPEN_SESSION_RESPONSE, 0x01, BmcSessionsFull),
        (OPEN_SESSION_RESPONSE, 0x0B, BmcSessionsFull),
        (OPEN_SESSION_RESPONSE, 0x11, BmcRefused),
        (RAKP_2, 0x01, BmcSessionsFull),
        (RAKP_2, 0x09, BmcWrongPassword),
        (RAKP_2, 0x0D, BmcWrongPassword),
        (RAKP_2, 0x12, BmcRefused),
        (RAKP_4, 0x01, BmcSessionsFull),
        (RAKP_4, 0x0F, BmcWrongPassword),
        (RAKP_4, 0x02, BmcRefused),  # "no such session": begun anew five times
    ],
)
def test_status_codes(bmc: Simulator, stage: int, status: int, kind: type[PowerError]) -> None:
    with Wire(bmc.port, answering(stage, (17, status))) as wire:
        error = fails(kind, wire.port)
    assert f"status {status:#04x}" in error.evidence


def test_the_session_table_is_full_and_places_come_back(bmc: Simulator) -> None:
    sessions = []
    with pytest.raises(BmcSessionsFull, match="has no free session"):
        for _ in range(200):
            sessions.append(log_in(bmc.port))
    assert len(sessions) >= 10
    sessions.pop().close()
    log_in(bmc.port).close()
    for session in sessions:
        session.close()
    for _ in range(2 * len(sessions)):
        log_in(bmc.port).close()


def test_a_wrong_key_kg(bmc: Simulator) -> None:
    with pytest.raises(PowerError) as caught:
        log_in(bmc.port, kg=b"not the key of the BMC")
    assert caught.value.code in ("wrong-password", "hung")


# -- cipher suites -------------------------------------------------------------------------------------------------


def test_suite_17_is_asked_first_and_3_is_enough(bmc: Simulator) -> None:
    with Wire(bmc.port, lambda data, _: (data, None)) as wire:
        log_in(wire.port, patience=ONCE).close()
        asked = [data[28] for data, from_bmc in wire.seen if not from_bmc and payload_type(data) == 0x10]
    assert asked == [3, 1]  # RAKP-HMAC-SHA256, RAKP-HMAC-SHA1


def test_a_bmc_that_answers_with_suite_3_whatever_was_asked(bmc: Simulator) -> None:
    """As virtualbmc does: here by a wire that turns the request for suite 17 into one for suite 3."""

    def deaf(data: bytes, from_bmc: bool) -> tuple[bytes, None]:
        if not from_bmc and payload_type(data) == 0x10 and data[28] == 3:
            return changed(data, (28, 1), (36, 1)), None
        return data, None

    with Wire(bmc.port, deaf) as wire:
        session = log_in(wire.port, patience=ONCE)
        assert session.ask(APPLICATION, DEVICE_ID)[0] == 0
        session.close()
        assert sum(payload_type(data) == 0x10 for data, _ in wire.seen) == 1


def test_a_bmc_that_keeps_silent_to_suite_17(bmc: Simulator) -> None:
    def silent(data: bytes, from_bmc: bool) -> tuple[bytes | None, None]:
        return (None if not from_bmc and payload_type(data) == 0x10 and data[28] == 3 else data), None

    with Wire(bmc.port, silent) as wire:
        log_in(wire.port).close()


@pytest.mark.parametrize("weaker", [((32, 0),), ((40, 0),), ((48, 0),), ((32, 2), (40, 2))])
def test_nothing_weaker_than_suite_3(bmc: Simulator, weaker: tuple[tuple[int, int], ...]) -> None:
    """Suite 0 lets everybody in (a BMC that offers it should be known for it), 1 and 2 do not encrypt."""
    with Wire(bmc.port, answering(OPEN_SESSION_RESPONSE, *weaker)) as wire:
        error = fails(BmcRefused, wire.port)
    assert "no cipher suite that is safe" in str(error)


def test_ipmi_1_5_is_not_spoken(bmc: Simulator) -> None:
    def old(data: bytes, from_bmc: bool) -> tuple[bytes, None]:
        is_greeting = from_bmc and data[4] == 0 and data[19] == 0x38
        return (changed(data, (22, data[22] & 0x7F)) if is_greeting else data), None

    with Wire(bmc.port, old) as wire:
        assert "speaks IPMI 1.5 only" in str(fails(BmcNotSupported, wire.port))


# -- commands ------------------------------------------------------------------------------------------------------


def test_completion_codes(bmc: Simulator) -> None:
    session = log_in(bmc.port)
    with pytest.raises(BmcNotSupported) as missing:
        session.ask(0x06, 0xEE)
    assert "completion code 0xc1 for command 0x06 0xee" in missing.value.evidence
    with pytest.raises(Refusal) as refused:
        session.ask(0x00, 0x09, b"\x05")  # cut short
    assert refused.value.completion == 0xC7
    assert session.ask(APPLICATION, DEVICE_ID)[0] == 0
    session.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0xC1, BmcNotSupported),
        (0xC3, BmcHung),
        (0xC0, Refusal),
        (0xD4, Refusal),
        (0xCC, BmcNotSupported),
        (0x99, Refusal),
    ],
)
def test_what_a_completion_code_means(code: int, kind: type[PowerError]) -> None:
    error = completion_error("bmc port 623", 0, 2, code, frozenset({0xCC}))
    assert type(error) is kind
    assert f"completion code {code:#04x}" in error.evidence


def test_a_session_that_the_bmc_forgot(bmc: Simulator) -> None:
    session = log_in(bmc.port, patience=Patience(greeting=15, login=15, command=0.5, resend=0.1))
    session.sessionid ^= 0x55
    with pytest.raises((BmcHung, BmcUnreachable)):
        session.ask(APPLICATION, DEVICE_ID)
    session.shut()
    session.shut()


def test_an_account_shows_no_password() -> None:
    assert repr(Account("u", "secret", kg=b"key")) == "Account('u')"
