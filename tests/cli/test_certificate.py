"""`certificate list|show|export|verify|key` as people use them; `verify` with files and the key only."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli.main import main
from metalbox.erase import certificate
from metalbox.erase.document import NOTHING, canonical, digest, sign
from metalbox.signing import to_pem
from tests.erase.disks import HDD, NVME
from tests.erase.outcomes import erasure
from tests.erase.test_document import KEY, PUBLIC


def documents() -> list[dict[str, Any]]:
    case = erasure()
    made: list[dict[str, Any]] = []

    def add(draft: dict[str, Any]) -> None:
        previous = digest(made[-1]) if made else NOTHING
        made.append(sign({**draft, "number": len(made) + 1, "previous": previous}, PUBLIC, KEY.sign))

    for row in case.data["disks"]:
        add(certificate.drive(case, row))
    add(certificate.machine(case, made))
    add(certificate.failure(case, case.data["disks"][0], "the drive vanished"))
    return made


MADE = documents()
ROWS = [
    {"number": 2, "kind": "drive", "machine": "r1-07", "serial": HDD.serial, "at": 5.0, "digest": "ab" * 32},
    {"number": 1, "kind": "drive", "machine": "r1-07", "serial": NVME.serial, "at": 5.0, "digest": "cd" * 32},
]


@pytest.fixture
def service(scripted: Any) -> Any:
    scripted.answers["GET /api/v1/certificates"] = (200, {"certificates": ROWS})
    for document in MADE:
        scripted.answers[f"GET /api/v1/certificates/{document['number']}"] = (200, document)
    scripted.answers["GET /api/v1/certificate-key"] = (200, {"key": "x", "pem": to_pem(PUBLIC)})
    return scripted


def run(service: Any, *argv: str) -> int:
    return main(["certificate", *argv, "--socket", str(service.path)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What was exported, on somebody's computer without metalbox's service."""
    (tmp_path / "metalbox-signing-key.pub").write_text(to_pem(PUBLIC))
    for document in MADE:
        (tmp_path / f"{document['number']}.json").write_bytes(canonical(document))
    return tmp_path


def test_list(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(service, "list", "r1-07", "--serial", "S") == 0
    assert service.requests[-1][2] == "machine=r1-07&serial=S"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NUMBER", "KIND", "MACHINE", "DRIVE", "ISSUED", "SHA-256"]
    assert lines[1].startswith("2       drive  r1-07")
    service.answers["GET /api/v1/certificates"] = (200, {"certificates": []})
    assert run(service, "list") == 0
    assert "no certificates" in capsys.readouterr().out


def test_show(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(service, "show", "1") == 0
    assert capsys.readouterr().out.startswith("Certificate of erasure: one drive, number 1\n")
    assert run(service, "show", "1", "--json") == 0
    assert capsys.readouterr().out.encode() == canonical(MADE[0]) + b"\n"
    assert run(service, "show", "1", "--html") == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


def test_key(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(service, "key") == 0
    assert capsys.readouterr().out == to_pem(PUBLIC)


def test_export_is_verified_by_openssl_alone(service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "out"
    assert run(service, "export", "r1-07", "-o", str(where)) == 0
    assert capsys.readouterr().out == f"2 documents and metalbox-signing-key.pub are in {where}\n"
    assert sorted(path.name for path in where.iterdir()) == [
        *(f"00000{number}.{kind}" for number in (1, 2) for kind in ("html", "json", "sig", "signed")),
        "metalbox-signing-key.pub",
    ]
    command = (
        "openssl pkeyutl -verify -pubin -inkey metalbox-signing-key.pub -rawin -in 000001.signed -sigfile 000001.sig"
    )
    done = subprocess.run(command.split(), cwd=where, capture_output=True, text=True, timeout=60, check=True)
    assert "Signature Verified Successfully" in done.stdout
    # The signed bytes are those of the document, as another program writes them.
    document = json.loads((where / "000001.json").read_text())
    signature = base64.b64decode(document.pop("signature")["value"])
    assert signature == (where / "000001.sig").read_bytes()
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text.encode() == (where / "000001.signed").read_bytes()
    assert main(["certificate", "verify", str(where)]) == 0
    service.answers["GET /api/v1/certificates"] = (200, {"certificates": []})
    assert run(service, "export", "r1-08", "-o", str(where)) == 3


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certificate", "verify", str(folder), "--complete"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines] == ["ok "] * 4
    term = "NIST SP 800-88r2 Purge (IEEE 2883-2022 sanitize, cryptographic erase)"
    assert lines[0].endswith(f"drive {NVME.serial}, nvme-sanitize-crypto, {term}")
    assert lines[2].endswith("machine r1-07, 2 drives, purge")
    assert lines[3].endswith("FAILED, this is no certificate: the drive vanished")
    assert main(["certificate", "verify", str(folder / "3.json"), str(folder / "1.json")]) == 0


def test_verify_tells_each_tampering(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verified(*argv: str) -> str:
        assert main(["certificate", "verify", *argv]) == 1
        return capsys.readouterr().out

    (folder / "1.json").write_bytes(canonical(MADE[0]).replace(NVME.serial.encode(), b"S64HNE0R999999"))
    assert "1.json: its signature does not fit: it was changed after it was signed" in verified(str(folder))
    (folder / "1.json").write_text(json.dumps(MADE[0]))
    assert "1.json: it is not written in the canonical way" in verified(str(folder))
    (folder / "1.json").unlink()
    assert "BAD chain: numbers 1 to 1 are missing" in verified(str(folder), "--complete")
    forged = sign({**MADE[0], "seconds": 1}, PUBLIC, KEY.sign)
    (folder / "1.json").write_bytes(canonical(forged))
    out = verified(str(folder))
    assert "BAD chain: number 2 was not signed after number 1 as it is here" in out
    assert "BAD chain: number 3 lists number 1 with another digest" in out
    (folder / "other.pub").write_text(to_pem(bytes.fromhex("d7" * 32)))
    assert "it is signed with the key" in verified(str(folder / "2.json"), "--key", str(folder / "other.pub"))
    assert "cannot be read" in verified(str(folder / "9.json"))


def test_verify_needs_a_key_and_a_document(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certificate", "verify", str(folder / "1.json"), "--key", str(tmp_path / "none.pub")]) == 2
    assert "cannot read the public key" in capsys.readouterr().err
    assert main(["certificate", "verify", str(folder / "1.json"), "--key", str(folder / "1.json")]) == 2
    assert "is no Ed25519 public key" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["certificate", "verify", str(tmp_path / "empty")]) == 2
    assert "there is no document" in capsys.readouterr().err


def test_verify_needs_nothing_of_the_service(folder: Path) -> None:
    """No configuration, no database: only Python, cryptography and the files."""
    code = (
        "import sys, metalbox.cli.main as m; "
        f"code = m.main(['certificate', 'verify', {str(folder)!r}]); "
        "print(sorted({'aiohttp', 'sqlalchemy', 'yaml', 'metalbox.config', 'asyncio'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
