"""Accounts of BMCs: what drivers get, and that a password is nowhere else."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox import bmcaccounts, bmcs, inventory
from metalbox.bmcimport import parse
from metalbox.bmcmatch import Source, Told
from metalbox.errors import BmcWrongPassword, InvalidValue, Refused, StartError
from metalbox.power import Credentials, Endpoint
from metalbox.secrets import Secret, Vault
from metalbox.store import Store, sqlite_url
from tests.reports import full

PASSWORD = "hunter2-Correct-Horse"
KG = "6b672d6b672d6b672d6b672d6b672d6b672d6b67"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open(tmp_path, (), {})


def test_endpoints_are_redfish_then_ipmi(store: Store, vault: Vault) -> None:
    inventory.report(store, full(), "192.0.2.100", 100.0)
    assert bmcaccounts.endpoints(store, vault, 1) == [
        Endpoint("redfish", "192.0.2.200"),
        Endpoint("ipmi", "192.0.2.200"),
    ]
    bmcaccounts.set_account(store, vault, 1, "root", Secret(PASSWORD), 110.0)
    account = Credentials("root", PASSWORD)
    assert bmcaccounts.credentials(store, vault, 1) == account
    bmcs.answered(store, 1, "ipmi", 120.0)
    assert bmcaccounts.endpoints_of_machine(store, vault, 1) == [(1, Endpoint("ipmi", "192.0.2.200", 0, account))]
    bmcs.answered(store, 1, "redfish", 130.0)
    found = [endpoint.driver for _, endpoint in bmcaccounts.endpoints_of_machine(store, vault, 1)]
    assert found == ["redfish", "ipmi"]
    assert bmcaccounts.endpoints_of_machine(store, vault, 2) == []


def test_port_and_settings_are_those_of_the_first_driver(store: Store, vault: Vault) -> None:
    told = Told(Source.OPERATOR, "192.0.2.7", 6230, ("ipmi",))
    done = bmcaccounts.add(
        store, vault, told, 10.0, user="root", password=Secret(PASSWORD), settings={"kg": KG, "privilege": "operator"}
    )
    bmcs.answered(store, done.bmc.id, "redfish", 20.0)
    account = Credentials("root", PASSWORD)
    assert bmcaccounts.endpoints(store, vault, done.bmc.id) == [
        Endpoint("redfish", "192.0.2.7", 0, account),
        Endpoint("ipmi", "192.0.2.7", 6230, account, {"kg": KG, "privilege": "operator"}),
    ]
    with pytest.raises(InvalidValue, match="the driver ipmi has no setting colour: it knows"):
        bmcaccounts.add(store, vault, told, 10.0, settings={"colour": "red"})
    with pytest.raises(InvalidValue, match="there is no power driver 'ssh'"):
        bmcaccounts.add(store, vault, Told(Source.OPERATOR, "192.0.2.8", drivers=("ssh",)), 10.0)


def test_a_list_is_taken_whole_and_twice_is_once(store: Store, vault: Vault) -> None:
    inventory.report(store, full(), "192.0.2.100", 100.0)
    rows = parse(f"192.0.2.200,root,{PASSWORD}\n192.0.2.7,admin,x,,NOBODY99\n")
    done = bmcaccounts.take_list(store, vault, rows, 200.0)
    assert (done.added, done.changed, done.unchanged) == (1, 1, 0)
    assert [record.address for record in done.unmatched] == ["192.0.2.7"]
    entries = store.last_event_id
    done = bmcaccounts.take_list(store, vault, rows, 300.0)
    assert (done.added, done.changed, done.unchanged) == (0, 0, 2)
    assert store.last_event_id == entries
    # An empty password leaves the one there is.
    bmcaccounts.take_list(store, vault, parse("192.0.2.200,admin,\n"), 400.0)
    assert bmcaccounts.credentials(store, vault, 1) == Credentials("admin", PASSWORD)


def test_a_password_moved_to_another_row_does_not_open(store: Store, vault: Vault) -> None:
    one = bmcaccounts.add(store, vault, Told(Source.OPERATOR, "192.0.2.7"), 1.0, user="a", password=Secret("x")).bmc
    two = bmcaccounts.add(store, vault, Told(Source.OPERATOR, "192.0.2.8"), 1.0, user="b", password=Secret("y")).bmc
    with store.transaction():
        store.bmcs.save(type(two)(two.id, address=two.address, user="b", sealed=one.sealed))
    with pytest.raises(
        Refused, match=f"the secret of BMC {two.id} password is damaged or was sealed for something else"
    ):
        bmcaccounts.credentials(store, vault, two.id)


def test_another_key_seals_everything_anew(store: Store, vault: Vault, tmp_path: Path) -> None:
    told = Told(Source.OPERATOR, "192.0.2.7", 0, ("ipmi",))
    bmcaccounts.add(store, vault, told, 1.0, user="a", password=Secret(PASSWORD), settings={"kg": KG})
    bmcs.learn(store, Told(Source.OPERATOR, "192.0.2.8"), 2.0)
    (tmp_path / "new").mkdir()
    other = Vault.open(tmp_path / "new", (), {})
    assert bmcaccounts.reseal(store, vault, other) == 2
    with store.transaction():
        assert store.bmcs.keys_in_use() == {other.name}
    (endpoint,) = bmcaccounts.endpoints(store, other, 1)
    assert (endpoint.credentials, endpoint.settings["kg"]) == (Credentials("a", PASSWORD), KG)
    with pytest.raises(StartError, match="is not the one"):
        Vault.open(tmp_path, {other.name}, {})


def test_a_password_is_found_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the database file, its WAL, logs, timeline, JSON, reprs or errors, in any usual encoding."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "metalbox", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    seen: list[str] = []
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    vault = Vault.open(tmp_path, store.bmcs.keys_in_use(), {})
    try:
        machine = inventory.report(store, full(), "192.0.2.100", 100.0).machine
        rows = parse(f"192.0.2.200,root,{PASSWORD}\n192.0.2.7,root,{PASSWORD},,NOBODY99\n")
        seen.append(repr(rows))
        seen.append(repr(bmcaccounts.take_list(store, vault, rows, 200.0)))
        told = Told(Source.OPERATOR, "192.0.2.9", 0, ("ipmi",))
        learned = bmcaccounts.add(
            store, vault, told, 300.0, user="root", password=Secret(PASSWORD), settings={"kg": KG}
        )
        seen.append(repr(learned))
        bmcs.failed(store, learned.bmc.id, BmcWrongPassword("192.0.2.9 does not take root's password"), 310.0)
        seen.append(repr(bmcaccounts.endpoints(store, vault, learned.bmc.id)))
        seen.append(repr(bmcaccounts.credentials(store, vault, learned.bmc.id)))
        seen.append(repr((vault, vars(vault).keys(), bmcs.get(store, learned.bmc.id))))
        seen.append(json.dumps(bmcs.listing(store)))
        with store.transaction():
            seen += [repr(entry) for entry in store.events.all(1000)]
        seen += [repr(entry) for entry in inventory.timeline(store, machine, 1000)]
        (tmp_path / "other").mkdir()
        with pytest.raises(Refused) as caught:
            bmcaccounts.credentials(store, Vault.open(tmp_path / "other", (), {}), 1)
        seen.append("".join(traceback.format_exception(caught.value)))
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert files["metalbox.db-wal"]
        bmcs.forget(store, 1, 400.0)
    finally:
        store.close()
    files["closed"] = (tmp_path / "metalbox.db").read_bytes()
    assert b"192.0.2.200" in files["metalbox.db-wal"] + files["metalbox.db"]
    haystack = [*files.items(), ("seen", "\n".join(seen).encode()), ("log", caplog.text.encode())]
    assert len(caplog.text) > 1000
    for secret in (PASSWORD, KG):
        raw = secret.encode()
        for needle in (raw, raw.hex().encode(), base64.b64encode(raw)[:-4], secret.encode("utf-16-le"), raw[::-1]):
            for name, content in haystack:
                assert needle not in content, f"{needle!r} is in {name}"
    key = files["metalbox-key"].strip()
    for name, content in haystack:
        assert name == "metalbox-key" or (key not in content and bytes.fromhex(key.decode()) not in content)
