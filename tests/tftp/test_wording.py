"""tftp.wording: what people and programs read."""

from __future__ import annotations

from metalbox.tftp import wording
from metalbox.tftp.packet import ErrorCode
from metalbox.tftp.session import Result
from tests.tftp.wire import ack, session


def test_sent() -> None:
    s = session(bytes(1000))
    s.start(0.0)
    s.timed_out(1.0)
    s.received(ack(1), 1.1)
    s.received(ack(2), 1.2)
    assert s.outcome is not None
    text = wording.ending("snponly.efi", 1000, s, s.outcome, 1.2)
    assert text == "fetched snponly.efi by TFTP: 1,000 bytes in 1.20 s, 1 block sent again"
    assert wording.ending_data("snponly.efi", s, s.outcome, 1.23456) == {
        "file": "snponly.efi", "bytes": 1000, "seconds": 1.2346, "outcome": "sent",
        "blksize": 512, "windowsize": 1, "retransmits": 1,
    }  # fmt: skip


def test_a_size_probe_reads_as_what_it_is() -> None:
    s = session(bytes(1000), tsize=0)
    s.start(0.0)
    s.received(b"\0\5\0\0TFTP Aborted\0", 0.1)
    assert s.outcome is not None
    assert wording.ending("x", 1000, s, s.outcome, 0.1) == "asked by TFTP for the size of x: 1,000 bytes"


def test_what_went_wrong() -> None:
    s = session(bytes(1000))
    s.start(0.0)
    s.received(ack(1), 0.1)
    s.received(b"\0\5\0\3disk full\0", 0.2)
    assert s.outcome is not None
    assert (
        wording.ending("x", 1000, s, s.outcome, 1.0) == "broke off x by TFTP at 512 of 1,000 bytes: error 3: disk full"
    )
    s = session(bytes(1000))
    s.start(0.0)
    while s.outcome is None:
        s.timed_out(s.timer)
    text = wording.ending("x", 1000, s, s.outcome, 15.0)
    assert text == "stopped fetching x by TFTP after 15 s: the client never answered"


def test_refusals() -> None:
    data = {"file": "a?b", "bytes": 0, "seconds": 0.0}
    assert wording.refusal("a\x1bb", ErrorCode.NOT_FOUND, "file not found") == (
        Result.NOT_FOUND, "asked by TFTP for a?b, which is not here", {**data, "outcome": "not found"},
    )  # fmt: skip
    assert wording.refusal("a\x1bb", ErrorCode.ACCESS_VIOLATION, "no") == (
        Result.REFUSED, "was refused a?b by TFTP: no", {**data, "outcome": "refused"},
    )  # fmt: skip
