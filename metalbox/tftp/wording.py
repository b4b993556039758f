"""What the timeline says of a transfer: one sentence for people, and the same as data for programs. Pure."""

from __future__ import annotations

from typing import Any

from metalbox.tftp.packet import ErrorCode, printable
from metalbox.tftp.session import Outcome, Result, Session


def ending(name: str, size: int, session: Session, outcome: Outcome, seconds: float) -> str:
    """How a transfer ended. The machine's name stands before it."""
    if outcome.result is Result.SENT:
        text = f"fetched {name} by TFTP: {size:,} bytes in {seconds:.2f} s"
        if session.retransmits:
            text += f", {session.retransmits} block{'s' if session.retransmits > 1 else ''} sent again"
        return f"{text}; {outcome.detail}" if outcome.detail else text
    if outcome.result is Result.TIMEOUT:
        return f"stopped fetching {name} by TFTP after {seconds:.0f} s: {outcome.detail}"
    if outcome.acked_bytes == 0 and session.heard_error and session.asked_size:
        # EDK2, pxelinux and the ROMs of Intel and VMware ask for the size, break off, and ask for the file.
        return f"asked by TFTP for the size of {name}: {size:,} bytes"
    return f"broke off {name} by TFTP at {outcome.acked_bytes:,} of {size:,} bytes: {outcome.detail}"


def ending_data(name: str, session: Session, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "file": name,
        "bytes": outcome.acked_bytes,
        "seconds": round(seconds, 4),
        "outcome": str(outcome.result),
        "blksize": session.blksize,
        "windowsize": session.windowsize,
        "retransmits": session.retransmits,
    }


def refused_as(code: ErrorCode) -> Result:
    """What became of a request that was answered with this ERROR."""
    return Result.NOT_FOUND if code is ErrorCode.NOT_FOUND else Result.REFUSED


def refusal(asked: str, code: ErrorCode, reason: str) -> tuple[Result, str, dict[str, Any]]:
    """A request that became no transfer. `asked` is the name as it was on the wire."""
    name = printable(asked)[:255]
    result = refused_as(code)
    if result is Result.NOT_FOUND:
        text = f"asked by TFTP for {name}, which is not here"
    else:
        text = f"was refused {name} by TFTP: {reason}"
    return result, text, {"file": name, "bytes": 0, "seconds": 0.0, "outcome": str(result)}
