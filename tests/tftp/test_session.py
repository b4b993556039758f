"""tftp.session: whole conversations in bytes, and thousands of blocks over a wire that loses them."""

from __future__ import annotations

from random import Random

import pytest

from metalbox.errors import MalformedPacket
from metalbox.tftp.packet import Opcode, Request, parse_request
from metalbox.tftp.session import (
    GIVE_UP_SECONDS,
    SHORTEST_WAIT,
    Limits,
    Outcome,
    Packets,
    Result,
    Session,
    answer_to_stranger,
    negotiate,
    refuse,
)
from tests.tftp.wire import LIMITS, Client, Wire, ack, datagrams, rrq, run, session

FILE = bytes(range(256)) * 5  # 1280 bytes: blocks of 512, 512, 256


def test_a_read_without_options() -> None:
    s = session(FILE)
    assert list(s.start(0.0)) == [b"\0\3\0\1" + FILE[:512]]
    assert list(s.received(ack(1), 0.01)) == [b"\0\3\0\2" + FILE[512:1024]]
    assert list(s.received(ack(2), 0.02)) == [b"\0\3\0\3" + FILE[1024:]]
    assert list(s.received(ack(3), 0.03)) == []
    assert s.outcome == Outcome(Result.SENT, 1280)
    assert s.timer == float("inf")


def test_the_read_of_edk2_with_a_window() -> None:
    s = session(bytes(4000), blksize=1468, windowsize=4)
    assert list(s.start(0.0)) == [b"\0\6blksize\x001468\0windowsize\x004\0"]
    window = datagrams(s, s.received(ack(0), 0.01))
    assert window == [b"\0\3\0\1" + bytes(1468), b"\0\3\0\2" + bytes(1468), b"\0\3\0\3" + bytes(1064)]
    s.received(ack(3), 0.02)
    assert s.outcome == Outcome(Result.SENT, 4000)


def test_the_size_probe_is_no_failure() -> None:
    s = session(FILE, tsize=0, blksize=1468, windowsize=4)
    assert list(s.start(0.0)) == [b"\0\6tsize\x001280\0blksize\x001468\0windowsize\x004\0"]
    assert list(s.received(b"\0\5\0\x08User aborted the transfer\0", 0.01)) == []
    assert s.outcome == Outcome(Result.ABORTED, 0, "error 8: User aborted the transfer")
    assert s.heard_error and s.asked_size


@pytest.mark.parametrize(("size", "blocks", "last"), [(0, 1, 0), (1, 1, 1), (511, 1, 511), (512, 2, 0), (513, 2, 1)])
def test_the_last_block_is_shorter_than_the_others(size: int, blocks: int, last: int) -> None:
    s = session(bytes(size))
    client, sent = Client(), datagrams(s, s.start(0.0))
    while s.outcome is None:
        assert len(sent) == 1
        [reply] = client.take(sent[0])
        before, sent = sent, datagrams(s, s.received(reply, 0.1))
    assert (client.block, len(before[0]) - 4, len(client.received)) == (blocks, last, size)


@pytest.mark.parametrize(
    ("options", "oack"),
    [
        (b"blksize\x001024\0tsize\x000\0", b"\0\6blksize\x001024\0tsize\x001280\0"),
        (b"tsize\x000\0blksize\x0065464\0", b"\0\6tsize\x001280\0blksize\x001468\0"),
        (b"BLKSIZE\x001024\0", b"\0\6BLKSIZE\x001024\0"),
        (b"timeout\x005\0", b"\0\6timeout\x005\0"),
        (b"windowsize\x0065535\0", b"\0\6windowsize\x0064\0"),
        (b"tsize\x0012345\0", b"\0\6tsize\x001280\0"),
        (b"blksize\x008\0multicast\0\0", b"\0\6blksize\x008\0"),
        (b"blksize\x007\0", b""),
        (b"blksize\0-5\0", b""),
        (b"blksize\x00big\0", b""),
        (b"blksize\x0099999999999999999999\0", b""),
        (b"blksize\0\xb2\xb3\0", b""),
        (b"timeout\x000\0", b""),
        (b"timeout\x00256\0", b""),
        (b"windowsize\x000\0", b""),
        (b"multicast\0\0", b""),
        (b"", b""),
    ],
)
def test_only_what_was_asked_and_can_be_is_answered(options: bytes, oack: bytes) -> None:
    assert negotiate(parse_request(b"\0\1x\0octet\0" + options), 1280, LIMITS).oack == oack


def test_the_size_of_a_text_is_not_told() -> None:
    request = parse_request(rrq("x", "netascii", tsize=0, blksize=1024))
    assert negotiate(request, 1280, LIMITS).oack == b"\0\6blksize\x001024\0"


def test_requests_that_are_not_for_us() -> None:
    assert refuse(Request(Opcode.WRQ, "x", "octet")) == (2, "this server takes no files")
    assert refuse(Request(Opcode.RRQ, "x", "mail")) == (2, "this server takes no mail")
    assert refuse(Request(Opcode.RRQ, "x", "octal")) == (4, "unknown mode")
    assert refuse(Request(Opcode.RRQ, "x", "netascii")) is None


def test_a_stranger_gets_error_5_and_his_errors_no_answer() -> None:
    assert answer_to_stranger(ack(7)) == b"\0\5\0\5unknown transfer id\0"
    assert answer_to_stranger(b"\0\5\0\0gone\0") == b""


def test_a_doubled_ack_sends_nothing() -> None:
    """RFC 1123 §4.2.3.1: or each block would be sent twice from there on."""
    s = session(FILE)
    s.start(0.0)
    assert len(s.received(ack(1), 0.01)) == 1
    assert len(s.received(ack(1), 0.02)) == 0
    assert len(s.received(ack(1), 5.02)) == 0
    assert s.sent == 2


@pytest.mark.parametrize("number", [2, 3, 100, 65535])
def test_an_ack_of_what_was_not_sent_changes_nothing(number: int) -> None:
    s = session(FILE)
    s.start(0.0)
    with pytest.raises(MalformedPacket):
        s.received(ack(number), 0.01)
    assert (s.acked, s.sent, s.timer) == (0, 1, 1.0)


def test_what_is_lost_is_sent_again_and_ever_more_slowly() -> None:
    s = session(bytes(2000))
    s.start(0.0)
    s.received(ack(1), 0.001)  # a client that answers fast is not waited for long
    times = []
    while s.outcome is None:
        now = s.timer
        sent = list(s.timed_out(now))
        assert sent in ([], [b"\0\3\0\2" + bytes(512)])
        times.append(round(now - 0.001, 3))
    assert times[:8] == [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 20.7]
    assert GIVE_UP_SECONDS <= times[-1] < GIVE_UP_SECONDS + 8
    assert s.outcome == Outcome(Result.TIMEOUT, 512, "nothing came after block 1 of 4")


def test_who_lost_the_first_block_is_waited_for_no_longer_than_others() -> None:
    """The second is measured, not the 64th: where 5 of 100 are lost, so many in a row hardly ever come through."""
    s = session(bytes(512 * 100))
    s.start(0.0)
    s.timed_out(1.0)
    s.received(ack(1), 1.001)
    assert (s.ahead(), s.timer) == (1, 2.001)
    s.advance(1, 1.002)
    s.measure(1.003)
    assert s.ahead() == 64
    s.advance(1, 1.003)
    assert s.timer == 1.003 + SHORTEST_WAIT


def test_a_client_that_never_answers_is_left_after_three_repetitions() -> None:
    """It may be a forged address: we must not send it much (amplification)."""
    s = session(FILE, blksize=1468, windowsize=64)
    sent = [len(datagrams(s, s.start(0.0)))]
    while s.outcome is None:
        sent.append(len(datagrams(s, s.timed_out(s.timer))))
    assert sent == [1, 1, 1, 1, 0]
    assert s.outcome == Outcome(Result.TIMEOUT, 0, "the client never answered")


def test_a_clock_that_comes_early_does_nothing() -> None:
    s = session(FILE)
    s.start(0.0)
    assert s.timed_out(0.99) == () and s.timer == 1.0


def test_the_timeout_option_is_the_longest_wait() -> None:
    s = session(bytes(2000), timeout=2)
    s.start(0.0)
    waits = []
    for _ in range(3):
        now = s.timer
        s.timed_out(now)
        waits.append(s.timer - now)
    assert waits == [2.0, 2.0, 2.0]


def test_a_repeated_request_is_answered_once_more_until_the_client_was_heard() -> None:
    s = session(FILE, blksize=1024)
    [oack] = s.start(0.0)
    assert s.asked_again(0.01) == ()  # a copy made by the wire
    assert s.asked_again(0.5) == (oack,)
    s.received(ack(0), 0.6)
    assert s.asked_again(0.7) == ()
    assert s.asked_again(4.0) is None


def test_a_gap_in_a_window_is_sent_again_from_there() -> None:
    s = session(bytes(512 * 10), windowsize=4)
    s.start(0.0)
    assert len(datagrams(s, s.received(ack(0), 0.001))) == 4
    again = datagrams(s, s.received(ack(2), 0.002))
    assert [d[3] for d in again] == [3, 4, 5, 6]
    assert s.retransmits == 2


def test_a_window_whose_first_block_was_lost() -> None:
    s = session(bytes(512 * 20), windowsize=4)
    s.start(0.0)
    s.received(ack(0), 0.010)
    s.received(ack(4), 0.020)
    assert s.received(ack(4), 0.021) == ()  # sooner than any answer: a copy
    assert [d[3] for d in datagrams(s, s.received(ack(4), 0.030))] == [5, 6, 7, 8]
    assert s.received(ack(4), 0.040) == ()  # believed once
    assert [d[3] for d in datagrams(s, s.received(ack(8), 0.041))] == [9, 10, 11, 12]
    assert s.received(ack(8), 0.052) == ()  # what came twice makes it acknowledge twice


def test_a_client_that_acknowledges_every_block_of_a_window() -> None:
    """Some ROMs ask for a window and then do not use it: slow, and no avalanche."""
    s, client = session(bytes(512 * 200), windowsize=8), Client()
    out, sent, now = [b""], datagrams(s, s.start(0.0)), 0.0
    out.clear()
    while s.outcome is None and now < 100:
        now += 0.0005
        if not sent:
            now = s.timer
            sent = datagrams(s, s.timed_out(now))
            continue
        answers = [a for d in sent for a in client.take(d)]
        out += sent
        sent = []
        for answer in answers:
            sent += datagrams(s, s.received(answer, now))
    assert s.outcome == Outcome(Result.SENT, 512 * 200)
    assert len(out) < 3 * 201


def test_the_window_at_the_end_is_not_longer_than_the_file() -> None:
    s = session(bytes(512 * 4), windowsize=4)
    s.start(0.0)
    assert [len(d) - 4 for d in datagrams(s, s.received(ack(0), 0.001))] == [512] * 4
    assert [len(d) - 4 for d in datagrams(s, s.received(ack(4), 0.002))] == [0]


@pytest.mark.parametrize("windowsize", [1, 7, 16])
def test_more_than_65535_blocks(windowsize: int) -> None:
    data = Random(2).randbytes(8 * 70_000 + 3)
    s, client = session(data, blksize=8, windowsize=windowsize), Client(blksize=8, windowsize=windowsize)
    run(s, client, Wire())
    assert client.received == data
    assert s.outcome == Outcome(Result.SENT, len(data))
    assert s.retransmits == 0


@pytest.mark.parametrize("loss", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("windowsize", [1, 4, 16])
def test_a_wire_that_loses(windowsize: int, loss: float) -> None:
    data = Random(3).randbytes(100_000)
    s, client = session(data, blksize=1024, windowsize=windowsize), Client(blksize=1024, windowsize=windowsize)
    seconds = run(s, client, Wire(loss=loss, random=Random(windowsize)))
    assert client.received == data and s.outcome is not None
    assert s.outcome.result is Result.SENT
    assert seconds < 20 + 400 * loss


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("windowsize", [1, 4, 64])
def test_a_wire_that_loses_copies_and_delays(windowsize: int, seed: int) -> None:
    data = Random(seed).randbytes(512 * 60)
    s, client = session(data, windowsize=windowsize), Client(windowsize=windowsize)
    wire = Wire(loss=0.1, copies=0.2, jitter=0.002, random=Random(seed))
    run(s, client, wire)
    assert client.received == data and s.outcome is not None
    assert s.outcome.result is Result.SENT


def test_copies_alone_are_no_reason_to_send_anything_twice() -> None:
    s, client = session(bytes(512 * 300)), Client()
    wire = Wire(copies=0.5)
    run(s, client, wire)
    assert s.retransmits == 0
    assert wire.carried < 3 * 301


def test_copies_with_a_window_do_not_multiply() -> None:
    s, client = session(bytes(512 * 400), windowsize=4), Client(windowsize=4)
    wire = Wire(copies=0.3)
    run(s, client, wire)
    assert client.received == bytes(512 * 400)
    assert s.retransmits < 400


def test_a_rom_that_never_acknowledges_the_last_block() -> None:
    s = session(FILE)
    s.start(0.0)
    s.received(ack(1), 0.001)
    s.received(ack(2), 0.002)
    while s.outcome is None:
        s.timed_out(s.timer)
    assert s.outcome == Outcome(Result.SENT, 1280, "the last acknowledgement did not come")


def test_a_client_that_closed_its_port() -> None:
    s = session(FILE)
    s.start(0.0)
    s.gone()
    assert s.outcome == Outcome(Result.ABORTED, 0, "the client closed its port")
    s = session(FILE)
    s.start(0.0)
    for block in (1, 2):
        s.received(ack(block), 0.01)
    s.gone()
    assert s.outcome == Outcome(Result.SENT, 1280, "the last acknowledgement did not come")


def test_we_stop() -> None:
    s = session(FILE)
    s.start(0.0)
    assert s.stop("the server is stopping") == (b"\0\5\0\0the server is stopping\0",)
    assert s.outcome == Outcome(Result.ABORTED, 0, "the server is stopping")
    assert s.received(ack(1), 1.0) == () and s.timed_out(2.0) == () and s.stop("x") == ()
    s.replaced()
    assert s.outcome.detail == "the server is stopping"


def test_a_file_that_cannot_be_read_any_more() -> None:
    class Broken:
        size = 2000

        def cut(self, _: int) -> Packets:
            def packets(first: int, _: int) -> bytes:
                if first > 1:
                    raise OSError(116, "it was changed while it was sent")
                return b"\0\3\0\1" + bytes(512)

            return packets

    s = Session(parse_request(rrq()), Broken(), LIMITS, 0.0)
    s.start(0.0)
    text = "cannot read the file: it was changed while it was sent"
    assert s.received(ack(1), 0.1) == (b"\0\5\0\0" + text.encode() + b"\0",)
    assert s.outcome == Outcome(Result.ABORTED, 512, text)


def test_a_path_with_a_small_mtu_lowers_the_block() -> None:
    s = session(FILE, limits=Limits(1000, 64), blksize=1468)
    assert list(s.start(0.0)) == [b"\0\6blksize\x001000\0"]


@pytest.mark.parametrize("windowsize", [1, 4, 7, 64])
@pytest.mark.parametrize("size", [0, 511, 512 * 64, 512 * 1000 + 3, 512 * 70_000])
def test_a_session_whose_caller_runs_ahead_is_where_it_would_be(size: int, windowsize: int) -> None:
    plain, ahead = (session(b"", windowsize=windowsize) for _ in range(2))
    for s in (plain, ahead):
        s.total = size // 512 + 1
        s._packets = lambda first, count: b"\0\3" + (first & 0xFFFF).to_bytes(2, "big") + bytes(512 * count)
        s.start(0.0)
        if windowsize > 1:
            s.received(ack(0), 0.0)
    now, taken = 0.0, 0
    while ahead.outcome is None:
        lent = ahead.ahead()
        run = Random(plain.acked).randint(0, lent)
        for _ in range(run):
            now += 0.001
            assert plain.sent < plain.total and plain.sent & 0xFFFF <= 0xFFFF - windowsize
            plain.received(ack(plain.sent), now)
            assert plain.sent - plain.acked == windowsize and plain.sent < plain.total
        if run:
            ahead.advance(run, now)
            taken += run
        assert (ahead.acked, ahead.sent) == (plain.acked, plain.sent)
        if run:
            assert ahead.timer == now + ahead._wait
        now += 0.001
        last = ack(plain.sent)
        assert [bytes(b) for b in plain.received(last, now)] == [bytes(b) for b in ahead.received(last, now)]
    assert plain.outcome == ahead.outcome
    assert taken > 0 or size <= 512 * windowsize * 2


def test_nobody_runs_ahead_while_there_is_something_to_think_about() -> None:
    s = session(bytes(512 * 100), windowsize=4)
    s.start(0.0)
    assert s.ahead() == 0  # not heard yet
    s.received(ack(0), 0.001)
    assert s.ahead() == 24
    s.received(ack(2), 0.002)
    assert s.ahead() == 0  # something was lost
    s.received(ack(6), 0.003)
    assert s.ahead() > 0
    s.timed_out(s.timer)
    assert s.ahead() == 0
    s.stop("enough")
    assert s.ahead() == 0
