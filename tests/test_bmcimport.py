"""Operators' lists as they are written: CSV with and without names, YAML, and what is wrong, by line and column."""

from __future__ import annotations

import csv
import io

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalbox.bmcimport import COLUMNS, MAX_ERRORS, Row, parse, parse_csv, parse_yaml
from metalbox.errors import InvalidValue
from metalbox.machine import Mac
from metalbox.secret import Secret
from tests.reports import UUID

A = Mac("52:54:00:00:00:01")
WHOLE = Row(2, "192.0.2.10", "root", Secret("cal,vin;"), A, "ABC1234", 8443, "redfish", UUID, "Dell")


def test_csv_with_names_in_any_order() -> None:
    text = (
        "\ufeffSerial, address ,user,password,mac,port,driver,uuid,vendor\r\n"
        f'ABC1234,192.0.2.10,root,"cal,vin;",5254.0000.0001,8443,redfish,{UUID.upper()},Dell\r\n'
    )
    assert parse(text, "bmcs.csv") == [WHOLE]


def test_csv_without_names() -> None:
    text = "# rack 1\n\n192.0.2.10,root,a;b\n2001:DB8::0:1,, secret ,52-54-00-00-00-01,ABC1234\nilo-7.example.com,x,y\n"
    assert parse(text) == [
        Row(3, "192.0.2.10", "root", Secret("a;b")),
        Row(4, "2001:db8::1", "", Secret(" secret "), A, "ABC1234"),
        Row(5, "ilo-7.example.com", "x", Secret("y")),
    ]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(separator: str) -> None:
    text = separator.join(("address", "user", "password")) + "\n" + separator.join(("192.0.2.10", "root", "a,b")) + "\n"
    assert parse(text) == [Row(2, "192.0.2.10", "root", Secret("a,b"))]


def test_yaml_takes_values_as_they_are_written() -> None:
    text = (
        "bmcs:\n"
        "  - address: 192.0.2.10\n    user: root\n    password: 0123\n    mac: 52:54:00:00:00:01\n    serial: 00770\n"
        "  - {address: 192.0.2.11, user: yes, password: '', mac: null, port: 8000}\n"
        "  - {address: 192.0.2.12, password: 'null'}\n"
    )
    assert parse(text) == [
        Row(2, "192.0.2.10", "root", Secret("0123"), A, "00770"),
        Row(7, "192.0.2.11", "yes", port=8000),
        Row(8, "192.0.2.12", password=Secret("null")),
    ]
    assert parse("- address: 192.0.2.10\n") == [Row(1, "192.0.2.10")]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "address,user\n"])
def test_an_empty_list_is_empty(text: str) -> None:
    assert parse(text, "x.csv") == []
    assert parse_yaml("") == parse_yaml("bmcs:\n") == parse_yaml("[]") == []


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("address,mac\n192.0.2.300,x\n", [
            "list.csv:2:1: address: expected an IP address or host name",
            "list.csv:2:2: mac: expected the MAC address of one device, like 52:54:00:ab:cd:ef",
        ]),
        ("address,pasword\n192.0.2.1,hunter2\n", [f"list.csv:1:2: no such column: known are {', '.join(COLUMNS)}"]),
        ("user,password\nroot,hunter2\n", ["list.csv:1:1: there is no column address"]),
        ("address,user,address\n", ["list.csv:1:3: the column address stands here twice"]),
        ("192.0.2.1,root,my,hunter2\n", [
            "list.csv:1:4: mac: expected the MAC address of one device, like 52:54:00:ab:cd:ef",
        ]),
        ("address,user,password\n192.0.2.1,root,hun,ter2\n", [
            "list.csv:2:4: expected 3 cells, got 4: quote cells with commas",
        ]),
        ('address,password\n192.0.2.1,"hunter2\n', ["list.csv:2:1: no CSV: unexpected end of data"]),
        ("address,user\n,root\n", ["list.csv:2:1: a BMC needs an address"]),
        ("address,port\n192.0.2.1,70000\n", ["list.csv:2:2: port: expected a port from 1 to 65535"]),
        ("address,driver\n192.0.2.1,ssh\n", ["list.csv:2:2: driver: expected one of redfish, ipmi"]),
        ("address,mac\n192.0.2.1,ff:ff:ff:ff:ff:ff\n", [
            "list.csv:2:2: mac: expected the MAC address of one device, like 52:54:00:ab:cd:ef",
        ]),
        ("address,password\n192.0.2.1,a\n192.0.2.1,b\n", [
            "list.csv:3:1: the same BMC as in line 2, with another password",
        ]),
        ("- address: 192.0.2.1\n  password: [x\n", ["list.yaml:3:1: no YAML: look at quotes and indents"]),
        ("- address: 192.0.2.1\n  pass: hunter2\n", [f"list.yaml:2:3: no such column: known are {', '.join(COLUMNS)}"]),
        ("- address: 192.0.2.1\n  user: [a]\n", ["list.yaml:2:9: expected `name: text`"]),
        ("- address: 192.0.2.1\n  user: a\n  user: b\n", ["list.yaml:3:3: 'user' stands here twice"]),
        ("- 192.0.2.1\n", ["list.yaml:1:3: expected a BMC as `address: ...`, `user: ...` and so on"]),
        ("bmcs: hunter2\n", ["list.yaml:1:7: expected a list of BMCs, each with its address"]),
        ("---\nx\0y", [
            "list.yaml:1:1: no YAML: it holds characters that YAML does not allow, or is nested too deeply",
        ]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_line_and_column(text: str, errors: list[str]) -> None:
    name = "list.yaml" if "list.yaml" in errors[0] else "list.csv"
    with pytest.raises(InvalidValue) as caught:
        parse(text, name)
    told = str(caught.value).splitlines()
    assert told[: len(errors)] == errors
    assert "hunter2" not in str(caught.value)


def test_errors_are_bounded() -> None:
    with pytest.raises(InvalidValue) as caught:
        parse("address,mac\n" + "192.0.2.1,x\n" * 1000)
    assert len(str(caught.value).splitlines()) == MAX_ERRORS + 1
    assert str(caught.value).endswith("and 980 more errors")


def test_rows_of_one_bmc_become_one() -> None:
    text = (
        "address,user,mac,serial\n192.0.2.1,root,,\n192.0.2.2,,,\n192.0.2.1,,5254-0000-0001,S-1\n192.0.2.1,root,,S-1\n"
    )
    assert parse(text) == [Row(2, "192.0.2.1", "root", mac=A, serial="S-1"), Row(3, "192.0.2.2")]
    with pytest.raises(InvalidValue, match=":3:1: the same BMC as in line 2, with another address"):
        parse("address,mac\n192.0.2.1,525400000001\n192.0.2.2,525400000001\n")
    assert len(parse("address,port\n192.0.2.1,8000\n192.0.2.1,8001\n")) == 2


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
passwords = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30).filter(str.strip)
rows = st.lists(
    st.builds(
        Row,
        st.just(0),
        st.ip_addresses().map(str),
        st.just("") | texts,
        st.just("") | passwords,
        st.none() | st.binary(min_size=5, max_size=5).map(lambda raw: Mac.from_bytes(b"\x02" + raw)),
        st.just("") | texts,
        st.integers(0, 65535),
    ),
    max_size=10,
    unique_by=(lambda row: row.address, lambda row: row.mac or row.address),
)
USED = COLUMNS[:6]


def _written(row: Row, key: str) -> str:
    value = getattr(row, key)
    return value.reveal() if isinstance(value, Secret) else str(value or "")


@given(rows)
def test_what_a_program_writes_is_read_as_it_was(wanted: list[Row]) -> None:
    cells = [[str(getattr(row, key) or "") for key in USED] for row in wanted]
    out = io.StringIO()
    csv.writer(out).writerows([USED, *cells])
    dicts = [dict(zip(USED, row, strict=True)) for row in cells]
    for found in (parse_csv(out.getvalue()), parse_yaml(yaml.safe_dump(dicts, allow_unicode=True))):
        got = [[_written(row, key) for key in USED] for row in found]
        assert got == cells


@given(st.text() | st.text("\"',;:-[]{}&*!|>#%@\n\t addressuserpassword0123"), st.sampled_from(["a.csv", "a.yaml", ""]))
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    try:
        parse(text, name)
    except InvalidValue as error:
        assert str(error)


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12, max_size=20), st.integers(1, 9))
def test_no_error_repeats_a_password(password: str, extra: int) -> None:
    broken = [
        f"address,user,password,mac\n192.0.2.1,root,{password},nothing\n",
        *(f"address,user,password,{key}\n192.0.2.1,root,a,.{password}\n" for key in ("mac", "port", "driver", "uuid")),
        f"address,user,password\n192.0.2.1,root,{password}{',x' * extra}\n",
        f'address,user,password\n192.0.2.1,root,"{password}\n',
        f"address,user,pass\n192.0.2.1,root,{password}\n",
        f"- address: 192.0.2.1\n  password: [{password}\n",
        f"- address: 192.0.2.1\n  password: [{password}]\n",
        f"- address: 192.0.2.1\n  password: '{password}\n",
        f"- address: 192.0.2.1\n  password: {password}: x\n",
    ]
    for text in broken:
        with pytest.raises(InvalidValue) as caught:
            parse(text)
        assert password not in str(caught.value)
        assert password not in repr(caught.value.__context__)
