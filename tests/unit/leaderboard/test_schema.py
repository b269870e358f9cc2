"""The published schema is that of the code, and entries of every format ever published keep loading."""

import json
from pathlib import Path

import pytest

from harness.entry_schema import ENTRY_FORMAT, load_entry
from leaderboard import schema

GOLDEN = Path(__file__).parents[2] / "golden" / "entries"


def test_the_published_schema_is_up_to_date() -> None:
    assert schema.PATH.read_text() == schema.text(), "run `python -m leaderboard.schema`"


def test_the_schema_names_every_key_of_a_real_entry() -> None:
    payload = json.loads((GOLDEN / f"v{ENTRY_FORMAT}" / "entry.json").read_text())["payload"]
    described = schema.schema()["properties"]["payload"]
    assert set(payload) == set(described["properties"])
    assert described["additionalProperties"] is False


def test_there_is_a_golden_entry_of_every_format() -> None:
    assert [path.name for path in sorted(GOLDEN.iterdir())] == [f"v{n}" for n in range(1, ENTRY_FORMAT + 1)]


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_entries_of_every_format_load(folder: Path) -> None:
    """A change of the payload that breaks this needs a new format, and a step in harness.entry_schema.migrate."""
    payload = load_entry(folder).payload
    assert payload.about.name == "clip_score"
    assert payload.aggregates["average"].mean == pytest.approx(0.3839, abs=1e-4)
    assert [run.seed for run in payload.runs] == [0, 1, 2]
