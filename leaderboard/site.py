"""The static site: HTML by jinja2 (escaped throughout), data as JSON blocks in the pages, no request to anywhere.

Building opens no address and runs nothing that an entry brings. Pages work from a web server and from a folder.
"""

import csv
import io
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.entry_schema import EntryPayload
from harness.errors import ArtifactError
from harness.eval.suite import AGGREGATES, Suite, Task
from harness.files import write_bytes
from leaderboard.board import AGGREGATE_TITLES, Board, BoardTable, Row, scale_correlations
from leaderboard.findings import visible
from leaderboard.published import Published, load_published

HERE = Path(__file__).parent
STATIC = ("site.css", "common.js", "board.js", "compare.js", "tasks.js")
MAX_CARD = 40_000
"""Bytes of a data card that are shown."""
MAX_LINES = 22
"""Methods in the chart across scales: as many labels as fit."""
STAND_IN = " (stand-in)"
GROUPS = {
    "imagenet": "ImageNet",
    "shifts": "ImageNet shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
    None: "Other tasks",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of the site."""

    path: str
    template: str
    values: Mapping[str, Any]


def build(board: Board, out: Path) -> int:
    """Write the site of `board` into `out`, pages that no longer belong taken away; the number of pages."""
    published = load_published()
    environment = _environment()
    pages = [
        Page(path="index.html", template="index.html", values=_index(board, published)),
        Page(path="compare.html", template="compare.html", values={"data": task_data(board)}),
        Page(path="tasks.html", template="tasks.html", values={"data": task_data(board), "tables": board.tables}),
        Page(path="scaling.html", template="scaling.html", values=_scaling(board)),
        Page(path="about.html", template="about.html", values={"published": published}),
        *(Page(path=f"entries/{row.slug}.html", template="entry.html", values=entry_values(row)) for row in board.rows),
    ]
    shutil.rmtree(out / "entries", ignore_errors=True)
    for page in pages:
        root = "../" * page.path.count("/")
        html = environment.get_template(page.template).render(
            **page.values, root=root, page=page.path, titles=AGGREGATE_TITLES
        )
        target = out / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html, encoding="utf-8")
    for name in STATIC:
        write_bytes(out / "static" / name, (HERE / "static" / name).read_bytes())
    write_bytes(out / "board.json", (json.dumps(board.as_json(), ensure_ascii=False) + "\n").encode())
    write_bytes(out / "board.csv", to_csv(board.rows).encode())
    return len(pages)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_readable,
    )  # fmt: skip
    environment.filters |= {
        "score": score,
        "block": json_block,
        "short": lambda digest: digest[:12],
        "duration": duration,
        "task_name": _task_name,
    }
    return environment


def _readable(value: Any) -> Any:
    """What stands in a page, without the characters that a page would obey and a reader not see."""
    plain = type(value) is str and not value.isprintable()
    return "\n".join(map(visible, value.replace("\r\n", "\n").replace("\t", "    ").split("\n"))) if plain else value


def score(value: float | None, digits: int = 3) -> str:
    """`.173`, or a dash."""
    return "–" if value is None else f"{value + 0.0:.{digits}f}".removeprefix("0")


def duration(seconds: float | None) -> str:
    """`4 min`, `3.2 h`, or a dash."""
    if seconds is None:
        return "–"
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def json_block(value: Any) -> Markup:
    """JSON that may stand in a <script type="application/json">: no `<`, so nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # The three characters that HTML gives a meaning to are written as JSON escapes.
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _index(board: Board, published: Published) -> dict[str, Any]:
    tables = [table_data(table) for table in board.tables]
    return {"data": {"tables": tables}, "tables": board.tables, "published": published}


def table_data(table: BoardTable) -> dict[str, Any]:
    """One table as board.js takes it; a row is a list to keep the first page small."""
    return {
        "key": table.key, "scale": table.scale, "track": table.track, "protocol": table.protocol,
        "seedFreedom": table.seed_freedom,
        "rows": [_row_data(row) for row in table.rows],
        "apart": [{"slug": row.slug, "name": row.label, "reason": row.reason, "average": _round(row.mean("average"))}
                  for row in table.apart],
    }  # fmt: skip


def _row_data(row: Row) -> list[Any]:
    """slug, label, authors, ranks (two an aggregate), size, aggregates, low, high, std, seeds, level, date, seconds,
    random, beats random, size of that random entry if it is another."""
    authors = row.payload.about.authors
    return [
        row.slug, row.label, (authors[0] + (" et al." if len(authors) > 1 else "")) if authors else "",
        [place for name in AGGREGATES for place in row.ranks[name]], row.size,
        [_round(row.mean(name)) for name in AGGREGATES],
        _round(row.low), _round(row.high), _round(row.std("average")), row.seeds, row.level, row.date,
        None if row.selection_seconds is None else round(row.selection_seconds, 1), int(row.is_random),
        None if row.beats_random is None else int(row.beats_random),
        None if row.matched or row.yardstick is None else row.yardstick.size,
    ]  # fmt: skip


def _round(value: float | None) -> float | None:
    # Shown with three places: of four, .2505 for .25046 would be shown as .251.
    return None if value is None else round(value, 6)


def task_data(board: Board) -> dict[str, Any]:
    """Scores per task of all ranked entries, for comparing and for the heat map."""
    return {
        "tables": [
            {
                "key": table.key, "scale": table.scale, "track": table.track,
                "tasks": [[task.key, _task_name(task), GROUPS[task.group], task.chance]
                          for task in _suite(table).scored],
                "rows": [
                    [row.slug, row.label, [_round(row.scores.get(task.key)) for task in _suite(table).scored],
                     [_half(row, task.key) for task in _suite(table).scored], _round(row.mean("average"))]
                    for row in table.rows
                ],
            }
            for table in board.tables if table.rows
        ]
    }  # fmt: skip


def _task_name(task: Task) -> str:
    """As in the suite; that the tasks of scale tiny are stand-ins is said once on a page."""
    return task.name.removesuffix(STAND_IN)


def _suite(table: BoardTable) -> Suite:
    return table.rows[0].entry.suite


def _half(row: Row, key: str) -> float:
    """Half the width of a task's interval: what the compare page needs to tell noise from difference."""
    task = row.tasks[key]
    return 0.0 if task.low is None or task.high is None else round((task.high - task.low) / 2, 4)


def _scaling(board: Board) -> dict[str, Any]:
    official = {table.scale: table for table in board.tables if table.track == "filtering"}
    return {"correlations": scale_correlations(official), **scaling_chart(official)}


def scaling_chart(tables: Mapping[str, BoardTable]) -> dict[str, Any]:
    """Lines of the methods that have entries at several scales, best at the largest first; labels do not overlap."""
    methods: dict[str, dict[str, float]] = {}
    for scale, table in tables.items():
        for name, row in table.best_by_name.items():
            methods.setdefault(name, {})[scale] = row.mean("average") or 0.0
    several = {name: by_scale for name, by_scale in methods.items() if len(by_scale) > 1}
    scales = [scale for scale in tables if any(scale in by_scale for by_scale in several.values())]
    if not several:
        return {"lines": [], "ticks": [], "places": [], "more": 0}
    top = max(value for by_scale in several.values() for value in by_scale.values()) * 1.08 or 1.0
    place = {scale: 70 + 380 * i / max(len(scales) - 1, 1) for i, scale in enumerate(scales)}
    lines: list[dict[str, Any]] = []
    for name, by_scale in several.items():
        points = [(place[scale], round(300 - 285 * by_scale[scale] / top, 1)) for scale in scales if scale in by_scale]
        x, y = points[-1]
        lines.append({"name": name, "x": x, "y": y, "points": " ".join(f"{px:.1f},{py}" for px, py in points)})
    lines.sort(key=lambda line: (-line["x"], line["y"], line["name"]))
    shown = lines[:MAX_LINES]
    below = 0.0
    for line in sorted(shown, key=lambda line: line["y"]):
        below = line["label"] = round(max(line["y"] + 4, below + 13), 1)
    ticks = [(top * i / 4, round(300 - 285 * i / 4, 1)) for i in range(5)]
    return {"lines": shown, "ticks": ticks, "places": list(place.items()), "more": len(lines) - len(shown)}


def entry_values(row: Row) -> dict[str, Any]:
    """What the page of one entry shows."""
    suite, groups = row.entry.suite, {}
    for group, title in GROUPS.items():
        known = {key: task for key, task in suite.tasks.items() if task.scored and task.group == group}
        tasks = [(task, known[task.key]) for task in row.payload.tasks if task.key in known]
        if tasks:
            groups[title] = tasks
    return {"row": row, "groups": groups, "card": _card(row), "command": command(row),
            "facts": list(_flat(row.entry.record.provenance))[:120]}  # fmt: skip


def command(row: Row) -> str:
    """How to train the entry again; parts that came from a stranger are quoted for a shell."""
    payload, folder = row.payload, f"leaderboard/entries/{row.payload.scale}/{row.entry.slug}"
    places = [] if payload.scale == "tiny" else ["pool.path=POOL", "eval.data_dir=TASKS"]
    shared = [f"scale={payload.scale}", *places, f"seed={payload.runs[0].seed}"]
    mixed, lines = _mixed(payload), list[str]()
    if payload.method is not None and not payload.method.get("target"):
        params = (payload.method.get("params") or {}).items()
        chosen = [f"method.{key}={json.dumps(value)}" for key, value in params if value is not None]
        lines += ["# with the method", _run(*shared, f"method={payload.method.get('name')}", *chosen, *mixed)]
    if mixed:  # its uid file holds what was mixed in as well
        own = ["subset=UIDS.npy"] if "pool.weight=0" not in mixed else []
        return "\n".join(
            lines or ["# from uids of the pool" if own else "# of its folders", _run(*shared, *own, *mixed)]
        )
    there = payload.elsewhere.get("uids.npy")
    if there is not None:
        fetch = f"python -m leaderboard verify {shlex.quote(folder)} --files FILES --fetch"
        lines += ["# its uid file, into FILES", fetch if there.url else "# (its authors give no address; ask them)"]
    uids = "FILES/uids.npy" if there is not None else f"{folder}/uids.npy"
    return "\n".join([*lines, "# from the uid file", _run(*shared, f"subset={uids}")])


def _run(*settings: str) -> str:
    return " ".join(["python -m harness.run", *map(shlex.quote, settings)])


def _mixed(payload: EntryPayload) -> list[str]:
    """Settings of what a byod entry mixes in; where its folders lie, their owners know."""
    weights = {source.name: source.weight for source in payload.pool.sources}
    own = weights.pop("pool", 0)
    folders = ", ".join(f"{{path: {name.upper()}, weight: {weight}}}" for name, weight in weights.items())
    return [f"pool.weight={own}", f"byod=[{folders}]"] if weights else []


def _card(row: Row) -> str:
    if "data-card.md" not in row.entry.record.inputs:
        return ""
    try:
        with open(row.entry.file("data-card.md"), "rb") as file:
            return file.read(MAX_CARD).decode(errors="replace")
    except ArtifactError:
        return ""


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a JSON value as (dotted name, text), both cut short."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name[-80:], str(value)[:200]


def to_csv(rows: Sequence[Row]) -> str:
    """All entries, one a line, with every task's score; text that a spreadsheet would run is made text."""
    keys = sorted({key for row in rows for key in row.scores})
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["protocol", "scale", "track", "rank_best", "rank_worst", "name", "size", "distinct", "seeds",
                     "level", *AGGREGATES, "average_low", "average_high", "not_ranked", "digest", *keys])  # fmt: skip
    for row in rows:
        best, worst = row.ranks.get("average", ("", ""))
        name = f"'{row.name}" if row.name[:1] in "=+-@" else row.name
        writer.writerow([
            row.entry.record.protocol, row.payload.scale, row.payload.about.track, best, worst, name, row.size,
            row.payload.subset.distinct, row.seeds, row.level, *(row.mean(a) for a in AGGREGATES), row.low, row.high,
            row.reason, row.entry.record.digest, *(row.scores.get(key) for key in keys),
        ])  # fmt: skip
    return buffer.getvalue()
