"""The house rules that a machine can check: who may import whom, what is pure, and that each module has its test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "metalbox"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "versions" not in path.parts)

# Higher may import lower or equal. The first prefix that fits decides.
LAYERS: tuple[tuple[str, int], ...] = (
    ("metalbox.agent", 100),  # stands alone, see below
    ("metalbox.cli", 6),
    ("metalbox.doctor", 6),
    ("metalbox.lab", 6),
    ("metalbox.__main__", 6),
    ("metalbox.service", 5),
    ("metalbox.dhcp.server", 4),
    ("metalbox.dhcp.sockets", 2),
    ("metalbox.mmsg", 2),
    ("metalbox.checkpoints", 2),
    ("metalbox.garbage", 2),
    ("metalbox.dhcp.datagrams", 2),
    ("metalbox.dhcp.telling", 4),
    ("metalbox.dhcp.probe", 4),
    ("metalbox.dhcp.rivals", 4),
    ("metalbox.tftp.server", 4),
    ("metalbox.tftp.telling", 4),
    ("metalbox.tftp.lane", 2),
    ("metalbox.tftp.batch", 2),
    ("metalbox.tftp.content", 2),
    ("metalbox.tftp.sockets", 2),
    ("metalbox.ra.server", 4),
    ("metalbox.web.conditional", 1),
    ("metalbox.web.turns", 1),
    ("metalbox.web", 4),
    ("metalbox.switchboard", 4),
    ("metalbox.worker", 4),
    ("metalbox.overrides", 4),
    ("metalbox.marks", 3),
    ("metalbox.resealing", 3),
    ("metalbox.consoles", 3),
    ("metalbox.recording", 2),
    ("metalbox.inventory", 3),
    ("metalbox.listing", 3),
    ("metalbox.intake", 3),
    ("metalbox.bmcs", 3),
    ("metalbox.bmcaccounts", 3),
    ("metalbox.accountorders", 3),
    ("metalbox.caretaker", 4),
    ("metalbox.journal", 3),
    ("metalbox.presence", 3),
    ("metalbox.store", 2),
    ("metalbox.bulk", 2),
    ("metalbox.powerrecords", 2),
    ("metalbox.steadfast", 3),
    ("metalbox.powerfacts", 3),
    ("metalbox.lifefacts", 3),
    ("metalbox.orderrecords", 2),
    ("metalbox.orders", 3),
    ("metalbox.steward", 4),
    ("metalbox.ledger", 2),
    ("metalbox.moves", 3),
    ("metalbox.lives", 3),
    ("metalbox.erasing", 3),
    ("metalbox.schema", 2),
    ("metalbox.records", 2),
    ("metalbox.entries", 2),
    ("metalbox.bmcrecords", 2),
    ("metalbox.secrets", 2),
    ("metalbox.keyfile", 2),
    ("metalbox.signing", 2),
    ("metalbox.certificaterecords", 2),
    ("metalbox.certificates", 3),
    ("metalbox.migrations", 2),
    ("metalbox.config", 2),
    ("metalbox.files", 2),
    ("metalbox.build", 2),
    ("metalbox.power.polite", 3),  # queues, retries and remembers what the drivers do not
    ("metalbox.power.patrol", 3),
    ("metalbox.power.breaker", 1),
    ("metalbox.power.sol", 1),
    ("metalbox.power.consoleoffer", 1),
    ("metalbox.power.stagger", 1),
    ("metalbox.power.scan", 3),
    ("metalbox.power.asf", 1),
    ("metalbox.power.ssdp", 1),
    ("metalbox.power.addresses", 1),
    ("metalbox.power.found", 1),
    ("metalbox.power", 2),
    ("metalbox.machine", 0),
    ("metalbox.errors", 0),
    ("metalbox", 1),  # whatever is not named above is pure
)
# A pure module may read the declarations of the configuration: frozen values, no I/O.
PURE_MAY_ALSO_IMPORT = {"metalbox.config"}
IMPURE = {
    "asyncio", "socket", "time", "os", "random", "secrets", "sqlite3", "sqlalchemy", "aiohttp", "threading",
    "subprocess", "select", "selectors", "http", "urllib", "shutil", "logging",
}  # fmt: skip
GUESTS = {"scapy", "tftpy"}

# Proved by the tests of what they serve: an __init__ or __main__ with nothing but a docstring or a call, declarations.
WITHOUT_TEST_OF_THEIR_OWN = {"metalbox.__main__", "metalbox.errors"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name: str) -> int:
    for prefix, layer in LAYERS:
        if name == prefix or name.startswith(prefix + "."):
            return layer
    raise AssertionError(name)


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Every module imported, except for type checking only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    name = name_of(path)
    own = layer_of(name)
    for imported in imports_of(path):
        if not imported.startswith("metalbox") or name.startswith("metalbox.agent"):
            continue
        assert not imported.startswith("metalbox.agent.") or name.startswith("metalbox.build"), f"{name}: {imported}"
        if own == 1 and any(imported == m or imported.startswith(m + ".") for m in PURE_MAY_ALSO_IMPORT):
            continue
        if (
            not (PACKAGE / "/".join(imported.split(".")[1:])).exists()
            and not (ROOT / (imported.replace(".", "/") + ".py")).exists()
        ):
            continue  # a name inside a module that is imported too
        if imported == "metalbox":
            continue
        assert layer_of(imported) <= own, f"{name} (layer {own}) imports {imported} (layer {layer_of(imported)})"


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(name_of(p)) <= 1], ids=name_of)
def test_pure_modules_touch_nothing(path: Path) -> None:
    touched = {name.split(".")[0] for name in imports_of(path)} & IMPURE
    assert not touched, f"{name_of(path)} imports {', '.join(sorted(touched))}: give it what it needs as an argument"


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("metalbox.agent")], ids=name_of)
def test_the_agent_stands_alone(path: Path) -> None:
    for imported in imports_of(path):
        top = imported.split(".")[0]
        own = imported.startswith("metalbox.agent") or imported == "metalbox"
        assert own or top in sys.stdlib_module_names, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_guests_are_never_in_the_service(path: Path) -> None:
    if name_of(path).startswith("metalbox.doctor"):
        return
    assert not {name.split(".")[0] for name in imports_of(path)} & GUESTS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_module_has_its_test_and_says_what_it_is(path: Path) -> None:
    name = name_of(path)
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{name} begins without a sentence"
    if path.name == "__init__.py" or name in WITHOUT_TEST_OF_THEIR_OWN or "migrations" in name:
        return
    test = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert test.exists(), f"{name} has no {test.relative_to(ROOT)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 520, f"{name_of(path)}: give its second subject a file of its own"


def test_the_command_line_starts_light() -> None:
    """Nothing of the service is loaded to print a help text; that is what keeps the start under 200 ms."""
    code = "import sys, metalbox.cli.main as m; m.parser(); print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "aiohttp", "sqlalchemy", "alembic", "yaml", "jinja2", "scapy"} & set(loaded)
    assert not heavy, f"the command line imports {', '.join(sorted(heavy))} at start"


def test_nothing_unfinished_is_left() -> None:
    for path in MODULES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", line), (
                f"{path}:{number}: {line.strip()}"
            )
