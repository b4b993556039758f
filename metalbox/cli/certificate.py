"""`metalbox certificate`: what was proved erased; listed, printed, taken along, and verified without any service."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metalbox.cli import client, output
from metalbox.errors import InvalidValue, MetalboxError, NotFound

PUBLIC_KEY = "metalbox-signing-key.pub"


def add_parser(verbs: Any) -> None:
    """Add the verb and its actions."""
    parser = verbs.add_parser("certificate", help="erase certificates: list, show, export, verify, key")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    action = actions.add_parser("list", help="one line for each, the newest first")
    action.add_argument("machine", nargs="?", default="", metavar="MACHINE")
    action.add_argument("--serial", default="", help="of one drive")
    client.add_arguments(action)
    action.set_defaults(run=run_list)

    action = actions.add_parser(
        "show", help="one certificate", description="Example: metalbox certificate show 12 --html > 12.html"
    )
    action.add_argument("number", type=int, metavar="NUMBER")
    form = action.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="a page to print")
    form.add_argument("--json", action="store_true", help="the signed document, byte for byte")
    client.add_arguments(action, output=False)
    action.set_defaults(run=run_show)

    action = actions.add_parser(
        "export",
        help="write all of a machine into a folder, with what is needed to verify them elsewhere",
        description="Example: metalbox certificate export r1-07 -o r1-07-certificates",
    )
    action.add_argument("machine", metavar="MACHINE")
    action.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    client.add_arguments(action, output=False)
    action.set_defaults(run=run_export)

    action = actions.add_parser(
        "verify",
        help="check signatures and the chain, with files and the public key only",
        description="Asks no service. Exit code 0 when all are sound, else 1. "
        "Example: metalbox certificate verify r1-07-certificates",
    )
    action.add_argument("files", nargs="+", type=Path, metavar="FILE", help="documents, or folders with some")
    action.add_argument(
        "--key",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help=f"the public key in PEM, more than once for earlier keys (default: {PUBLIC_KEY} beside the first file)",
    )
    action.add_argument("--complete", action="store_true", help="these are all, from number 1 on: none may be missing")
    action.set_defaults(run=run_verify)

    action = actions.add_parser("key", help="print the public key")
    client.add_arguments(action)
    action.set_defaults(run=run_key)


def run_list(args: argparse.Namespace) -> int:
    """One line for each, failures too."""
    answer = _listing(args.socket, args.machine, args.serial)
    if output.emit(answer, args.output):
        return 0
    rows = [
        (row["number"], row["kind"], row["machine"], row["serial"] or "-", output.clock(row["at"]), row["digest"][:16])
        for row in answer["certificates"]
    ]
    head = ("NUMBER", "KIND", "MACHINE", "DRIVE", "ISSUED", "SHA-256")
    print(output.table(head, rows) if rows else "no certificates: they are made when a machine is erased")
    return 0


def _listing(named_socket: str, machine: str, serial: str) -> Any:
    query = {name: value for name, value in (("machine", machine), ("serial", serial)) if value}
    return client.call(named_socket, "GET", "/api/v1/certificates", query)


def run_show(args: argparse.Namespace) -> int:
    """For people, as a page, or as it was signed."""
    document = client.call(args.socket, "GET", f"/api/v1/certificates/{args.number}")
    if args.json:
        from metalbox.erase.document import canonical

        print(canonical(document).decode())
    elif args.html:
        from metalbox.web.certificate_page import page

        print(page(document), end="")
    else:
        from metalbox.erase.wording import plain

        print(plain(document), end="")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Four files for each document, and the public key."""
    rows = _listing(args.socket, args.machine, "")["certificates"]
    if not rows:
        raise NotFound(f"there is no certificate of {args.machine}")
    key = client.call(args.socket, "GET", "/api/v1/certificate-key")
    documents = [client.call(args.socket, "GET", f"/api/v1/certificates/{row['number']}") for row in rows]
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / PUBLIC_KEY).write_text(key["pem"])
        for document in documents:
            _write(args.output, document)
    except OSError as error:
        raise MetalboxError(f"cannot write to {args.output}: {error.strerror}") from None
    print(f"{len(documents)} documents and {PUBLIC_KEY} are in {args.output}")
    return 0


def _write(folder: Path, document: dict[str, Any]) -> None:
    """NUMBER.json is the document, NUMBER.html the page; .signed and .sig are for those who verify without metalbox."""
    import base64

    from metalbox.erase.document import canonical, signed_bytes
    from metalbox.web.certificate_page import page

    name = f"{document['number']:06}"
    (folder / f"{name}.json").write_bytes(canonical(document) + b"\n")
    (folder / f"{name}.html").write_text(page(document), encoding="utf-8")
    (folder / f"{name}.signed").write_bytes(signed_bytes(document))
    (folder / f"{name}.sig").write_bytes(base64.b64decode(document["signature"]["value"]))


def run_verify(args: argparse.Namespace) -> int:
    """One line for each file, then what is wrong between them."""
    from metalbox.erase.document import read, verify, verify_chain

    files = [inner for path in args.files for inner in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise InvalidValue(f"there is no document (*.json) in {', '.join(str(path) for path in args.files)}")
    publics = [_public(path) for path in args.key or [files[0].parent / PUBLIC_KEY]]
    sound: list[dict[str, Any]] = []
    is_bad = False
    for path in files:
        try:
            document = read(path.read_bytes())
            problems = verify(document, *publics)
        except OSError as error:
            problems = [f"it cannot be read: {error.strerror}"]
        except InvalidValue as error:
            problems = [str(error)]
        if problems:
            is_bad = True
            print(output.printable(f"BAD {path}: {'; '.join(problems)}"))
        else:
            sound.append(document)
            print(output.printable(f"ok  {path}: {_line(document)}"))
    for problem in verify_chain(sound, complete=args.complete):
        is_bad = True
        print(output.printable(f"BAD chain: {problem}"))
    return 1 if is_bad else 0


def _public(path: Path) -> bytes:
    from metalbox.signing import from_pem

    try:
        return from_pem(path.read_bytes())
    except OSError as error:
        raise InvalidValue(f"cannot read the public key {path}: {error.strerror}: name it with --key") from None
    except ValueError:
        raise InvalidValue(f"{path} is no Ed25519 public key in PEM, as `metalbox certificate key` prints it") from None


def _line(document: dict[str, Any]) -> str:
    start = f"number {document['number']}, {document['issued_at']}, "
    if document["kind"] == "machine":
        return f"{start}machine {document['machine']['name']}, {len(document['drives'])} drives, {document['level']}"
    drive = document["drive"]
    name = f"drive {drive['serial'] or drive['wwn']}"
    if document["kind"] == "failure":
        return f"{start}{name}: FAILED, this is no certificate: {document['reason']}"
    return f"{start}{name}, {document['method']}, {document['standard']}"


def run_key(args: argparse.Namespace) -> int:
    """The public key, for a file."""
    answer = client.call(args.socket, "GET", "/api/v1/certificate-key")
    if not output.emit(answer, args.output):
        print(answer["pem"], end="")
    return 0
