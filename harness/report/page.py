"""The page of a report: one HTML file that asks for nothing else and runs no script.

Captions and class names are strangers' text: jinja2 escapes all of it, and the page's policy forbids scripts.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from harness.report import charts
from harness.report.analysis import Findings
from harness.report.clusters import Cluster
from harness.report.treemap import Rectangle, squarified

HERE = Path(__file__).parent
MAP = (960.0, 460.0)
"""Width and height of the treemap, in its own units."""
_LETTER, _LINE, _NARROWEST = 8, 16, 44
"""Size of text in the treemap."""
_FULL = 3.0
"""A cluster that is kept so many times as often as the whole pool has the full colour."""
_STRONGEST = 62
_FEW = 5
"""Percent below which a decimal is shown."""
_SURE = 10
"""Kept pairs of a cluster that must be expected for its colour to be full."""
TITLES = {
    "kept": "Kept, chosen at random",
    "dropped": "Dropped, chosen at random",
    "border": "At the border, by score",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A cluster in the treemap."""

    cluster: Cluster
    place: Rectangle
    tone: str
    """accent: kept more than the pool as a whole; warm: less."""
    strength: int
    """Percent of that colour."""

    @property
    def lines(self) -> list[str]:
        """The cluster's words and how much of it is kept, as far as they fit."""
        fitting = [word for word in self.cluster.words[:2] if len(word) * _LETTER + 12 < self.place.width]
        kept = 100 * self.cluster.kept
        lines = [*fitting, f"{kept:.0f} %" if kept >= _FEW or not kept else f"{kept:.1f} %"]
        most = int((self.place.height - 6) / _LINE) if self.place.width > _NARROWEST else 0
        return lines[-most:] if most else []


def tiles(clusters: list[Cluster], kept_share: float, sampled: int) -> list[Tile]:
    """The treemap of clusters: areas by their share of the pool, colours by how much of them was kept.

    `sampled`: pairs that the clusters were made of. Fewer kept ones than _SURE are expected by chance alone to be some
    more or fewer, so colours fade there.
    """
    places = squarified([cluster.share for cluster in clusters], *MAP)
    found = []
    for cluster, place in zip(clusters, places, strict=True):
        ratio = math.log(max(cluster.kept, 1e-9) / kept_share, _FULL)
        tone = "accent" if ratio > 0 else "warm"
        sure = min(1, sampled * cluster.share * kept_share / _SURE)
        found.append(Tile(cluster, place, tone, round(_STRONGEST * min(abs(ratio), 1) * sure)))
    return found


def render(found: Findings, *, title: str) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "count": lambda value: f"{value:,}",
        "figure": figure,
        "distance": lambda value: f"{value:.3f}",
        "signed": lambda value: "–" if value is None else f"{value:+.2f}",
    }
    sampled = min(found.settings["sample"], found.pool_size)
    points = [point for task in found.coverage for point in task.centred()]
    return environment.get_template("page.html").render(
        found=found, title=title, titles=TITLES, map=MAP,
        tiles=tiles(found.clusters, found.kept_share, sampled), sampled=sampled,
        panels=[(prop, charts.draw_property(prop, kept_share=found.kept_share)) for prop in found.properties],
        accuracy=charts.draw_accuracy(points) if points else None,
        by_kept=sorted(found.clusters, key=lambda cluster: -cluster.kept),
    )  # fmt: skip


def percent(value: float | None) -> str:
    """`12.3 %`, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def figure(value: Any) -> str:
    """Three significant digits, no exponent; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
