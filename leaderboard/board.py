"""Entries as ranked tables: one table a (protocol, scale, track), never mixed."""

import datetime
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.bootstrap import REPLICATES
from harness.config import scale_names
from harness.entry_schema import AggregateName, EntryPayload, TaskScore
from harness.errors import ArtifactError, HarnessError
from harness.eval.suite import AGGREGATES
from leaderboard import safe, statistics
from leaderboard.entries import Entry, find, misplaced
from leaderboard.findings import Verification, visible
from leaderboard.published import load_published
from leaderboard.statistics import Floats, Ranking, Scores, SeedNoise
from leaderboard.verified import recall

AGGREGATE_TITLES: dict[AggregateName, str] = {
    "imagenet": "ImageNet", "shifts": "shifts", "vtab": "VTAB", "retrieval": "retrieval", "average": "average",
}  # fmt: skip
SCALE_ORDER = ("tiny", "debug", "small", "medium", "large", "xlarge")
RANDOM = "random_subset"
"""The method whose entries are the yardstick: random choices of the same size."""
UNVERIFIED = "unverified"
SAME_SIZE = 0.05
"""Sizes within this fraction of each other count as the same."""


@dataclass
class Row:
    """One entry on the board."""

    entry: Entry
    verification: Verification | None = None
    place: int = 0
    """Position in the table by average, from 1; 0 if it is not ranked."""
    label: str = ""
    """The name, with the share of the pool where other entries of the table have the same name."""
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Aggregate to its range of ranks."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Aggregate to its 95 % interval over samples and seeds."""
    yardstick: "Row | None" = None
    """The random entry that is nearest in size, if there is one."""
    beats_random: bool | None = None
    """Significantly better by average than the yardstick; None if there is none."""
    matched: bool = False
    """The yardstick is of the same size."""
    problem: str = ""
    """Why it cannot be ranked though it is official and complete."""

    @property
    def payload(self) -> EntryPayload:
        """What entry.json says."""
        return self.entry.payload

    @property
    def name(self) -> str:
        """Name of the method as the participants give it."""
        return self.payload.about.name

    @property
    def slug(self) -> str:
        """Unique on the board, and safe as a file name."""
        return f"{self.payload.scale}-{self.entry.slug}"

    @property
    def size(self) -> int:
        """Uids in the subset, repeats counted."""
        return self.payload.subset.size

    @property
    def seeds(self) -> int:
        """Training seeds."""
        return len(self.payload.runs)

    @property
    def level(self) -> str:
        """The highest level of verification that this very entry has passed."""
        return (self.verification and self.verification.reached) or UNVERIFIED

    @property
    def is_random(self) -> bool:
        """True for a random choice, which is always shown."""
        method = self.payload.method or {}
        return method.get("name") == RANDOM and not method.get("target")

    @property
    def rank_text(self) -> str:
        """`3`, or `2-4` where the noise does not tell."""
        best, worst = self.ranks.get("average", (0, 0))
        return "-" if not best else str(best) if best == worst else f"{best}-{worst}"

    @property
    def low(self) -> float | None:
        """Lower end of the interval of the average."""
        return self.spans["average"][0] if "average" in self.spans else None

    @property
    def high(self) -> float | None:
        """Upper end of the interval of the average."""
        return self.spans["average"][1] if "average" in self.spans else None

    @property
    def reason(self) -> str:
        """Why the entry is not ranked; empty if it is."""
        if self.payload.unofficial:
            return f"unofficial: {', '.join(self.payload.unofficial)}"
        if self.payload.missing:
            return f"incomplete: {len(self.payload.missing)} tasks missing"
        return self.problem

    @property
    def selection_seconds(self) -> float | None:
        """Wall time of the selection as the participants report it."""
        selection = self.entry.record.provenance.get("selection")
        seconds = selection.get("seconds") if isinstance(selection, dict) else None
        return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else None

    @property
    def date(self) -> str:
        """Day on which the entry was packed, or empty."""
        try:
            return datetime.date.fromisoformat(str(self.entry.record.provenance.get("finished", ""))[:10]).isoformat()
        except ValueError:
            return ""

    def mean(self, aggregate: str) -> float | None:
        """Mean over seeds of one of the five aggregates."""
        value = self.payload.aggregates.get(aggregate)  # type: ignore[call-overload]
        return value.mean if value else None

    def std(self, aggregate: str) -> float | None:
        """Standard deviation between seeds."""
        value = self.payload.aggregates.get(aggregate)  # type: ignore[call-overload]
        return value.std if value else None

    @cached_property
    def tasks(self) -> dict[str, TaskScore]:
        """Results by task key."""
        return {task.key: task for task in self.payload.tasks}

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Task key to main metric."""
        return {task.key: task.score for task in self.payload.tasks}


@dataclass
class BoardTable:
    """The entries of one protocol, scale and track."""

    protocol: str
    scale: str
    track: str
    rows: list[Row]
    """Ranked, best average first, ties by name."""
    apart: list[Row]
    """Not ranked: unofficial, incomplete or without replicates."""
    seed_freedom: int = 0
    """Degrees of freedom of the measured noise of seeds; 0: it is assumed (statistics.ASSUMED_SPREAD)."""

    @property
    def key(self) -> str:
        """Address of the table on the site."""
        return f"{self.scale}-{self.track}" + ("" if self.protocol == "v1" else f"-{self.protocol}")

    @property
    def best_by_name(self) -> dict[str, Row]:
        """Name of a method to its best entry: what a method is matched by across scales."""
        return {row.name: row for row in reversed(self.rows)}

    @cached_property
    def stability(self) -> dict[str, Floats] | None:
        """How the order depends on the choice of tasks (statistics.leave_tasks_out); None with fewer than 3 entries."""
        if len(self.rows) < 3:
            return None
        keys = [task.key for task in self.rows[0].entry.suite.scored]
        scores = np.array([[row.scores.get(key) or 0.0 for key in keys] for row in self.rows])
        return statistics.leave_tasks_out(scores, rng=np.random.default_rng(0))


@dataclass
class Board:
    """Everything that is shown."""

    tables: list[BoardTable]
    problems: list[str]
    """Entries that could not be read, one sentence each."""

    @classmethod
    def load(cls, root: Path, *, verified: Path, scale: str | None = None) -> "Board":
        """The board of all entries below `root`; those that cannot be read are named in `problems`."""
        rows, problems = [], []
        for folder in find(root):
            try:
                entry = Entry.load(folder)
                entry.suite  # noqa: B018 - an entry of an unknown suite cannot be shown
                if problem := misplaced(entry, root):
                    raise ArtifactError(f"{folder}: {problem}")
                if scale in (None, entry.payload.scale):
                    rows.append(Row(entry, recall(entry, verified)))
            except HarnessError as error:
                problems.append(visible(str(error)))
        return cls(_tables(rows), problems)

    @property
    def rows(self) -> list[Row]:
        """All entries, ranked or not."""
        return [row for table in self.tables for row in (*table.rows, *table.apart)]

    def best_known(self, *, without: Path) -> dict[str, dict[str, float]]:
        """By scale the highest value of each aggregate and task on record, but for the entry in the folder `without`.

        On record is what others published and the entries that a maintainer has verified: those that come in one
        request must not vouch for each other.
        """
        known = [(row.scale, row.comparable) for row in load_published().rows]
        for table in self.tables:
            for row in table.rows:
                if row.level != UNVERIFIED and row.entry.folder.resolve() != without.resolve():
                    aggregates = {name: row.mean(name) or 0.0 for name in AGGREGATES}
                    known.append((table.scale, aggregates | {key: score or 0.0 for key, score in row.scores.items()}))
        best: dict[str, dict[str, float]] = {}
        for scale, values in known:
            there = best.setdefault(scale, {})
            there |= {name: max(value, there.get(name, 0.0)) for name, value in values.items()}
        return best

    def as_json(self) -> list[dict[str, Any]]:
        """The tables as JSON."""
        return [
            {"protocol": table.protocol, "scale": table.scale, "track": table.track,
             "entries": [row_json(row) for row in (*table.rows, *table.apart)]}
            for table in self.tables
        ]  # fmt: skip


def row_json(row: Row) -> dict[str, Any]:
    """What the tables and downloads say of one entry."""
    return {
        "slug": row.slug, "name": row.name, "authors": row.payload.about.authors, "scale": row.payload.scale,
        "track": row.payload.about.track, "protocol": row.entry.record.protocol,
        "rank": list(row.ranks.get("average", ())),
        "reason_not_ranked": row.reason or None, "size": row.size, "distinct": row.payload.subset.distinct,
        "mean_repeats": row.payload.subset.mean_repeats, "seeds": [run.seed for run in row.payload.runs],
        "level": row.level, "selection_seconds": row.selection_seconds, "packed": row.date,
        "aggregates": {
            name: {"mean": row.mean(name), "std": row.std(name), "interval": list(row.spans.get(name, ())),
                   "rank": list(row.ranks.get(name, ()))}
            for name in AGGREGATES
        },
        "tasks": row.scores, "digest": row.entry.record.digest,
    }  # fmt: skip


def _scale_order(scale: str) -> tuple[int, str]:
    known = [*SCALE_ORDER, *(name for name in scale_names() if name not in SCALE_ORDER)]
    return (known.index(scale) if scale in known else len(known), scale)


def _tables(rows: Sequence[Row]) -> list[BoardTable]:
    replicates = {id(row): _replicates(row) for row in rows}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    recipes: dict[tuple[str, str], list[Floats]] = {}
    for row in rows:
        protocol, scale = row.entry.record.protocol, row.payload.scale
        groups.setdefault((protocol, scale, row.payload.about.track), []).append(row)
        recipes.setdefault((protocol, scale), []).extend([] if row.reason else [_by_seed(row)])
    # Both tracks of a scale are trained and evaluated alike, so their seeds are pooled.
    noise = {recipe: statistics.seed_noise(seeds) for recipe, seeds in recipes.items()}
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], _scale_order(item[0][1]), item[0][2]))
    return [_table(key, members, replicates, noise[key[:2]]) for key, members in ordered]


def _table(
    key: tuple[str, str, str],
    members: Sequence[Row],
    replicates: Mapping[int, npt.NDArray[np.float32]],
    noise: SeedNoise,
) -> BoardTable:
    ranked = [row for row in members if not row.reason]
    ranked.sort(key=lambda row: (-(row.mean("average") or 0.0), row.name.casefold(), row.slug))
    scores = [Scores(seeds=_by_seed(row), replicates=replicates[id(row)]) for row in ranked]
    draws = np.stack([
        statistics.draw(score, noise, np.random.default_rng(_seed(row)))
        for row, score in zip(ranked, scores, strict=True)
    ]) if ranked else np.empty((0, len(AGGREGATES), 1))  # fmt: skip
    for place, row in enumerate(ranked, start=1):
        row.place = place
    _put_labels(members)
    _put_ranks(ranked, draws)
    apart = sorted((row for row in members if row.reason), key=lambda row: (row.name.casefold(), row.slug))
    return BoardTable(*key, ranked, apart, seed_freedom=noise.freedom)


def _by_seed(row: Row) -> Floats:
    """Aggregates (S, 5) as measured."""
    return np.array([row.payload.aggregates[name].seeds for name in AGGREGATE_TITLES], dtype=np.float64).T


def _seed(row: Row) -> int:
    # By the entry, not by its place: another entry on the board changes nobody's draws.
    return int.from_bytes(hashlib.sha256(row.entry.record.digest.encode()).digest()[:8], "little")


def _put_ranks(rows: Sequence[Row], draws: npt.NDArray[Any]) -> None:
    for column, name in enumerate(AGGREGATES):
        values = np.array([row.mean(name) for row in rows], dtype=np.float64)
        ranking: Ranking = statistics.rank(values, draws[:, column])
        for i, row in enumerate(rows):
            row.ranks[name] = (int(ranking.best[i]), int(ranking.worst[i]))
            row.spans[name] = (float(ranking.low[i]), float(ranking.high[i]))
        if name == "average":
            _put_yardsticks(rows, ranking.better)


def _put_labels(rows: Sequence[Row]) -> None:
    named = Counter(row.name for row in rows)
    for row in rows:
        share = 100 * row.size / max(row.payload.pool.samples, 1)
        row.label = row.name if named[row.name] == 1 else f"{row.name} ({share:.3g} %)"
    labelled = Counter(row.label for row in rows)
    for row in rows:
        if labelled[row.label] > 1:
            row.label = f"{row.label} {row.entry.slug}"


def _put_yardsticks(rows: Sequence[Row], better: npt.NDArray[np.bool_]) -> None:
    random = [i for i, row in enumerate(rows) if row.is_random]
    for i, row in enumerate(rows):
        if not random or row.is_random:
            continue
        # By ratio: against 20 % of a pool, 10 % is as far as 40 %.
        away = {j: abs(math.log(max(rows[j].size, 1) / max(row.size, 1))) for j in random}
        j = min(random, key=lambda j: (away[j], rows[j].slug))
        row.yardstick, row.beats_random, row.matched = rows[j], bool(better[i, j]), away[j] <= math.log1p(SAME_SIZE)


def _replicates(row: Row) -> npt.NDArray[np.float32]:
    """The entry's bootstrap.npy; an entry that contradicts itself is put apart, with the reason."""
    empty: npt.NDArray[np.float32] = np.empty((0, 0, 0), dtype=np.float32)
    if row.reason:
        return empty
    try:
        found = safe.load_array(row.entry.file("bootstrap.npy"), dtype="<f4", ndim=3)
        row.problem = _contradiction(row, found)
    except HarnessError as error:
        row.problem = visible(str(error)).replace(f"{row.entry.folder}/", "")
    return empty if row.problem else np.asarray(found)


def _contradiction(row: Row, replicates: npt.NDArray[np.float32]) -> str:
    """Why an entry cannot stand in a table though its entry.json is valid; empty if it can."""
    stated = [row.payload.aggregates.get(name) for name in AGGREGATE_TITLES]
    if any(value is None or len(value.seeds) != row.seeds or None in (value.mean, *value.seeds) for value in stated):
        return "aggregates do not fit the seeds"
    if any(row.scores.get(task.key) is None for task in row.entry.suite.scored):
        return "tasks of the suite are left out"
    # Replicate b means the same test sets for all, so all have as many.
    if replicates.shape != (row.seeds, len(AGGREGATES), REPLICATES) or not np.isfinite(replicates).all():
        return "bootstrap.npy does not fit the entry"
    return ""


def scale_correlations(tables: Mapping[str, BoardTable]) -> list[tuple[str, str, str, statistics.Correlation]]:
    """Rank correlations between scales over the methods that both have, by name: (aggregate, scale, scale, …)."""
    found = []
    for (first, a), (second, b) in itertools.combinations(tables.items(), 2):
        rows, others = a.best_by_name, b.best_by_name
        names = sorted(set(rows) & set(others))
        for aggregate in ("imagenet", "average"):
            columns = [
                np.array([best[name].mean(aggregate) for name in names], dtype=np.float64) for best in (rows, others)
            ]
            if agreement := statistics.correlation(*columns):
                found.append((aggregate, first, second, agreement))
    return found
