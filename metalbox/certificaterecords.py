"""Certificates in the database: numbered, chained and signed as they are stored, never changed. No rules live here.

The caller holds the transaction (`Store.transaction`): a number and its place in the chain exist only with the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import sqlalchemy as sa

from metalbox.erase.document import NOTHING, Kind, canonical, digest, sign
from metalbox.schema import certificates


class Signer(Protocol):
    """Who signs: `metalbox.signing.SigningKey`."""

    @property
    def public(self) -> bytes:
        """The 32 bytes by which the signature is verified."""

    @property
    def sign(self) -> Callable[[bytes], bytes]:
        """Signs a message."""


class Certificates:
    """The table `certificates`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def append(
        self, draft: Mapping[str, Any], signer: Signer, *, at: float, machine_id: int | None = None
    ) -> dict[str, Any]:
        """Give a draft its number and its place after the newest, sign and store it; returns the document."""
        last = self.newest()
        number = last["number"] + 1 if last else 1
        previous = digest(last) if last else NOTHING
        document = sign({**draft, "number": number, "previous": previous}, signer.public, signer.sign)
        drive = document.get("drive", {})
        row = {
            "number": number,
            "machine_id": machine_id,
            "kind": document["kind"],
            "machine": document["machine"]["name"],
            "serial": drive.get("serial") or drive.get("wwn") or "",
            "at": at,
            "digest": digest(document),
            "document": canonical(document).decode(),
        }
        self._connection.execute(sa.insert(certificates).values(row))
        return document

    def get(self, number: int) -> dict[str, Any] | None:
        """The document with this number."""
        return next(iter(self._select(certificates.c.number == number)), None)

    def newest(self) -> dict[str, Any] | None:
        """The last of the chain."""
        query = sa.select(certificates.c.document).order_by(certificates.c.number.desc()).limit(1)
        text = self._connection.execute(query).scalar_one_or_none()
        return None if text is None else json.loads(text)

    def of_machine(self, machine_id: int) -> list[dict[str, Any]]:
        """All of one machine, oldest first."""
        return self._select(certificates.c.machine_id == machine_id)

    def of_serial(self, serial: str) -> list[dict[str, Any]]:
        """All of one drive, by its serial number, or its WWN where it has no serial number; oldest first."""
        return self._select(certificates.c.serial == serial)

    def of_order(self, machine_id: int, mark: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All that were made of one order (`Erasure.mark`), oldest first."""
        return [document for document in self.of_machine(machine_id) if document["order"] == mark]

    def listing(
        self, *, machine: str = "", machine_id: int | None = None, serial: str = "", limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Rows without their documents, newest first: of the drive, and of the machine by its name then or its id."""
        columns = [column for column in certificates.c if column.name != "document"]
        query = sa.select(*columns).order_by(certificates.c.number.desc()).limit(limit)
        if machine or machine_id is not None:
            query = query.where(sa.or_(certificates.c.machine == machine, certificates.c.machine_id == machine_id))
        if serial:
            query = query.where(certificates.c.serial == serial)
        return [dict(row._mapping) for row in self._connection.execute(query)]

    def key_ids(self) -> set[str]:
        """The ids of the keys that the newest certificate, which the next one is chained to, is signed with."""
        last = self.newest()
        return {last["signature"]["key"]} if last else set()

    def _select(self, condition: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
        query = sa.select(certificates.c.document).where(condition).order_by(certificates.c.number)
        return [json.loads(text) for text in self._connection.execute(query).scalars()]


def is_certificate(document: Mapping[str, Any]) -> bool:
    """Whether it certifies something; else it records a failure."""
    return document["kind"] in (Kind.DRIVE, Kind.MACHINE)
