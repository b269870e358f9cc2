"""The two pictures in a run's folder: loss over samples seen, and scores by task against chance."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2f6fb3", "#d9822b", "#9aa3ad"


def _figure(width: float, height: float) -> "Figure":
    # The object interface: no global state, no display, safe in any thread.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_loss(log: str | os.PathLike[str], out: str | os.PathLike[str], *, title: str) -> None:
    """Draw log.jsonl (one object a step: samples, loss, lr) as loss over samples seen, with the learning rate below."""
    rows = [json.loads(line) for line in Path(log).read_text().splitlines()]
    samples = [row["samples"] for row in rows]
    figure = _figure(7, 4.2)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    loss.plot(samples, [row["loss"] for row in rows], color=BLUE, linewidth=1.2)
    loss.set(ylabel="contrastive loss", title=title)
    rate.plot(samples, [row["lr"] for row in rows], color=GREY, linewidth=1.2)
    rate.set(ylabel="learning rate", xlabel="samples seen")
    for axes in (loss, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, Path(out))


def draw_scores(
    scores: Mapping[str, float | None],
    chance: Mapping[str, float | None],
    groups: Mapping[str, str],
    out: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draw main metrics in [0, 1] by task key as bars, grouped and sorted, chance as a tick on each bar."""
    order = sorted(scores, key=lambda key: (groups.get(key, "-"), -(scores[key] or 0.0)))
    colours = dict(
        zip(sorted(set(groups.values())), (GREY, BLUE, ORANGE, "#4d9a6a", "#8a63b0", "#b5534e"), strict=False)
    )
    figure = _figure(7.5, 0.21 * len(order) + 1.1)
    axes = figure.subplots()
    places = range(len(order))
    axes.barh(
        places,
        [scores[key] or 0.0 for key in order],
        height=0.7,
        color=[colours.get(groups.get(key, "-"), GREY) for key in order],
    )
    for place, key in zip(places, order, strict=True):
        expected = chance.get(key)
        if expected is not None:
            axes.plot([expected, expected], [place - 0.42, place + 0.42], color="black", linewidth=1.4)
    axes.set_yticks(places, order, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set(xlabel="main metric (black tick: chance)", title=title, xlim=(0, 1))
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    from matplotlib.patches import Patch

    axes.legend(
        handles=[Patch(color=colour, label="other" if name == "-" else name) for name, colour in colours.items()],
        fontsize=7,
        loc="lower right",
    )
    _save(figure, Path(out))
