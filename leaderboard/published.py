"""Results that others published, as they stand in published.yaml: shown apart, and a yardstick of what is plausible."""

from pathlib import Path

import yaml

from harness.config import validated
from harness.entry_schema import Link
from harness.eval.suite import AGGREGATES
from harness.records import StrictModel


class Source(StrictModel):
    """Where a published result was printed."""

    title: str
    link: Link | None = None


class PublishedRow(StrictModel):
    """A result that others published; nobody here has verified it."""

    scale: str
    track: str
    method: str
    size: str = ""
    scores: tuple[float | None, float | None, float | None, float | None, float | None]
    source: str

    @property
    def comparable(self) -> dict[str, float]:
        """Its aggregates that mean what ours do: sources differ in which sets they count to VTAB."""
        named = zip(AGGREGATES, self.scores, strict=True)
        return {name: value for name, value in named if value is not None and name != "vtab"}


class Published(StrictModel):
    """published.yaml"""

    sources: dict[str, Source]
    rows: list[PublishedRow]


def load_published() -> Published:
    """The published results beside the board."""
    values = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
    return validated(Published, values, prefix="published.yaml: ")
