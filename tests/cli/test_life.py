"""The verbs of a machine's life at the command line, against a real service: as they are typed, confirmed and read."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import time
from typing import Any

import pytest

from metalbox import inventory
from metalbox.cli.following import follow
from metalbox.cli.life import VERBS
from metalbox.cli.main import main
from metalbox.lifecycle import Event, State, legal
from metalbox.machine import Fault
from metalbox.store import Store
from tests.erasures import disk
from tests.web.conftest import Stack
from tests.web.lives import NAME, claim, done, erase_order, life, present, put_in, say

A, B = disk("A"), disk("B")
STATES = [state for state in State if state is not State.UNKNOWN]


async def run(stack: Stack, *argv: str) -> int:
    return await asyncio.to_thread(main, [*argv, "--socket", str(stack.socket)])


async def texts(stack: Stack, kind: str = "life") -> list[str]:
    return [entry.text for entry in await stack.entries() if entry.kind == kind]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_every_verb_in_every_state(
    stack: Stack, capsys: pytest.CaptureFixture[str], verb: str, state: State
) -> None:
    await present(stack, A, B)
    await put_in(stack, state)
    before = await texts(stack)
    more = ["--yes"] if verb in ("accept", "erase", "release", "retire", "retry", "forget") else []
    code = await run(stack, verb, NAME, *more)
    captured = capsys.readouterr()
    if verb not in legal(state):
        assert code == 4
        sentence = f"{verb} is not possible in state {state}; possible is: {', '.join(legal(state))}"
        assert captured.err == f"metalbox: {sentence}\n"
        assert await texts(stack) == before
        return
    refused = {
        "unhold": f"{NAME} is not held",
        "retry": f"{NAME} has no fault to retry after",
        "forget": f"{NAME} is ",
    }
    if code:
        # Legal in this state, but not of the machine as it is.
        assert code == 4 and refused[verb] in captured.err
        assert verb != "forget" or state in ("deployed", "erasing", "retiring")
        assert await texts(stack) == before
        return
    assert captured.out.splitlines()[-1].startswith(f"{NAME}: is ")
    if verb != "forget":
        (told,) = (await texts(stack))[len(before) :]
        assert verb in told and "root" in told


async def test_a_dry_run_prints_the_table_and_touches_nothing(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A, disk("U", transport="usb"))
    before = await life(stack)
    assert await run(stack, "accept", NAME, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{NAME} (discovered), level clear, verified by sample, about ")
    assert lines[1].split() == ["DISK", "MODEL", "SIZE", "BY", "METHOD", "ABOUT", "STANDARD", "WHY"]
    assert lines[2].split()[:6] == ["A", "LAB", "DISK", "1", "GB", "sata"]
    assert "overwrite" in lines[2] and "NIST" in lines[2]
    assert "untouched" in lines[3] and lines[3].endswith("it is attached by USB: name it to erase it")
    assert await life(stack) == before and await texts(stack) == []
    assert await run(stack, "accept", NAME, "--dry-run", "--named", "U", "--keep", "A") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[0] == "U" and "it is labelled to be kept" in lines[3]
    assert await run(stack, "retire", NAME, "--dry-run") == 4
    captured = capsys.readouterr()
    assert "retire is not possible in state discovered" in captured.err
    assert captured.out.startswith(f"{NAME} (discovered), level purge")


async def test_the_plan_for_programs(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A)
    assert await run(stack, "plan", NAME, "-o", "json", "--level", "clear") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["level"], found["problems"], found["refused"]) == ("clear", [], "")
    assert [(row["serial"], row["method"]) for row in found["disks"]] == [("A", "overwrite")]
    assert await run(stack, "plan", NAME, "--named", "nobody") == 4
    assert "problem: no disk of this machine has the serial number or WWN 'nobody'" in capsys.readouterr().out
    await present(stack, A, disk("B", read_only=True))
    assert await run(stack, "plan", NAME) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"1 disk cannot be erased so: {NAME} would stop with a fault"


def at_terminal(stack: Stack, typed: str, *argv: str) -> tuple[int, str]:
    """Run it in a process of its own with a terminal for its input, where somebody types."""
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "metalbox", *argv, "--socket", str(stack.socket)]
    try:
        process = subprocess.Popen(command, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        os.write(mine, typed.encode() + b"\n")
        said, _ = process.communicate(timeout=60)
        return process.returncode, said
    finally:
        os.close(mine)
        os.close(its)


async def test_what_destroys_data_asks_for_the_machines_name(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await present(stack, A, B)
    code, said = await asyncio.to_thread(at_terminal, stack, "yes", "accept", NAME)
    assert (code, "not confirmed: nothing was done" in said) == (4, True)
    assert f"accept: all that is on 2 disks of {NAME} is lost. Type the machine's name to go on: " in said
    assert (await life(stack))["state"] == "discovered"
    monkeypatch.setattr(sys, "stdin", io.StringIO(NAME))
    assert await run(stack, "accept", NAME) == 4
    assert "add --yes, for there is no terminal to ask at" in capsys.readouterr().err
    assert (await life(stack))["state"] == "discovered"
    code, said = await asyncio.to_thread(at_terminal, stack, NAME, "accept", NAME)
    assert (code, said.splitlines()[-1].endswith(f"{NAME}: is erasing")) == (0, True), said


async def test_no_more_machines_than_are_allowed(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A)
    await present(stack, B, uuid="4c4c4544-0099-3510-8054-b7c04f333732", mac="52:54:00:00:00:09", serial="SN2")
    assert await run(stack, "accept", "all", "--yes") == 4
    assert "--max 2" in capsys.readouterr().err
    assert (await life(stack))["state"] == (await life(stack, "sn2"))["state"] == "discovered"
    assert await run(stack, "hold", "all", "--max", "2", "--reason", "fans") == 0
    assert (await life(stack, "sn2"))["held"] == "fans"
    # One that is refused does not keep the others from it, and the exit code tells.
    assert await run(stack, "unhold", "all", "--max", "2") == 0
    assert await run(stack, "reject", "all", "--max", "2") == 0
    assert await run(stack, "reconsider", "sn2") == 0
    assert await run(stack, "reject", "all", "--max", "2") == 4
    assert f"{NAME}: reject is not possible in state rejected" in capsys.readouterr().err
    assert (await life(stack, "sn2"))["state"] == "rejected"


async def begin(stack: Stack, capsys: pytest.CaptureFixture[str]) -> Any:
    await present(stack, A, B)
    assert await run(stack, "accept", NAME, "--yes") == 0
    capsys.readouterr()
    order = await erase_order(stack, A, B)
    await claim(stack, order)
    return order


async def test_waiting_shows_the_progress_to_the_end(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A, B)
    waiting = asyncio.create_task(run(stack, "accept", NAME, "--yes", "--wait", "60"))
    order = await erase_order(stack, A, B)
    await claim(stack, order)
    news = {"disks": {"A": {"phase": "erase", "percent": 41.7, "left": 3600}, "B": {"phase": "verify", "percent": 9}}}
    assert await say(stack, order, "progress", progress=news) == 200
    shown = ""
    async with asyncio.timeout(60):
        while f"{NAME}: erasing: A erase 40%, B verify 0%\n" not in shown:
            await asyncio.sleep(0.05)
            shown += capsys.readouterr().out
    await done(stack, order)
    assert await waiting == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{NAME}: is available"


async def test_waiting_ends_with_a_fault_and_its_evidence(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    order = await begin(stack, capsys)
    await done(stack, order, B={"result": "failed", "evidence": "the drive said: media error"})
    assert await run(stack, "retry", NAME, "--yes", "--wait", "0") == 5
    captured = capsys.readouterr()
    assert f"not done within 0 s: {NAME}; it goes on" in captured.err
    order = await erase_order(stack, A, B)
    await claim(stack, order)
    waiting = asyncio.create_task(wait(stack))
    await done(stack, order, B={"result": "failed", "evidence": "the drive said: media error"})
    assert await waiting == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"{NAME}: erasing, fault: 1 of 2 disks were not erased"
    assert "media error" in lines[-1] and "failure record" in lines[-1]


async def wait(stack: Stack) -> int:
    return await asyncio.to_thread(follow, str(stack.socket), [NAME], 60)


async def test_waiting_outlives_a_restart_of_the_service(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    order = await begin(stack, capsys)
    aside = stack.socket.with_name("aside")
    stack.socket.rename(aside)
    waiting = asyncio.create_task(wait(stack))
    await asyncio.sleep(1.2)
    aside.rename(stack.socket)
    await done(stack, order)
    assert await waiting == 0
    assert f"{NAME}: is available" in capsys.readouterr().out.splitlines()[-1]


async def test_what_was_taken_back_is_not_done(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A)
    assert await run(stack, "accept", NAME, "--yes") == 0
    assert await run(stack, "cancel", NAME) == 0
    assert await wait(stack) == 1
    assert capsys.readouterr().out.endswith(f"{NAME}: is discovered\n")


async def test_a_second_person_approves(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await present(stack, A)
    for _ in range(20):
        stack.steward.ledger.note_wish(time.time())
    monkeypatch.setenv("SUDO_USER", "alice")
    assert await run(stack, "accept", NAME, "--yes", "--wait") == 4
    assert f"a second person must say `metalbox approve {NAME}`" in capsys.readouterr().out
    assert await run(stack, "approve", NAME) == 4
    assert "alice (root) wished it: a second person must approve it" in capsys.readouterr().err
    monkeypatch.setenv("SUDO_USER", "bob")
    assert await run(stack, "approve", NAME) == 0
    assert capsys.readouterr().out == f"{NAME}: is erasing\n"
    told = (await texts(stack))[-1]
    assert told.startswith("discovered -> erasing: accept at level clear, by alice (root), approved by bob (root)")


async def test_a_disk_is_kept(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, A, B)
    assert await run(stack, "keep", NAME, "a") == 0
    assert capsys.readouterr().out == f"{NAME}: the disk A is kept: it will not be erased, by root\n"
    assert await run(stack, "show", NAME) == 0
    assert "KEPT" in capsys.readouterr().out
    assert await run(stack, "accept", NAME, "--yes") == 0
    assert "1 disk" not in (await texts(stack))[-1] and "untouched: A" in (await texts(stack))[-1]
    assert await run(stack, "keep", NAME, "A", "--off") == 0
    assert await run(stack, "keep", NAME, "nobody") == 4


async def test_list_and_show_tell_what_is_in_the_way(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    await present(stack, disk("A", erasing={"ata_sanitize": ["crypto"], "ata_frozen": True, "holders": ["md127"]}))

    def write(store: Store) -> None:
        machine = inventory.find(store, NAME)
        object.__setattr__(machine, "fault", Fault("erase-failed", "1 of 1 disk", time.time(), ("A: no",)))
        object.__setattr__(machine, "held", "a fan")
        store.machines.save(machine)

    await stack.database.run(write)
    assert await run(stack, "list") == 0
    assert "discovered FAULT erase-failed HELD" in capsys.readouterr().out
    assert await run(stack, "show", NAME) == 0
    shown = capsys.readouterr().out
    assert "FAULT       1 of 1 disk (erase-failed, " in shown and "A: no" in shown and "HELD        a fan" in shown
    assert "sanitize crypto, frozen, used by md127" in shown


async def test_its_lines_are_in_the_events(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    order = await begin(stack, capsys)
    await done(stack, order)
    assert await run(stack, "events", NAME) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(" life " in line and "discovered -> erasing" in line for line in lines)
    assert any(" erase " in line and "machine certificate 3" in line for line in lines)


def test_every_verb_is_there() -> None:
    assert {str(event) for event in Event} - set(VERBS) == {"reported", "erased", "erase failed", "timeout", "report"}
