"""Where the shared corpus of captures and hardware dumps lies; tests that need it skip where it is not, and say why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("METALBOX_CORPUS", Path(__file__).resolve().parents[2] / "shared" / "corpus"))


def corpus(*parts: str) -> Path:
    """The path of a file or folder of the corpus; skips the test when it is not there."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the corpus is not at {path}: set METALBOX_CORPUS to the folder that holds pcap/, hex/, lab/, hw/")
    return path
