"""Bytes of SCSI commands and sense data, by the standards."""

from __future__ import annotations

import random

import pytest

from metalbox.agent import scsi
from metalbox.agent.passthrough import DriveError, ScsiAnswer

FIXED = bytes.fromhex("70000200000000 0a00000000041b00804000".replace(" ", ""))
DESCRIPTOR = bytes.fromhex("7202041b00000008" + "0206000080400000")


@pytest.mark.parametrize("raw", [FIXED, DESCRIPTOR])
def test_a_sanitize_in_progress_is_told_in_either_format(raw: bytes) -> None:
    sense = scsi.Sense(raw)
    assert (sense.key, sense.code, sense.progress) == (2, (0x04, 0x1B), 0x4000)
    assert scsi.sanitizing(sense) == "in progress" and str(sense) == "sense key 2h, 04h/1Bh"


def test_a_failed_sanitize() -> None:
    assert scsi.sanitizing(scsi.Sense(bytes.fromhex("7203310300000000"))) == "failed"


def test_damaged_sense_never_raises() -> None:
    rng = random.Random(1)
    for _ in range(20_000):
        scsi.Sense(bytes([rng.choice((0x70, 0x72, 0xF0))]) + rng.randbytes(rng.randrange(30)))


@pytest.mark.parametrize(
    ("answer", "begun"),
    [
        (ScsiAnswer(2, bytes.fromhex("7205200000000000")), False),
        (ScsiAnswer(2, bytes.fromhex("7207270000000000")), False),
        (ScsiAnswer(2, bytes.fromhex("7204440000000000")), True),
        (ScsiAnswer(8), True),
        (ScsiAnswer(0, host=3), True),
        (ScsiAnswer(2), True),
    ],
)
def test_what_an_answer_says_about_the_beginning(answer: ScsiAnswer, begun: bool) -> None:
    with pytest.raises(DriveError) as caught:
        scsi.expect("SANITIZE", answer)
    assert caught.value.begun is begun


def test_recovered_errors_are_success() -> None:
    assert scsi.expect("INQUIRY", ScsiAnswer(2, bytes.fromhex("7201000000000000"), b"data")) == b"data"
