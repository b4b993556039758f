"""An operator's list of BMCs, as CSV or YAML, to checked rows. PURE.

Every error of a list is told, with line and column; no message repeats a cell that may be a password. Rows that tell of
the same BMC become one, unless they contradict each other.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import yaml

from metalbox.errors import InvalidValue
from metalbox.machine import Mac, parse_uuid
from metalbox.secret import Secret

# In a list without a line of names, the columns stand in this order.
STANDARD = ("address", "user", "password", "mac", "serial")
COLUMNS = (*STANDARD, "port", "driver", "uuid", "vendor")
# Those that a network address makes sense for.
DRIVERS = ("redfish", "ipmi")
SEPARATORS = ",;\t"
MAX_ERRORS = 20
MAX_CELL = 256
HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class Row:
    """One BMC of a list. `line` is where it stands, from 1."""

    line: int
    address: str
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    mac: Mac | None = None
    serial: str = ""
    port: int = 0
    driver: str = ""
    uuid: str = ""
    vendor: str = ""


@dataclass(frozen=True, slots=True)
class _Cell:
    line: int
    column: int
    text: str


class _Errors:
    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: list[str] = []

    def add(self, line: int, column: int, text: str) -> None:
        self._lines.append(f"{self._name}:{line}:{column}: {text}")

    def check(self) -> None:
        """Raise InvalidValue when there was an error."""
        if not self._lines:
            return
        more = len(self._lines) - MAX_ERRORS
        raise InvalidValue("\n".join(self._lines[:MAX_ERRORS] + ([f"and {more} more errors"] if more > 0 else [])))


def parse(text: str, name: str = "the list", drivers: Sequence[str] = DRIVERS) -> list[Row]:
    """Read a list: YAML when `name` ends so or the text begins like it, else CSV. Raises InvalidValue.

    `drivers` are the words that the column `driver` may have.
    """
    begin = text.lstrip("\ufeff \t\r\n")
    is_yaml = name.lower().endswith((".yaml", ".yml")) or (
        not name.lower().endswith(".csv") and begin.startswith(("- ", "-\n", "---", "bmcs:", "[", "{"))
    )
    return (parse_yaml if is_yaml else parse_csv)(text, name, drivers)


def parse_csv(text: str, name: str = "the list", drivers: Sequence[str] = DRIVERS) -> list[Row]:
    """Read comma, semicolon or tab separated lines, with or without a first line of names. Raises InvalidValue.

    The column of an error is the number of the cell.
    """
    errors = _Errors(name)
    lines = list(_csv_lines(text, errors))
    if not lines:
        errors.check()
        return []
    names = [cell.strip().lower() for cell in lines[0][1]]
    if names[0] in COLUMNS or len(set(names) & set(COLUMNS)) > 1:
        _check_names([_Cell(lines[0][0], place, text) for place, text in enumerate(names, 1)], errors)
        errors.check()
        lines = lines[1:]
    else:
        names = list(STANDARD)
    rows = []
    for line, cells in lines:
        if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            errors.add(line, len(names) + 1, f"expected {len(names)} cells, got {len(cells)}: quote cells with commas")
            continue
        found = {key: _Cell(line, place, cell) for place, (key, cell) in enumerate(zip(names, cells, strict=False), 1)}
        rows.append(_row(line, 1, found, drivers, errors))
    return _merged(rows, errors)


def _csv_lines(text: str, errors: _Errors) -> Iterator[tuple[int, list[str]]]:
    text = text.removeprefix("\ufeff")
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    # The first of them that stands in the first line: a later one may be part of a password.
    separator = next((letter for letter in first if letter in SEPARATORS), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            errors.add(line, 1, f"no CSV: {error}")
            return
        if any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
            yield line, cells


def parse_yaml(text: str, name: str = "the list", drivers: Sequence[str] = DRIVERS) -> list[Row]:
    """Read a list of mappings, alone or under `bmcs:`; values are taken as they are written. Raises InvalidValue."""
    errors = _Errors(name)
    try:
        node = yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # PyYAML's own text would show the line, with what may be a password in it.
        errors.add(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "no YAML: look at quotes and indents")
        errors.check()
    except (yaml.YAMLError, RecursionError):
        errors.add(1, 1, "no YAML: it holds characters that YAML does not allow, or is nested too deeply")
        errors.check()
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1 and node.value[0][0].value == "bmcs":
        node = node.value[0][1]
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return []
    if not isinstance(node, yaml.SequenceNode):
        errors.add(*_where(node), "expected a list of BMCs, each with its address")
        errors.check()
        return []
    return _merged([_yaml_row(item, drivers, errors) for item in node.value], errors)


def _yaml_row(item: yaml.Node, drivers: Sequence[str], errors: _Errors) -> Row | None:
    if not isinstance(item, yaml.MappingNode):
        errors.add(*_where(item), "expected a BMC as `address: ...`, `user: ...` and so on")
        return None
    cells: dict[str, _Cell] = {}
    for key, value in item.value:
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            errors.add(*_where(value), "expected `name: text`")
            continue
        if key.value in cells:
            errors.add(*_where(key), f"{key.value!r} stands here twice")
        is_empty = value.tag == "tag:yaml.org,2002:null" and value.style is None
        cells[key.value] = _Cell(*_where(value), "" if is_empty else value.value)
        if key.value not in COLUMNS:
            _check_names([_Cell(*_where(key), key.value)], errors, complete=False)
    return _row(*_where(item), cells, drivers, errors)


def _where(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _check_names(cells: Sequence[_Cell], errors: _Errors, *, complete: bool = True) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.text not in COLUMNS:
            # It is a name only as far as we know: a value that was put in its place must not be repeated.
            errors.add(cell.line, cell.column, f"no such column: known are {', '.join(COLUMNS)}")
        elif cell.text in seen:
            errors.add(cell.line, cell.column, f"the column {cell.text} stands here twice")
        seen.add(cell.text)
    if complete and "address" not in seen:
        errors.add(cells[0].line, 1, "there is no column address")


def _row(line: int, column: int, cells: dict[str, _Cell], drivers: Sequence[str], errors: _Errors) -> Row | None:
    values: dict[str, Any] = {}
    failed = False
    for key, cell in cells.items():
        if key not in COLUMNS:
            failed = True
        elif cell.text.strip():
            try:
                values[key] = _read(key, cell.text, drivers)
            except InvalidValue as error:
                errors.add(cell.line, cell.column, f"{key}: {error}")
                failed = True
    if not failed and "address" not in values:
        errors.add(line, column, "a BMC needs an address")
        failed = True
    return None if failed else Row(line, **values)


def _read(key: str, text: str, drivers: Sequence[str]) -> Any:
    if len(text) > MAX_CELL:
        raise InvalidValue(f"longer than {MAX_CELL} characters")
    if key == "password":
        # Spaces belong to it; a line's end or NUL is in no password that a BMC takes.
        if any(ord(letter) < 32 for letter in text):
            raise InvalidValue("control characters are in no password")
        return Secret(text)
    if not text.isprintable():
        raise InvalidValue("it holds characters that cannot be printed")
    plain = text.strip()
    if key == "driver":
        if plain not in drivers:
            raise InvalidValue(f"expected one of {', '.join(drivers)}")
        return plain
    reader, expected = READERS.get(key, (str, ""))
    try:
        return reader(plain)
    except InvalidValue:
        # Not what stands there: a comma in a password without quotes moves a part of it into any column.
        raise InvalidValue(f"expected {expected}") from None


def read_address(text: str) -> str:
    """Return an IP address or host name as it is compared: lower case, IPv6 in its short form. Raises InvalidValue."""
    plain = text.strip().lower()
    try:
        return str(ipaddress.ip_address(plain.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    # What has only digits in its last part is a mistyped address, never a host name (RFC 3696 section 2).
    is_number = plain.rstrip(".").rpartition(".")[2].isdecimal()
    if len(plain) > 253 or is_number or not HOST_NAME.fullmatch(plain):
        raise InvalidValue(f"{text.strip()[:60]!r} is neither an IP address nor a host name")
    return plain.rstrip(".")


def read_mac(text: str) -> Mac:
    """Return the MAC of one device. Raises InvalidValue."""
    mac = Mac.parse(text)
    if not mac.is_usable:
        raise InvalidValue(f"{mac} is the address of no device")
    return mac


def read_port(text: str) -> int:
    """Return a port. Raises InvalidValue."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise InvalidValue(f"expected a port from 1 to 65535, got {text[:60]!r}")
    return int(text)


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "address": (read_address, "an IP address or host name"),
    "mac": (read_mac, "the MAC address of one device, like 52:54:00:ab:cd:ef"),
    "port": (read_port, "a port from 1 to 65535"),
    "uuid": (parse_uuid, "a UUID like 4c4c4544-0042-3510-8054-b7c04f333732"),
}


def _merged(rows: Sequence[Row | None], errors: _Errors) -> list[Row]:
    """Rows of the same address and port, or of the same MAC, as one. Raises InvalidValue for all errors until here."""
    done: list[Row] = []
    places: dict[tuple[str, int] | Mac, int] = {}
    for row in rows:
        if row is None:
            continue
        keys: list[tuple[str, int] | Mac] = [(row.address, row.port), *([row.mac] if row.mac else [])]
        place = next((places[key] for key in keys if key in places), None)
        if place is None:
            place = len(done)
            done.append(row)
        else:
            before = done[place]
            differ = [key for key in COLUMNS if (a := getattr(before, key)) and (b := getattr(row, key)) and a != b]
            if differ:
                text = f"the same BMC as in line {before.line}, with another {' and '.join(differ)}"
                errors.add(row.line, 1, text)
            more = {f.name: getattr(row, f.name) for f in fields(Row) if not getattr(before, f.name)}
            done[place] = replace(before, **more)
        places |= dict.fromkeys(keys, place)
    errors.check()
    return done
