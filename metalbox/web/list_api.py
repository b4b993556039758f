"""GET of the long lists, machines and leases: written a page at a time, so that nothing waits for a hundred thousand.

A page is read and encoded in the database's thread, between the commits of leases; the answer is streamed, and memory
holds one page of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web
from sqlalchemy.exc import DBAPIError

from metalbox import inventory
from metalbox.dhcp.leases import Lease, Leases
from metalbox.errors import InvalidValue
from metalbox.journal import Journal
from metalbox.labels import read_selector
from metalbox.listing import Wanted, page
from metalbox.records import dump
from metalbox.report import show
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.web")

MAX_LIMIT = 1_000_000
# Of leases in one piece of the answer.
LEASE_PAGE = 500


class ListApi:
    """The answers."""

    def __init__(self, database: Database, journal: Journal, leases: Leases, now: Callable[[], float]) -> None:
        self._database = database
        self._journal = journal
        self._leases = leases
        self._now = now

    async def machines(self, request: web.Request) -> web.StreamResponse:
        """All machines, and the strangers.

        Query: `state`, `q`, `selector` (labels; then no strangers), `fields` (names with commas); `limit` machines
        after the name `after`, where `next` in the answer is the next `after`, "" at the end.
        """
        query = request.query
        selector, limit = query.get("selector", ""), read_number(request, "limit", 0, MAX_LIMIT)
        wanted = Wanted.read(
            query.get("state", ""), query.get("q", ""), read_selector(selector), query.get("fields", "")
        )
        await self._journal.flush()
        return await _stream(request, self._machines(wanted, query.get("after", ""), limit, is_whole=not selector))

    async def _machines(self, wanted: Wanted, after: str, limit: int, *, is_whole: bool) -> AsyncIterator[str]:
        left, text, following = limit or MAX_LIMIT * 100, '{"machines":[', after
        is_first = True
        while left:
            rows, count, following = await self._database.run(_machine_page, wanted, following, left)
            left -= count
            yield text + ("" if is_first or not rows else ",") + rows
            is_first, text = is_first and not rows, ""
            if not following:
                break
        strangers = await self._database.run(inventory.strangers, self._now()) if is_whole and not after else []
        yield f'],"strangers":{dump(strangers)}' + (f',"next":{dump(following)}' if limit else "") + "}"

    async def leases(self, request: web.Request) -> web.StreamResponse:
        """The addresses given out."""
        return await _stream(request, self._lease_pages())

    async def _lease_pages(self) -> AsyncIterator[str]:
        rows = sorted(self._leases.rows(self._now()), key=lambda lease: lease.number)
        for at in range(0, max(1, len(rows)), LEASE_PAGE):
            text = await self._database.run(_lease_page, rows[at : at + LEASE_PAGE])
            yield ("," if at else '{"leases":[') + text
        yield "]}"


def _machine_page(store: Store, wanted: Wanted, after: str, most: int) -> tuple[str, int, str]:
    """Rows as JSON without their brackets, how many they are, and where the next page begins."""
    found = page(store, wanted, after)
    rows, following = found.rows, found.following
    if len(rows) > most:
        rows, following = rows[:most], rows[most - 1]["name"]
    return dump(rows)[1:-1], len(rows), following


def _lease_page(store: Store, leases: Sequence[Lease]) -> str:
    names = store.machines.names_of((), {lease.mac for lease in leases})
    rows = [
        {
            "address": lease.address,
            "mac": lease.mac,
            "machine": names.get(lease.mac, ""),
            "hostname": lease.hostname,
            "state": str(lease.state),
            "expires_at": lease.expires_at,
            "subnet": lease.subnet,
            "location": " ".join(filter(None, (lease.circuit_id, lease.remote_id))),
        }
        for lease in leases
    ]
    return dump(rows)[1:-1]


async def _stream(request: web.Request, parts: AsyncIterator[str]) -> web.StreamResponse:
    """Parts of a JSON document, the first of which may still turn out to be an error."""
    first = await anext(parts)
    response = web.StreamResponse()
    response.content_type, response.charset = "application/json", "utf-8"
    await response.prepare(request)
    await response.write(first.encode())
    try:
        async for part in parts:
            await response.write(part.encode())
    except DBAPIError as error:
        # Half a list must not look like a whole one.
        log.error("the database failed in the middle of a list: %s", error.orig)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def read_number(request: web.Request, name: str, default: int, high: int) -> int:
    """A whole number of the query. Raises InvalidValue."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or int(text[:20]) > high:
        raise InvalidValue(f"{name}: expected a whole number from 0 to {high}, got {show(text)}")
    return int(text)
