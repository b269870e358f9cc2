"""Everything that a report says about a subset, gathered and computed; nothing here writes the page."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import language, uid
from harness.compare import evaluations
from harness.errors import ArtifactError
from harness.eval import data, predictions, results
from harness.eval.metrics import class_recalls
from harness.eval.suite import Suite, Task
from harness.files import join, sha256_file
from harness.pool.view import Pool
from harness.records import Json, digest_of, read_record
from harness.report import bins, diversity, gather, pictures
from harness.report.bins import Axis, Property, spearman
from harness.report.clusters import Cluster, clustered
from harness.report.coverage import ClassNames, TaskCoverage
from harness.report.diversity import WIDTHS_A_SAMPLE, Diversity
from harness.report.gather import Repeats, Rows, Sets
from harness.subset import Subset, combined
from harness.uid import Uids

_CLASSES = 5
"""Of fewer classes a correlation says nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to report on."""

    pool: Pool
    subset: Subset
    others: Mapping[str, Subset]
    """By name: subsets to compare with."""
    suite: Suite
    data_dir: Path | None
    """Folder of the suite's task sets, for the names of their classes."""
    run_dir: Path | None
    """Results of a model that was trained on the subset."""
    sample: int
    clusters: int
    pictures: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What two subsets share; each pair counts once."""

    name: str
    size: int
    shared: int
    expected: float
    """Shared pairs if the two were chosen independently."""
    jaccard: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One pair, to look at."""

    uid: str
    caption: str
    score: float | None
    kept: bool
    thumbnail: str | None
    """A data URI; None where the pool is not sealed."""


@dataclass(kw_only=True)
class Findings:
    """All that a report says."""

    settings: dict[str, int]
    """Sizes of what was looked at, and the seed."""
    inputs: dict[str, str]
    """Name of what the report was made from to its sha256 (hex)."""
    pool_size: int
    size: int
    distinct: int
    max_count: int
    repeats: dict[str, int]
    """How many pairs stand how often."""
    sets: tuple[str, ...]
    properties: list[Property] = field(default_factory=list)
    duplicates: list[Repeats] = field(default_factory=list)
    embeddings: str | None = None
    diversity: dict[str, Diversity] = field(default_factory=dict)
    coverage: list[TaskCoverage] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    score: str | None = None
    """The column that the border is taken from."""
    border: float | None = None
    """The score that would keep as many pairs as the subset holds."""
    grids: dict[str, list[Picture]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is left out, and why; models of others that were used."""

    @property
    def kept_share(self) -> float:
        """Share of the pool's pairs that the subset holds."""
        return self.distinct / self.pool_size

    @property
    def columns(self) -> list[str]:
        """The sets that tables have a column for."""
        return [name for name in self.sets if name != "kept"]

    def named(self, of: str) -> int:
        """How many classes of all tasks the captions of a set name at least once."""
        return sum(task.named(of) for task in self.coverage)

    def correlation(self, task: TaskCoverage) -> float | None:
        """Spearman's correlation of class frequency and class accuracy; None for a task of fewer than five classes."""
        points = task.points()
        return spearman(*np.array(points).T) if len(points) >= _CLASSES else None

    def payload(self) -> dict[str, Json]:
        """As the record holds it: everything but the thumbnails."""
        values: dict[str, Json] = _plain(vars(self))
        del values["inputs"]
        for prop, entry in zip(self.properties, values["properties"], strict=True):
            entry["kept_share"] = prop.kept_share
            entry["distance_to_pool"] = {name: prop.distance(name) for name in self.columns if name != "pool"}
        for task, entry in zip(self.coverage, values["coverage"], strict=True):
            entry["frequency_accuracy_spearman"] = self.correlation(task)
        for grid in values["grids"].values():
            for picture in grid:
                del picture["thumbnail"]
        return values


def _plain(value: Any) -> Any:
    """Data classes and tuples as JSON knows them."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def analyse(request: Request, scratch: Path) -> Findings:
    """The report of a subset; `scratch` is a folder that every worker reaches, made if it is not there.

    Raises ArtifactError if a subset holds uids that are not in the pool.
    """
    pool, subset = request.pool, request.subset
    for one in (subset, *request.others.values()):
        count, first = pool.strangers(one.uids)
        if count:
            raise ArtifactError(
                f"{one.name}: {count:,} of its {len(one):,} uids are not in the pool {pool.path}, the first is "
                f"{first}; give the pool that it was chosen from"
            )
    told = subset.describe()
    inputs = {"pool": pool.digest, "subset": subset.digest, "suite": request.suite.digest}
    found = Findings(
        settings={name: getattr(request, name) for name in ("sample", "clusters", "pictures", "seed")},
        inputs=inputs | {f"against {name}": other.digest for name, other in request.others.items()},
        pool_size=len(pool), size=len(subset), distinct=told["distinct"], max_count=told["max_count"],
        repeats=told["repeats"], sets=("pool", "kept", "subset", "random", *request.others),
    )  # fmt: skip
    rng = np.random.default_rng(request.seed)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=scratch) as folder:
        sets = _save_sets(request, found, rng, Path(folder))
        _count(request, found, sets)
        _look(request, found, sets, rng, Path(folder))
    found.overlaps = [overlap(subset, other, len(pool), name=name) for name, other in request.others.items()]
    return found


def _save_sets(request: Request, found: Findings, rng: np.random.Generator, folder: Path) -> Sets:
    everything = {"subset": request.subset.uids, "random": request.pool.sample(found.distinct, rng=rng)}
    everything |= {name: other.uids for name, other in request.others.items()}
    files = [folder / f"{number}.npy" for number in range(len(everything))]
    for file, uids in zip(files, everything.values(), strict=True):
        uid.save(file, uids)
    return Sets(names=found.sets, files=tuple(map(str, files)))


def _count(request: Request, found: Findings, sets: Sets) -> None:
    """What one pass over all pairs tells: properties, repeats, coverage."""
    pool, notes = request.pool, found.notes
    columns, captions = set(pool.columns), "text" in pool.columns
    scores = gather.score_columns(pool)
    axes = gather.score_axes(pool, scores)
    if not scores:
        notes.append("Scores are left out: the metadata have none; `python -m harness.score` makes them.")
    notes += [f"{name} is left out: no pair looked at has a number there." for name in scores if name not in axes]
    found.score = next((name for name in ("clip_l14_similarity_score", *axes) if name in axes), None)
    model = None
    if captions:
        axes["words"] = Axis(key="words", title="Words in the caption", edges=bins.WORDS)
        axes["characters"] = Axis(key="characters", title="Characters in the caption", edges=bins.CHARACTERS)
        identifier = language.fasttext()
        model = identifier.model
        notes.append(f"{identifier.remark[0].upper()}{identifier.remark[1:]}.")
    else:
        notes.append("Captions are left out: the metadata have no column text.")
    if {gather.WIDTH, gather.HEIGHT} <= columns:
        axes["side"] = Axis(key="side", title="Shorter side of the picture in pixels", edges=bins.PIXELS)
        axes["aspect"] = Axis(key="aspect", title="Width over height", edges=bins.ASPECTS)
    else:
        notes.append(f"Image sizes are left out: the metadata lack {gather.WIDTH} or {gather.HEIGHT}.")
    tasks = class_names(request, notes) if captions else {}
    if tasks:
        found.inputs["classes"] = digest_of(tasks)
    classes = ClassNames.of(name for names in tasks.values() for name in names) if tasks else None
    one_in = -(-found.pool_size // gather.KEYS)
    counts = gather.survey(pool, gather.Survey(
        sets=sets, axes=axes, captions=captions, model=model, classes=classes, one_in=one_in,
    ))  # fmt: skip
    found.properties = [prop for prop in counts.properties if prop.known]
    notes += [f"{prop.title} is left out: no pair has a value there." for prop in counts.properties if not prop.known]
    if any(sum(prop.counts["kept"]) > found.distinct for prop in found.properties):
        notes.append("Some uids stand in several rows of the metadata, and all rows are counted; seal the pool first.")
    if counts.captions is not None:
        found.duplicates.append(counts.captions)
    table = join(pool.sealed.seal_dir, "duplicates.parquet") if pool.sealed else ""
    if pool.sealed and os.path.exists(table):
        found.inputs["duplicates"] = sha256_file(table)
        found.duplicates += gather.pictures_repeated(pool, sets, table, one_in)
    else:
        notes.append("Repeated pictures are left out: `python -m harness.duplicates` finds them in a sealed pool.")
    recalls = class_accuracies(request, tasks, found.inputs) if request.run_dir else {}
    none = np.zeros(len(sets.names), dtype=np.int64)
    for key, names in tasks.items():
        by_set = np.stack([counts.classes.get(name, none) for name in names], axis=1)
        found.coverage.append(TaskCoverage(
            key=key, name=request.suite.tasks[key].name, classes=names, recalls=recalls.get(key),
            counts={name: tuple(row.tolist()) for name, row in zip(sets.names, by_set, strict=True) if name != "kept"},
        ))  # fmt: skip


def class_names(request: Request, notes: list[str]) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each task of the suite that has one list of them and whose folder is there."""
    if request.data_dir is None:
        notes.append(
            "Coverage of the tasks' classes is left out: eval.data_dir, the folder of the task sets, is not given."
        )
        return {}
    with_classes = [task for task in request.suite.tasks.values() if task.classes is not None]
    there = [task for task in with_classes if (request.data_dir / task.folder).is_dir()]
    if len(there) < len(with_classes):
        notes.append(
            f"Coverage: {len(with_classes) - len(there)} of {len(with_classes)} tasks with classes are not in "
            "eval.data_dir; `python -m harness.download_tasks` fetches them."
        )
    return {task.key: data.read_words(request.data_dir / task.folder, task).classnames for task in there}


def class_accuracies(
    request: Request, tasks: Mapping[str, Sequence[str]], inputs: dict[str, str]
) -> dict[str, tuple[float | None, ...]]:
    """Accuracy on each class of the tasks, by the stored predictions in run_dir; the mean over its seeds.

    Adds the evaluations to `inputs`.
    """
    folder = Path(str(request.run_dir))
    places = evaluations(folder)
    for number, place in enumerate(places):
        inputs[f"evaluation {number}"] = read_record(place / results.EVALUATION, "evaluation").digest
    found: dict[str, tuple[float | None, ...]] = {}
    for key in tasks:
        task = request.suite.tasks[key]
        seeds = [recalls for place in places if (recalls := _recalls(place, task)) is not None]
        if seeds:
            mean = np.mean(seeds, axis=0)
            found[key] = tuple(None if np.isnan(value) else float(value) for value in mean)
    return found


def _recalls(place: Path, task: Task) -> npt.NDArray[np.float64] | None:
    path = results.predictions_place(place, task)
    if not path.exists():
        return None
    _, columns = predictions.read(path)
    if "top" not in columns or task.classes is None:
        return None
    if max(columns["top"].max(), columns["target"].max()) >= task.classes:
        raise ArtifactError(f"{path}: names a class above {task.classes - 1}, which task {task.key} has not")
    return class_recalls(columns["top"][:, 0], columns["target"], task.classes)


def _look(request: Request, found: Findings, sets: Sets, rng: np.random.Generator, folder: Path) -> None:
    """What a bounded sample tells: diversity, clusters, pictures."""
    pool = request.pool
    n = min(request.sample, found.pool_size)
    samples = {"pool": pool.sample(n, rng=rng)}
    for name, file in zip(found.sets[2:], sets.files, strict=True):
        uids = uid.load(file)
        places = uid.starts(uids)  # each pair once, however often it stands there
        places = np.sort(rng.choice(places, size=min(n, len(places)), replace=False, shuffle=False))
        samples[name] = np.asarray(uids[places])
    found.embeddings = gather.embeddings(pool)
    every = uid.sort(np.concatenate(list(samples.values())))
    rows = gather.rows_of(
        pool, every[uid.starts(every)], folder, score=found.score, model=found.embeddings,
        captions="text" in pool.columns,
    )  # fmt: skip
    kept = uid.find(request.subset.uids, rows.uids) >= 0
    of_pool, of_subset = (rows.find(samples[name]) for name in ("pool", found.sets[2]))
    if rows.images is None or rows.texts is None:
        found.notes.append(
            "Diversity and clusters are left out: not every metadata file has embeddings; "
            "`python -m harness.score` makes them."
        )
    else:
        there = diversity.there(rows.images) & diversity.there(rows.texts)
        if not there.all():
            found.notes.append(
                f"{np.count_nonzero(~there):,} of the {len(there):,} pairs looked at lack an embedding; diversity is "
                "without them."
            )
        embedded = {name: rows.find(uids) for name, uids in samples.items()}
        embedded = {name: places[there[places]] for name, places in embedded.items()}
        # As many of each, as a larger sample has more to differ in; a set to compare with may have fewer.
        size = min((len(embedded[name]) for name in ("pool", "subset", "random") if len(embedded[name])), default=0)
        for name, places in embedded.items():
            chosen = np.sort(rng.permutation(places)[:size])
            found.diversity[name] = Diversity.of(rows.images[chosen], rows.texts[chosen])
        if small := [name for name, one in found.diversity.items() if one.pairs < size]:
            found.notes.append(
                f"Diversity of {', '.join(small)} is that of fewer than {size:,} pairs, which have less to differ in."
            )
        if small := [name for name, one in found.diversity.items() if one.schur is None]:
            found.notes.append(
                f"Schur-complement entropy is left out of {', '.join(small)}: the sample is of less than "
                f"{WIDTHS_A_SAMPLE} pairs for each dimension of the embeddings."
            )
        found.clusters = clustered(
            rows.images[of_pool], [rows.captions[row] for row in of_pool.tolist()], kept[of_pool],
            clusters=request.clusters, seed=request.seed,
        )  # fmt: skip
    if request.pictures:
        _choose_pictures(request, found, rows, kept, of_pool, np.unique(of_subset), rng)


def _choose_pictures(
    request: Request, found: Findings, rows: Rows, kept: npt.NDArray[np.bool_], of_pool: npt.NDArray[np.int64],
    of_subset: npt.NDArray[np.int64], rng: np.random.Generator,
) -> None:  # fmt: skip
    def some(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.sort(rng.permutation(places)[: request.pictures])

    chosen = {"kept": some(of_subset), "dropped": some(of_pool[~kept[of_pool]])}
    if found.score is not None and found.distinct < found.pool_size:
        # The score of the last pair that a subset of this size keeps, at 0-based index distinct - 1.
        border = request.pool.threshold(found.score, keep=(found.distinct - 0.5) / found.pool_size)
        found.border = _finite(border)
        if found.border is None:
            found.notes.append(f"The border is left out: fewer pairs have a {found.score} than are kept.")
    if found.border is not None:
        away = np.abs(rows.scores[of_pool] - found.border)
        near = of_pool[np.argsort(away, kind="stable")[: request.pictures]]
        chosen["border"] = near[np.argsort(-rows.scores[near], kind="stable")]
    sealed = request.pool.sealed
    if sealed is None:
        found.notes.append(
            "Pictures are left out: the pool is not sealed; `python -m harness.pool seal` makes them readable."
        )
    wanted: Uids = rows.uids[np.unique(np.concatenate(list(chosen.values())))]
    thumbnails = pictures.thumbnails(sealed, wanted) if sealed is not None else {}
    for name, places in chosen.items():
        hexes = uid.to_hex(rows.uids[places])
        found.grids[name] = [
            Picture(
                uid=hexed, caption=rows.shown[row], score=_finite(rows.scores[row]), kept=bool(kept[row]),
                thumbnail=thumbnails.get(hexed),
            )
            for hexed, row in zip(hexes, places.tolist(), strict=True)
        ]  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def overlap(subset: Subset, other: Subset, pool_size: int, *, name: str) -> Overlap:
    """What two subsets of a pool of `pool_size` pairs share; neither needs to fit memory."""
    shared = sum(len(uid.starts(piece)) for piece in combined(subset, other, "intersection"))
    return Overlap(
        name=name, size=other.distinct, shared=shared, expected=subset.distinct * other.distinct / pool_size,
        jaccard=shared / (subset.distinct + other.distinct - shared),
    )  # fmt: skip
