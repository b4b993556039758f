"""The fault bench: BMCs that are sick in nine ways, over real TLS and RMCP+; `why` names each, and others do not wait.

Orders go the whole way: saved, carried out by the worker, told in the timeline, and asked for over REST.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from metalbox import bmcaccounts
from metalbox.bmcmatch import Source, Told
from metalbox.dhcp.leases import Leases
from metalbox.evidence import Facts
from metalbox.journal import Journal
from metalbox.machine import Machine
from metalbox.power import Device, Endpoint, Override
from metalbox.power.orders import Verb
from metalbox.power.polite import Manners
from metalbox.power.redfish import THREADS
from metalbox.presence import Presence
from metalbox.secrets import Secret
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard
from metalbox.web.agent_api import AgentApi
from metalbox.web.api import Api
from tests.power import ipmi_peers
from tests.power.redfish_service import PASSWORD, SESSIONS, USER, Answer, Service, error, make_certificate, running

# Of the tests in which an answer comes, be it late; what is not obeyed is known soon.
PATIENT = Manners(gap=0.0, read=60.0, write=60.0, patrol=60.0, tries=1, on=2.0, off=2.0, override=1.0, first_pause=0.01)
# Of those in which none comes.
QUICK = replace(PATIENT, read=2.5, write=2.5, patrol=2.5)


@dataclass
class Bench:
    """The parts of the service that have to do with power, and REST's `why`."""

    database: Database
    board: Switchboard
    rest: TestClient[web.Request, web.Application]
    machines: dict[str, Machine] = field(default_factory=dict)

    async def add(self, name: str, endpoint: Endpoint) -> Machine:
        """A machine with a BMC that an operator entered."""
        assert endpoint.credentials is not None
        account = endpoint.credentials

        def save(store: Store) -> Machine:
            number = store.machines.add(Machine(id=0, name=name, state="discovered")).id
            told = Told(
                Source.OPERATOR, address=endpoint.address, port=endpoint.port, drivers=(endpoint.driver,), vendor="Dell"
            )
            bmcaccounts.add(
                store, self.board.vault, told, 1.0, user=account.user, password=Secret(account.password),
                settings=endpoint.settings, machine_id=number,
            )  # fmt: skip
            machine = store.machines.get(number)
            assert machine is not None
            return machine

        self.machines[name] = await self.database.run(save)
        return self.machines[name]

    async def order(self, name: str, verb: Verb = Verb.ON, boot: Override | None = None) -> dict[str, Any]:
        """Order and wait for what comes of it."""
        number = await self.board.worker.order(self.machines[name], verb, boot)
        saved = await self.board.worker.wait(number, 120)
        assert saved.finished_at is not None
        return dict(saved.outcome)

    async def why(self, name: str) -> dict[str, Any]:
        """As `metalbox why` asks it."""
        answer = await self.rest.get(f"/api/v1/machines/{name}/why")
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        assert PASSWORD not in str(found) and ipmi_peers.PASSWORD not in str(found)
        return found

    async def patrol(self) -> None:
        """One lap of the patrol, and what it learned written down."""
        self.board.patrol._period = 0.1
        await self.board.patrol.lap(await self.board._machines())
        await self.board.learn()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    journal = Journal(database)
    board = Switchboard(database, journal, tmp_path)
    board.front.manners = PATIENT
    agents = AgentApi(database, journal, Presence(lambda address: None), lambda machine: None)
    api = Api(
        database, journal, Leases(()), agents, dict, lambda machine: Facts("192.0.2.1"), power=board.facts
    )  # fmt: skip
    app = web.Application()
    app.add_routes([web.get("/api/v1/machines/{name}/why", api.why)])
    working = asyncio.create_task(board.worker.run())
    async with TestClient(TestServer(app)) as rest:
        yield Bench(database, board, rest)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    await board.close()
    await journal.close()
    await database.close()
    # A call that was given up ends when its BMC is gone; what it held is left to the garbage collector.
    for _ in range(1000):
        if not THREADS.lost:
            break
        await asyncio.sleep(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def redfish(certificate: Path) -> Iterator[Service]:
    with running(Service(), certificate) as service:
        yield service


@pytest.fixture(scope="module")
def ipmi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ipmi_peers.Simulator]:
    with ipmi_peers.simulator(tmp_path_factory.mktemp("ipmi") / "bmc") as simulator:
        yield simulator


@contextmanager
def listener(answer: bytes | None) -> Iterator[Endpoint]:
    """A port that takes connections and says this, or nothing at all."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with ExitStack() as held:
                while not stop.is_set():
                    with suppress(OSError):
                        one = held.enter_context(server.accept()[0])
                        if answer is not None:
                            one.recv(3000)
                            one.sendall(answer)
                            one.close()

        server.settimeout(0.05)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        service = Service()
        service.url = f"https://127.0.0.1:{server.getsockname()[1]}"
        yield service.endpoint()
        stop.set()
        thread.join(5)


def details(found: dict[str, Any]) -> str:
    return " ".join([found["doing"], found["cause"], *found["evidence"]])


async def check_failed(bench: Bench, code: str, *words: str) -> dict[str, Any]:
    """An order fails, `why` says so at once, and the patrol comes to the same."""
    outcome = await bench.order("sick")
    assert (outcome["done"], outcome["code"]) == (False, code), outcome
    found = await bench.why("sick")
    assert found["code"] == code
    assert found["evidence"] and found["advice"] and found["waiting_for"]
    for word in words:
        assert word in details(found), found
    return found


# -- Redfish over TLS --------------------------------------------------------------------------------------------------


async def test_redfish_hangs_in_the_handshake(bench: Bench) -> None:
    bench.board.front.manners = QUICK
    with listener(None) as endpoint:
        await bench.add("sick", endpoint)
        found = await check_failed(bench, "hung")
    assert any("mc reset cold" in line for line in found["advice"])


async def test_redfish_hangs_after_the_request(bench: Bench, redfish: Service) -> None:
    bench.board.front.manners = QUICK
    redfish.faults["GET /redfish/v1/Systems"] = Answer(hang=60)
    await bench.add("sick", redfish.endpoint())
    await check_failed(bench, "hung", "did not answer is_on by redfish in 2.5 s")
    await bench.patrol()
    assert (await bench.why("sick"))["code"] == "hung"


async def test_redfish_refuses_the_connection(bench: Bench, redfish: Service) -> None:
    port = ipmi_peers.free_port()
    redfish.url = f"https://127.0.0.1:{port}"
    await bench.add("sick", redfish.endpoint())
    found = await check_failed(bench, "unreachable", "nothing listens there")
    assert f"by hand: curl -kv https://127.0.0.1:{port}/redfish/v1/" in found["advice"]


async def test_redfish_answers_garbage(bench: Bench, redfish: Service) -> None:
    redfish.faults["GET /redfish/v1/Systems"] = Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html/>")
    await bench.add("sick", redfish.endpoint())
    await check_failed(bench, "garbage", "<html/>")


async def test_redfish_lies_about_power(bench: Bench, redfish: Service) -> None:
    redfish.lies_about_power = True
    await bench.add("sick", redfish.endpoint())
    await check_failed(bench, "not-obeyed", "the machine is still not on", "redfish reads back: off")


async def test_redfish_loses_the_override(bench: Bench, redfish: Service) -> None:
    redfish.loses_override = True
    await bench.add("sick", redfish.endpoint())
    outcome = await bench.order("sick", Verb.ON, Override(Device.PXE))
    assert outcome["done"], outcome
    found = await bench.why("sick")
    (lost,) = [one for one in found["also"] if one["code"] == "override-lost"]
    assert "redfish reads back: none" in details(lost)
    assert "the firmware's setup" in " ".join(lost["advice"])


async def test_redfish_drops_the_session(bench: Bench, redfish: Service) -> None:
    """Once, the driver logs in again; for ever, the account is not taken."""
    await bench.add("sick", redfish.endpoint())
    await bench.order("sick")
    redfish.sessions.clear()
    outcome = await bench.order("sick", Verb.OFF)
    assert outcome["done"], outcome
    logins = len(redfish.asked("POST", SESSIONS))
    assert logins == 2
    redfish.faults["GET /redfish/v1/Systems.*"] = error(401, "Base.1.0.NoValidSession", "There is no valid session")
    assert (await bench.order("sick"))["code"] == "wrong-password"
    found = await bench.why("sick")
    # It was switched on a moment ago, so it boots; that it takes no more orders is a remark.
    (also,) = [one for one in found["also"] if one["code"] == "wrong-password"]
    assert "NoValidSession" in details(also)
    assert len(redfish.asked("POST", SESSIONS)) <= logins + 2


@pytest.mark.parametrize(
    ("status", "message_id", "words"),
    [
        (503, "Base.1.0.SessionLimitExceeded", "The session establishment failed due to the number of sessions"),
        (503, "IDRAC.2.1.RAC0218", "The maximum number of user sessions is reached"),
        (400, "iLO.2.14.MaxSessions", "Too many sessions are open"),
    ],
)
async def test_redfish_has_a_full_session_table(
    bench: Bench, redfish: Service, status: int, message_id: str, words: str
) -> None:
    redfish.faults[f"POST {SESSIONS}"] = error(status, message_id, words)
    await bench.add("sick", redfish.endpoint())
    found = await check_failed(bench, "sessions-full", message_id)
    assert any("web interface" in line for line in found["advice"])


async def test_redfish_really_has_no_session_left(bench: Bench, redfish: Service) -> None:
    redfish.max_sessions = 0
    await bench.add("sick", redfish.endpoint())
    await check_failed(bench, "sessions-full", "SessionLimitExceeded")


async def test_redfish_has_a_certificate_that_is_not_trusted(bench: Bench, redfish: Service) -> None:
    await bench.add("sick", redfish.endpoint(verify="yes"))
    await check_failed(bench, "bad-tls", "is not trusted")


async def test_redfish_has_another_certificate(bench: Bench, redfish: Service) -> None:
    await bench.add("sick", redfish.endpoint(verify=f"sha256:{'0' * 64}"))
    await check_failed(bench, "bad-tls", "is not the one that is expected")


async def test_redfish_speaks_no_tls(bench: Bench) -> None:
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        await bench.add("sick", endpoint)
        await check_failed(bench, "bad-tls", "does not speak TLS there")


async def test_redfish_does_not_take_the_password(bench: Bench, redfish: Service) -> None:
    await bench.add("sick", redfish.endpoint(password="another"))
    found = await check_failed(bench, "wrong-password", "InsufficientPrivilege")
    assert found["advice"][0] == f"`metalbox bmc add 127.0.0.1 --user {USER} --machine sick` asks for it"
    # No second try: the account would be locked.
    await bench.order("sick")
    await bench.patrol()
    assert len(redfish.asked("POST", SESSIONS)) == 1


async def test_redfish_wants_a_licence(bench: Bench, redfish: Service) -> None:
    told = error(403, "SMC.1.0.OemLicenseNotPassed", "Not licensed to perform this request. The node needs SFT-OOB-LIC")
    redfish.faults["POST .*Reset"] = told
    await bench.add("sick", redfish.endpoint())
    found = await check_failed(bench, "licence", "OemLicenseNotPassed")
    assert any("iDRAC Enterprise" in line for line in found["advice"])


# -- IPMI --------------------------------------------------------------------------------------------------------------


async def test_ipmi_hangs(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    """Stopped in the middle of a session: the port is there, and nobody at home."""
    await bench.add("sick", ipmi_peers.endpoint(ipmi.port))
    await bench.patrol()
    number = _process_of(ipmi.port)
    bench.board.front.manners = QUICK
    os.kill(number, signal.SIGSTOP)
    try:
        outcome = await bench.order("sick")
        assert outcome["code"] in ("hung", "unreachable"), outcome
        found = await bench.why("sick")
        assert found["code"] == outcome["code"]
        assert any(f"ipmitool -I lanplus -H 127.0.0.1 -p {ipmi.port}" in line for line in found["advice"])
    finally:
        os.kill(number, signal.SIGCONT)


async def test_ipmi_does_not_listen(bench: Bench) -> None:
    await bench.add("sick", ipmi_peers.endpoint(ipmi_peers.free_port()))
    await check_failed(bench, "unreachable")


async def test_ipmi_does_not_take_the_password(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    await bench.add("sick", ipmi_peers.endpoint(ipmi.port, password="another"))
    await check_failed(bench, "wrong-password")


async def test_ipmi_answers_garbage(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    def spoil(data: bytes, from_bmc: bool) -> tuple[bytes | None, bytes | None]:
        return (b"\x06\x00\xff\x07 no IPMI at all" if from_bmc else data), None

    with ipmi_peers.Wire(ipmi.port, spoil) as wire:
        await bench.add("sick", ipmi_peers.endpoint(wire.port))
        await check_failed(bench, "garbage")


async def test_ipmi_has_a_full_session_table(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    def full(data: bytes, from_bmc: bool) -> tuple[bytes | None, bytes | None]:
        # The answer to Open Session, with the status 0x01: no session left.
        is_answer = from_bmc and ipmi_peers.payload_type(data) == ipmi_peers.OPEN_SESSION_RESPONSE
        return (ipmi_peers.changed(data, (17, 1)) if is_answer else data), None

    with ipmi_peers.Wire(ipmi.port, full) as wire:
        await bench.add("sick", ipmi_peers.endpoint(wire.port))
        await check_failed(bench, "sessions-full")


async def test_ipmi_drops_the_session(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    """Commands in a session get no answer any more: a new one is opened."""
    lost = False

    def drop(data: bytes, from_bmc: bool) -> tuple[bytes | None, bytes | None]:
        return (None if lost and ipmi_peers.is_in_session(data) else data), None

    with ipmi_peers.Wire(ipmi.port, drop) as wire:
        await bench.add("sick", ipmi_peers.endpoint(wire.port))
        await bench.patrol()
        lost = True
        bench.board.front.manners = QUICK
        outcome = await bench.order("sick")
        assert outcome["code"] in ("hung", "unreachable"), outcome
        found = await bench.why("sick")
        assert found["code"] == outcome["code"]


async def test_ipmi_lies_about_power_and_loses_the_override(bench: Bench, ipmi: ipmi_peers.Simulator) -> None:
    await bench.add("sick", ipmi_peers.endpoint(ipmi.port))
    (ipmi.folder / "ignores").touch()
    try:
        outcome = await bench.order("sick", Verb.ON, Override(Device.PXE))
        assert outcome["code"] == "not-obeyed", outcome
        found = await bench.why("sick")
        assert found["code"] == "not-obeyed" and "ipmi reads back: off" in details(found)
        assert "override-lost" in [one["code"] for one in found["also"]], found
    finally:
        (ipmi.folder / "ignores").unlink()


def _process_of(port: int) -> int:
    """The process that was started with this port in its configuration: a child of ours."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"ipmi_sim" in words[0] and f" {port}\n".encode() in Path(os.fsdecode(words[2])).read_bytes():
                return int(folder.name)
    raise AssertionError(f"no ipmi_sim at port {port}")


# -- nobody else waits -------------------------------------------------------------------------------------------------


async def test_commands_to_healthy_machines_do_not_wait_for_the_sick(
    bench: Bench, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve that hang are ordered at once; a healthy one is switched on and off meanwhile."""
    # What hangs in the handshake hangs as long as a request may.
    monkeypatch.setattr("metalbox.power.redfish_session.CONNECT_SECONDS", 60.0)
    with running(Service(), certificate) as well, listener(None) as hung:
        await bench.add("well", well.endpoint())
        assert (await bench.order("well"))["done"]
        bench.board.front.manners = replace(PATIENT, on=20.0)
        for number in range(12):
            # Each its own BMC by its own address, and all at the one that hangs.
            await bench.add(f"sick{number}", Endpoint("redfish", f"127.0.0.{number + 2}", hung.port, hung.credentials))
        with ExitStack() as stack:
            for number in range(12):
                silent = stack.enter_context(socket.create_server((f"127.0.0.{number + 2}", hung.port)))
                silent.listen(64)
            sick = [asyncio.create_task(bench.order(f"sick{number}")) for number in range(12)]
            await asyncio.sleep(0.2)
            for verb in (Verb.OFF, Verb.ON, Verb.OFF):
                assert (await bench.order("well", verb))["done"]
            # One that stood in the way would have come to its end; what is lost at all is measured by bench/bmc.py.
            assert not any(task.done() for task in sick)
        outcomes = await asyncio.gather(*sick)
    assert {outcome["done"] for outcome in outcomes} == {False}
