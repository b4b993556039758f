"""REST for certificates: listed, shown as they were signed and as a page, and the key by which they are verified."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from metalbox import inventory
from metalbox.certificaterecords import Signer
from metalbox.erase.document import ALGORITHM, canonical, key_id
from metalbox.errors import InvalidValue, NotFound
from metalbox.report import show
from metalbox.signing import to_pem
from metalbox.store import Database, Store
from metalbox.web.certificate_page import page

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000


class CertificateApi:
    """The answers. `signer` is asked in the database's thread, where it also signs."""

    def __init__(self, database: Database, signer: Signer | None) -> None:
        self._database = database
        self._signer = signer

    async def listing(self, request: web.Request) -> web.Response:
        """The newest first, without the documents; `machine` and `serial` choose."""
        text = request.query.get("limit", str(DEFAULT_LIMIT))
        if not text.isdecimal() or not 0 < int(text[:9]) <= MAX_LIMIT:
            raise InvalidValue(f"limit: expected a number from 1 to {MAX_LIMIT}, got {show(text)}")
        machine, serial = request.query.get("machine", ""), request.query.get("serial", "")
        rows = await self._database.run(_listing, machine, serial, int(text))
        return web.json_response({"certificates": rows})

    async def document(self, request: web.Request) -> web.Response:
        """The document, byte for byte as its digest is made."""
        return web.Response(body=canonical(await self._find(request)), content_type="application/json")

    async def page(self, request: web.Request) -> web.Response:
        """The document as a page to print."""
        return web.Response(text=page(await self._find(request)), content_type="text/html")

    async def key(self, request: web.Request) -> web.Response:
        """The public key that certificates are signed with now."""
        return web.json_response(await self._database.run(self._key))

    async def _find(self, request: web.Request) -> dict[str, Any]:
        number = int(request.match_info["number"])
        found = await self._database.run(_get, number)
        if found is None:
            raise NotFound(f"there is no certificate {number}: `metalbox certificate list` shows them")
        return found

    def _key(self, store: Store) -> dict[str, Any]:
        if self._signer is None:
            raise NotFound("this service signs no certificates")
        public = self._signer.public
        last = store.certificates.newest()
        return {
            "algorithm": ALGORITHM,
            "key": key_id(public),
            "pem": to_pem(public),
            "newest": last["number"] if last else 0,
        }


def _listing(store: Store, machine: str, serial: str, limit: int) -> list[dict[str, Any]]:
    number = None
    if machine:
        try:
            found = inventory.find(store, machine)
            machine, number = found.name, found.id
        except NotFound:
            pass  # it was forgotten, and its certificates keep its name
    return store.certificates.listing(machine=machine, machine_id=number, serial=serial, limit=limit)


def _get(store: Store, number: int) -> dict[str, Any] | None:
    return store.certificates.get(number)
