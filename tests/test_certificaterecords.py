"""Certificates in the database: numbers without gaps, a chain that holds, and what is found by whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox.certificaterecords import is_certificate
from metalbox.erase import certificate
from metalbox.erase.document import digest, verify, verify_chain
from metalbox.signing import SigningKey
from metalbox.store import Store, sqlite_url
from tests.databases import private_postgresql
from tests.erase.disks import HDD, NVME
from tests.erase.outcomes import erasure


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with private_postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    is_sqlite = request.param == "sqlite"
    url = sqlite_url(tmp_path / "metalbox.db") if is_sqlite else str(request.getfixturevalue("postgresql"))
    store = Store.open(url)
    yield store
    store.close()


def drafts() -> list[dict[str, Any]]:
    case = erasure()
    return [certificate.drive(case, row) for row in case.data["disks"]]


def test_numbered_chained_signed_and_found(store: Store, tmp_path: Path) -> None:
    key = SigningKey.open(tmp_path, environment={})
    with store.transaction():
        assert store.certificates.newest() is None
        assert store.certificates.key_ids() == set()
        made = [store.certificates.append(draft, key, at=5.0, machine_id=7) for draft in drafts()]
        case = erasure()
        made.append(store.certificates.append(certificate.failure(case, case.data["disks"][0], "x"), key, at=6.0))
    assert [document["number"] for document in made] == [1, 2, 3]
    assert verify_chain(made, complete=True) == []
    assert all(verify(document, key.public) == [] for document in made)
    assert [is_certificate(document) for document in made] == [True, True, False]
    with store.transaction():
        found = store.certificates
        assert found.get(2) == made[1]
        assert found.get(9) is None
        assert found.newest() == made[2]
        assert found.key_ids() == {key.id}
        assert found.of_machine(7) == made[:2]
        assert found.of_serial(NVME.serial) == [made[0], made[2]]
        assert found.of_order(7, erasure().mark) == made[:2]
        assert found.of_order(7, erasure(number=9).mark) == []
        rows = found.listing()
        assert [row["number"] for row in rows] == [3, 2, 1]
        assert rows[2] == {
            "number": 1, "machine_id": 7, "kind": "drive", "machine": "r1-07", "serial": NVME.serial, "at": 5.0,
            "digest": digest(made[0]),
        }  # fmt: skip
        assert [row["number"] for row in found.listing(serial=HDD.serial)] == [2]
        assert [row["number"] for row in found.listing(machine="renamed", machine_id=7)] == [2, 1]
        assert [row["number"] for row in found.listing(machine="r1-07", limit=1)] == [3]
        assert found.listing(machine="r9", machine_id=9) == []


def test_what_is_rolled_back_leaves_no_gap(tmp_path: Path) -> None:
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    key = SigningKey.open(tmp_path, environment={})
    first, second = drafts()
    with pytest.raises(ValueError, match="power lost"), store.transaction():
        store.certificates.append(first, key, at=5.0)
        raise ValueError("power lost")
    with store.transaction():
        made = [store.certificates.append(draft, key, at=5.0) for draft in (second, first)]
    assert verify_chain(made, complete=True) == []
    store.close()
