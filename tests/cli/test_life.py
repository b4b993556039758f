"""The verbs of a machine's life at the command line, against a real service."""

from __future__ import annotations

import asyncio

import pytest

from metalbox.cli.main import main
from tests.web.conftest import Stack


async def run(stack: Stack, *argv: str) -> int:
    return await asyncio.to_thread(main, [*argv, "--socket", str(stack.socket)])


async def test_adopt_says_what_it_is_now_and_refusals_what_would_be_legal(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    await stack.report()
    assert await run(stack, "adopt", "sn12345") == 0
    assert capsys.readouterr().out == "sn12345: is deployed\n"
    assert await run(stack, "adopt", "sn12345") == 4
    expected = "metalbox: adopt is not possible in state deployed; possible is: forget, hold, release, report, retire"
    assert capsys.readouterr().err.startswith(expected)
