"""Certificates over REST: listed, as they were signed, as a page, and the key."""

from __future__ import annotations

from typing import Any

from metalbox.erase import certificate
from metalbox.erase.document import read, verify
from metalbox.machine import Machine
from metalbox.signing import KEY_NAME, SigningKey, from_pem
from metalbox.store import Store
from tests.erase.disks import NVME
from tests.erase.outcomes import MACHINE, erasure
from tests.web.conftest import Stack


async def fill(stack: Stack) -> list[dict[str, Any]]:
    key = SigningKey.open(stack.folder, environment={})
    case = erasure()

    def store_them(store: Store) -> list[dict[str, Any]]:
        number = store.machines.add(Machine(id=0, name="renamed", state="ready")).id
        drafts = [certificate.drive(case, row) for row in case.data["disks"]]
        return [store.certificates.append(draft, key, at=5.0, machine_id=number) for draft in drafts]

    return await stack.database.run(store_them)


async def get(stack: Stack, path: str) -> Any:
    async with stack.rest.get(path) as answer:
        return answer.status, await answer.json()


async def test_listed_by_machine_and_drive(stack: Stack) -> None:
    assert await get(stack, "/api/v1/certificates") == (200, {"certificates": []})
    await fill(stack)
    for query, numbers in (
        ("", [2, 1]),
        ("?limit=1", [2]),
        (f"?serial={NVME.serial}", [1]),
        (f"?machine={MACHINE.name}", [2, 1]),  # its name at the time
        ("?machine=renamed", [2, 1]),
        ("?machine=nobody", []),
    ):
        status, answer = await get(stack, f"/api/v1/certificates{query}")
        assert (status, [row["number"] for row in answer["certificates"]]) == (200, numbers), query
    for wrong in ("0", "x", "10001"):
        assert (await get(stack, f"/api/v1/certificates?limit={wrong}"))[0] == 400


async def test_shown_as_it_was_signed(stack: Stack) -> None:
    made = await fill(stack)
    async with stack.rest.get("/api/v1/certificates/1") as answer:
        document = read(await answer.read())
    assert document == made[0]
    _, key = await get(stack, "/api/v1/certificate-key")
    assert verify(document, from_pem(key["pem"].encode())) == []
    assert (key["algorithm"], key["newest"]) == ("Ed25519", 2)
    assert key["pem"] == (stack.folder / f"{KEY_NAME}.pub").read_text()
    secret = (stack.folder / KEY_NAME).read_text().strip()
    assert secret not in str(key)
    status, answer = await get(stack, "/api/v1/certificates/9")
    assert (status, answer["exit_code"]) == (404, 3)
    assert "there is no certificate 9" in answer["error"]


async def test_the_page(stack: Stack) -> None:
    await fill(stack)
    async with stack.rest.get("/api/v1/certificates/1.html") as answer:
        assert answer.content_type == "text/html"
        assert NVME.serial in await answer.text()
