"""The machines that a command line means, by what the service knows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from metalbox.cli import client, selectors
from metalbox.errors import InvalidValue

FIELDS = "id,name,serial,uuid,labels,macs"


def machines(socket: str, words: Sequence[str], selector: str = "") -> Sequence[str]:
    """Their names: those that the words mean, or those with the selector's labels. Raises NotFound, InvalidValue."""
    if words and selector:
        raise InvalidValue(f"name machines, or select them by -l {selector}, not both")
    rows = client.call(socket, "GET", "/api/v1/machines", {"fields": FIELDS})["machines"]
    shared = Counter(row["uuid"] for row in rows)
    aliases = {mark: row["name"] for row in rows for mark in (*row["macs"], str(row["id"]), row["serial"]) if mark}
    aliases |= {row["uuid"]: row["name"] for row in rows if shared[row["uuid"]] == 1}
    labels = {row["name"]: row["labels"] for row in rows}
    if selector:
        return selectors.labelled(selector, labels)
    return selectors.select(words, [row["name"] for row in rows], aliases=aliases, labels=labels)
