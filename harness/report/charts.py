"""The charts of a report as SVG that takes its colours from the page, so that they fit light and dark."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from harness.report.bins import Property

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's own; the SVG refers to CSS variables in their place.
INK, SOFT, LINE, ACCENT, WARM, FILL = (f"#0000{number:02x}" for number in range(1, 7))
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", WARM: "warm", FILL: "fill"}
_UNUSED_ID = re.compile(r' id="(?:figure|patch|axes|matplotlib|text|line2d|xtick|ytick|[A-Z]\w*Collection)_[\w.]*"')
_SIZE = re.compile(r' width="[^"]*"| height="[^"]*"')
WIDTH = 4.3
"""Of a property's chart in inches."""
_TICKS = 8
_NEVER = 0.3
"""Where the log axis has its 0."""


def _figure(width: float, height: float, *, bottom: float = 0.28) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="none")
    # Margins in inches; the page's font is not known here, so measuring text would not help.
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.08 / width, bottom=bottom / height, top=1 - 0.1 / height, hspace=0.16
    )
    return figure


def _svg(figure: "Figure", *, name: str, label: str) -> Markup:
    """The figure as an SVG element as wide as its place; `label` is read aloud in its stead."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text; the salt makes ids the same each time and different from chart to chart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text[: text.index(">")], text[text.index(">") :]
    text = _SIZE.sub("", head) + rest
    text = _UNUSED_ID.sub("", text).replace("'DejaVu Sans', sans-serif", "var(--font)")
    text = text.replace("'DejaVu Sans'", "var(--font)")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    start = Markup('<svg class="chart" role="img" aria-label="{}" ').format(label)
    # All text in a chart is the harness's own (numbers, codes of languages), escaped by matplotlib.
    return start + Markup(text.removeprefix("<svg "))


def _plain(axes: "Axes") -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=9, length=3)
    axes.yaxis.label.set_color(SOFT)
    axes.xaxis.label.set_color(SOFT)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_property(prop: Property, *, kept_share: float) -> Markup:
    """Above: how pool (grey), subset (blue) and a random subset (dotted) spread over the bins, in percent of each.
    Below: how much of each bin's pairs the subset holds, with the share over all bins as a line."""
    labels = [*prop.labels, *(["?"] if prop.counts["pool"][-1] else [])]
    n = len(labels)
    figure = _figure(WIDTH, 3.1)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    borders = np.arange(n + 1)
    for name, style in (
        ("pool", {"color": FILL, "fill": True}),
        ("random", {"color": WARM, "linestyle": ":", "linewidth": 1.6}),
        ("subset", {"color": ACCENT, "linewidth": 1.8}),
    ):
        above.stairs([100 * share for share in prop.shares(name)[:n]], borders, **style)
    shares = [0.0 if share is None else 100 * share for share in prop.kept_share[:n]]
    below.bar(borders[:-1] + 0.5, shares, width=0.8, color=ACCENT)
    below.axhline(100 * kept_share, color=WARM, linewidth=1.2, linestyle="--")
    for axes, title in ((above, "% of the set"), (below, "% kept")):
        _plain(axes)
        axes.set_ylabel(title, fontsize=9)
        axes.set_xlim(0, n)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=4)
    # Room for ticks of many decimals, where little is kept.
    longer = 0.08 * max(0, *(len(f"{tick:.9g}") - 3 for axes in (above, below) for tick in axes.get_yticks()))
    figure.subplots_adjust(left=(0.55 + longer) / WIDTH)
    for axes in (above, below):
        axes.yaxis.set_label_coords(-(0.37 + longer) / (WIDTH - 0.63 - longer), 0.5)
    _label_bins(below, prop, labels)
    label = f"{prop.title}: distribution in pool, subset and random subset, and share kept by bin"
    return _svg(figure, name=prop.key, label=label)


def _label_bins(axes: "Axes", prop: Property, labels: Sequence[str]) -> None:
    """Names below the middle of their bins, numbers below the borders, as many as can be read."""
    if prop.edges is None:
        axes.set_xticks(np.arange(len(labels)) + 0.5, labels)
        return
    numbers = len(prop.edges)
    places: list[float] = [*range(0, numbers, max(1, -(-numbers // _TICKS)))]
    shown = [prop.labels[int(place)] for place in places]
    if len(labels) > numbers:  # the last bin holds the unknown
        if numbers - places[-1] < 1:
            places, shown = places[:-1], shown[:-1]
        places, shown = [*places, numbers + 0.5], [*shown, labels[-1]]
    axes.set_xticks(places, shown)


def draw_accuracy(points: Sequence[tuple[int, float]]) -> Markup:
    """Each class: captions of the subset that name it (log axis, 0 apart) against its accuracy less that of its task.

    The line is the mean by bin.
    """
    counts, recalls = np.array(points, dtype=float).reshape(-1, 2).T
    places = np.log10(np.maximum(counts, _NEVER))
    figure = _figure(4.8, 3.0, bottom=0.48)
    axes = figure.subplots()
    axes.scatter(places, 100 * recalls, s=10, color=ACCENT, alpha=0.35, linewidths=0)
    bins = np.floor(places * 2).astype(int)
    means = [(places[bins == at].mean(), 100 * recalls[bins == at].mean()) for at in np.unique(bins)]
    axes.plot(*zip(*means, strict=True), color=WARM, linewidth=1.8, marker="o", markersize=4)
    _plain(axes)
    powers = range(int(np.ceil(max(places.max(), 1))) + 1)
    axes.set_xticks([float(np.log10(_NEVER)), *powers], ["0", *(f"{10**power:,}" for power in powers)])
    axes.set_xlabel("captions of the subset that name the class", fontsize=9)
    axes.set_xlim(right=powers[-1] + 0.35)  # which leaves room for half of the last number
    axes.set_ylabel("accuracy less the task's mean, points", fontsize=9)
    axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
    return _svg(figure, name="accuracy", label="Accuracy on each class against how many captions name it")
