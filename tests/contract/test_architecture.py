"""The map in docs/architecture.md shows every module of the harness, and rows use what stands above them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARNESS = ROOT / "harness"


@pytest.fixture(scope="module")
def rows() -> dict[str, int]:
    """Module or room of harness/ to the number of its row."""
    table = re.findall(r"^\| (`harness/.*?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    named = [(name, number) for number, row in enumerate(table) for name in re.findall(r"(\w+)(?:\.py|/)`", row)]
    assert len(dict(named)) == len(named), "named twice"
    return dict(named)


def test_every_module_and_room_is_on_the_map(rows: dict[str, int]) -> None:
    there = {path.stem for path in HARNESS.glob("*.py")} | {path.parent.name for path in HARNESS.glob("*/__init__.py")}
    assert rows.keys() == there - {"__init__"}


def test_a_row_uses_itself_and_rows_above(rows: dict[str, int]) -> None:
    upwards = [
        f"{path.relative_to(HARNESS)} uses {used}"
        for path in HARNESS.rglob("*.py")
        for used in _used(path)
        if rows.get(used, 0) > rows.get(path.relative_to(HARNESS).parts[0].removesuffix(".py"), len(rows))
    ]
    assert not upwards


def _used(path: Path) -> Iterator[str]:
    """The modules and rooms of harness/ that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            yield str(node.module).split(".")[1]
