"""The printable page: whole, without script, and a hostile agent writes only text on it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from metalbox.erase import certificate
from metalbox.erase.document import NOTHING, sign
from metalbox.erase.wording import sections
from metalbox.machine import Disk
from metalbox.web.certificate_page import page
from tests.erase.disks import NVME
from tests.erase.outcomes import changed, erasure, order, outcome
from tests.erase.test_document import KEY, PUBLIC


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def signed(draft: dict[str, Any], number: int) -> dict[str, Any]:
    return sign({**draft, "number": number, "previous": NOTHING}, PUBLIC, KEY.sign)


def documents() -> list[dict[str, Any]]:
    stick = Disk(name="sdz", serial="<b>STICK", transport="usb", size_bytes=5)
    data = order([NVME, stick])
    said = changed(outcome(data), "kernel", "<script>alert(1)</script>")
    case = erasure(data, said, operator="<img src=x onerror=alert(1)>")
    drive = signed(certificate.drive(case, data["disks"][0]), 1)
    failed = certificate.failure(case, data["disks"][0], "</table><a href='http://x'>y</a>")
    return [drive, signed(certificate.machine(case, [drive]), 2), signed(failed, 3)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_all_facts_and_nothing_that_acts(number: int) -> None:
    document = documents()[number]
    html = page(document)
    reader = Reader()
    reader.feed(html)
    assert not {"script", "img", "a", "link", "iframe", "b"} & set(reader.tags)
    assert reader.links == []
    assert "<script" not in html
    assert "url(" not in html
    for section in sections(document):
        for value in (*(value for _, value in section.facts), *(cell for row in section.rows for cell in row)):
            assert value in reader.text
    # Rows that an A4 page at this size holds, with room for those that take two lines.
    assert len(re.findall("<tr>", html)) + 2 * len(re.findall("<h2>", html)) < 60
