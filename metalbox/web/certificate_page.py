"""A certificate as a page that people print: one HTML file without script, fonts or pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from metalbox.erase.wording import limits, sections, title

TEMPLATES = Path(__file__).parent / "templates"


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML; whatever an agent reported is text in it, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(TEMPLATES)),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    return environment.get_template("certificate.html.j2").render(
        title=title(document),
        number=document["number"],
        kind=document["kind"],
        issued_at=document["issued_at"],
        sections=sections(document),
        limits=limits(document),
    )
