"""The verb that turns the outcome of an order to erase into certificates and failure records, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalbox import __version__
from metalbox.certificaterecords import Signer
from metalbox.erase import certificate
from metalbox.erase.certificate import Erasure
from metalbox.erase.document import Kind
from metalbox.errors import Refused
from metalbox.machine import Machine
from metalbox.orderrecords import Order
from metalbox.store import Store


def issue(
    store: Store, signer: Signer, order: Order, machine: Machine, operator: str, now: float
) -> list[dict[str, Any]]:
    """Certify what the outcome proves, and record the rest; returns the documents. The caller holds the transaction.

    Every disk of the order gets one document, and the machine one when all of its disks have a certificate. A second
    call for the same order adds nothing and returns what there is. An order that no agent ever began leaves no trace.
    """
    if order.verb != "erase" or order.machine_id != machine.id:
        raise Refused(f"order {order.id} is to {order.verb} machine {order.machine_id}: nothing to certify")
    if order.claimed_at is None and not order.outcome:
        return []
    erasure = Erasure(order.id, order.created_at, order.data, order.outcome, machine, operator, __version__, now)
    if there := store.certificates.of_order(machine.id, erasure.mark):
        return there
    drafts = [_of_disk(erasure, row) for row in order.data["disks"]]
    drafts += [
        certificate.failure(erasure, row, f"it could not be erased: {row['reason']}") for row in order.data["refused"]
    ]
    drafts += [
        certificate.failure(erasure, row, "it was there, and the order did not name it")
        for row in certificate.strangers(erasure)
    ]
    documents = [store.certificates.append(draft, signer, at=now, machine_id=machine.id) for draft in drafts]
    try:
        whole = certificate.machine(erasure, documents)
    except Refused:
        return documents
    return [*documents, store.certificates.append(whole, signer, at=now, machine_id=machine.id)]


def _of_disk(erasure: Erasure, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return certificate.drive(erasure, row)
    except Refused as refusal:
        return certificate.failure(erasure, row, str(refusal))


def is_whole(documents: list[dict[str, Any]]) -> bool:
    """Whether the machine as a whole is certified by these."""
    return any(document["kind"] == Kind.MACHINE for document in documents)
