"""Real packages for the builder's tests, fetched once; the tests are skipped, with the reason, where they cannot be."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metalbox.build import agent, contents, debs
from metalbox.errors import BuildError


@dataclass(frozen=True)
class Built:
    folder: Path
    cache: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="session")
def cache() -> Path:
    """The user's own cache: a second run needs no network."""
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get: images are built from Debian packages")
    return debs.default_cache()


@pytest.fixture(scope="session")
def apt(cache: Path) -> debs.AptRoot:
    with debs.locked(cache):
        root = debs.AptRoot(cache, "amd64")
        root.refresh()
        try:
            root.resolve(["busybox"])
        except BuildError as error:
            pytest.skip(f"no package index can be reached: {error}")
    return root


@pytest.fixture(scope="session")
def built(apt: debs.AptRoot, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The agent's image, quickly compressed."""
    output = tmp_path_factory.mktemp("agent")
    options = agent.Options(contents.ARCHITECTURES["x86_64"], output, cache, level=1)
    manifest = agent.build(options, lambda line: None)
    return Built(output / "x86_64", cache, manifest)
