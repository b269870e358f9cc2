"""What a report reads of a pool: one pass that counts every pair, one that fetches a bounded sample of them.

Memory: one metadata file a worker, one small table of counts a file, at most KEYS keys of captions or pictures, and
the sampled rows.
"""

import hashlib
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import language, order, uid
from harness.errors import ArtifactError
from harness.files import join, list_files, open_file
from harness.pool import reading
from harness.pool.view import Pool
from harness.report import bins
from harness.report.bins import Axis, Property
from harness.report.coverage import ClassNames
from harness.uid import Uids

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

KEYS = 1 << 24
"""Captions or pictures looked at for repeats; of larger pools one in so many, chosen by content with all its copies."""
WIDTH, HEIGHT = "original_width", "original_height"
LONGEST = 300
"""Characters of a caption that are kept of a sampled pair."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a page must not hold, and line breaks."""
_PROBE = 2000
_BATCH = 1 << 17
_OPEN = 16
"""Files that are opened at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sets:
    """The sets of pairs that a report compares. The first four: pool, kept (the subset, each pair once), subset,
    random (as many different pairs at random)."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    """Uid files of all but the first two; any process can read them."""

    def weights(self, uids: Uids) -> Ints:
        """How often (S, N) each of `uids` (N,) stands in each set."""
        counts = [order.count(uid.load(file), uids) for file in self.files]
        return np.stack([np.ones(len(uids), dtype=np.int64), counts[0] > 0, *counts])


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """How many pairs of each set repeat something of an earlier pair of the set. Copies of one pair do not count."""

    what: str
    one_in: int
    """1: exact; else estimated from one in so many."""
    pairs: dict[str, int]
    repeated: dict[str, int]

    def share(self, name: str) -> float:
        """Share of the set's different pairs that repeat."""
        return self.repeated[name] / self.pairs[name] if self.pairs[name] else 0.0


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What to count of every pair."""

    sets: Sets
    axes: Mapping[str, Axis]
    """By column; the columns of captions and sizes stand for several: see `_values`."""
    captions: bool
    model: str | None
    """Language model, see harness.language."""
    classes: ClassNames | None
    one_in: int

    @property
    def columns(self) -> list[str]:
        """The metadata columns that are read."""
        sizes = [WIDTH, HEIGHT] if "side" in self.axes else []
        scores = [key for key in self.axes if key not in _DERIVED]
        return ["uid", *(["text"] if self.captions else []), *sizes, *scores]

    def count(self, table: Any) -> dict[str, Any]:
        """The counts of one metadata file."""
        weights = self.sets.weights(uid.from_hex(table["uid"].to_pylist()))
        texts: list[str] = table["text"].to_pylist() if self.captions else []
        found: dict[str, Any] = {
            key: axis.count(_values(key, table, texts), weights) for key, axis in self.axes.items()
        }
        if self.model is not None:
            found["language"] = _by_value(language.languages(texts, self.model), weights)
        if self.classes is not None:
            found["classes"] = self.classes.count(texts, weights)
        if self.captions:
            keys = np.fromiter(map(_key, texts), np.uint64, len(texts))
            found["keys"] = _chosen(keys, weights, self.one_in)
        return found


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a survey found."""

    properties: list[Property]
    captions: Repeats | None
    classes: Mapping[str, Ints]
    """Captions (S,) that name each class."""


def survey(pool: Pool, what: Survey) -> Counts:
    """Count every visible pair of the pool."""
    parts = pool.map(what.count, columns=what.columns, name="count")
    names, size = what.sets.names, len(what.sets.names)
    properties = [
        bins.of_axis(axis, names, sum((part[key] for part in parts), np.zeros((size, len(axis.edges) + 1), np.int64)))
        for key, axis in what.axes.items()
    ]
    if what.model is not None:
        total: dict[str, Ints] = defaultdict(lambda: np.zeros(size, dtype=np.int64))
        for part in parts:
            for value, counts in part["language"].items():
                total[value or "none"] += counts
        properties.append(bins.of_names("language", "Language of the caption", names, total))
    classes: dict[str, Ints] = {}
    if what.classes is not None:
        named = sum((part["classes"] for part in parts), np.zeros((size, len(what.classes.names)), np.int64))
        classes = dict(zip(what.classes.names, named.T, strict=True))
    captions = None
    if what.captions:
        captions = _repeats("captions", what.sets, [part["keys"] for part in parts], what.one_in)
    return Counts(properties=properties, captions=captions, classes=classes)


_DERIVED: dict[str, Callable[[Any, list[str]], Array]] = {
    "words": lambda _, texts: np.fromiter((len(text.split()) for text in texts), np.float64, len(texts)),
    "characters": lambda _, texts: np.fromiter(map(len, texts), np.float64, len(texts)),
    "side": lambda table, _: np.minimum(*_sizes(table)),
    "aspect": lambda table, _: np.divide(*_sizes(table)),
}


def _values(key: str, table: Any, texts: list[str]) -> Array:
    """Values (N,) of a property; NaN where it is not known."""
    return _DERIVED[key](table, texts) if key in _DERIVED else _numbers(table, key)


def _numbers(table: Any, column: str) -> Array:
    return np.asarray(pc.cast(table[column], pa.float64()).to_numpy(), dtype=np.float64)


def _sizes(table: Any) -> tuple[Array, Array]:
    """Widths and heights (N,) in pixels; NaN where one is not above 0."""
    sizes = [_numbers(table, column) for column in (WIDTH, HEIGHT)]
    known = (sizes[0] > 0) & (sizes[1] > 0)
    return np.where(known, sizes[0], np.nan), np.where(known, sizes[1], np.nan)


def _by_value(values: Sequence[str], weights: Ints) -> dict[str, Ints]:
    names, places = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    counts = np.rint([np.bincount(places, weights=weight, minlength=len(names)) for weight in weights]).astype(np.int64)
    return dict(zip(names.tolist(), counts.T, strict=True))


def _key(text: str) -> int:
    """64 bits of a caption: two of a hundred million share theirs once in a thousand runs."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _chosen(keys: Keys, weights: Ints, one_in: int) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """The keys (n,) that are looked at, and in which sets (S, n) they stand."""
    chosen = keys % np.uint64(one_in) == 0
    return keys[chosen], weights[:, chosen] > 0


def _repeats(what: str, sets: Sets, parts: Sequence[tuple[Keys, npt.NDArray[np.bool_]]], one_in: int) -> Repeats:
    keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in parts)])
    inside = np.concatenate([np.empty((len(sets.names), 0), np.bool_), *(member for _, member in parts)], axis=1)
    members = {name: keys[row] for name, row in zip(sets.names, inside, strict=True) if name != "kept"}
    return Repeats(
        what=what, one_in=one_in, pairs={name: len(found) for name, found in members.items()},
        repeated={name: bins.repeats(found) for name, found in members.items()},
    )  # fmt: skip


def pictures_repeated(pool: Pool, sets: Sets, path: str, one_in: int) -> list[Repeats]:
    """Repeated pictures, exact and near, from the table that harness.duplicates makes; read in batches."""
    parts: dict[str, list[Any]] = {"exact": [], "near": []}
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(_BATCH, columns=["uid", *parts]):
                uids = uid.from_hex(batch["uid"].to_pylist())
                there = pool.contains(uids)
                weights = sets.weights(uids[there])
                for column, found in parts.items():
                    first = uid.from_hex(batch[column].to_pylist())[there]
                    found.append(_chosen(_mixed(first), weights, one_in))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a table of duplicates ({error}); make it again with `python -m harness.duplicates`"
        ) from error
    titles = {"exact": "pictures, the same file", "near": "pictures, nearly the same"}
    return [_repeats(titles[column], sets, found, one_in) for column, found in parts.items()]


def _mixed(uids: Uids) -> Keys:
    """64 bits of each uid (N,)."""
    return np.asarray(uids["f0"] ^ (uids["f1"] * np.uint64(0x9E3779B97F4A7C15)))


def score_columns(pool: Pool) -> list[str]:
    """The metadata's own columns of floating-point numbers, those named like a property of the report left out."""
    schema = reading.open_parquet(pool.files[0]).schema_arrow
    taken = {*_DERIVED, WIDTH, HEIGHT, "language", "classes", "keys"}
    own = {field.name for field in schema if pa.types.is_floating(field.type)} - taken
    return [name for name in pool.columns if name in own]


def score_axes(pool: Pool, columns: Sequence[str]) -> dict[str, Axis]:
    """An axis for each score that has a value, its bins by a sample of every file."""
    if not columns:
        return {}
    probes = pool.map(_Probe(tuple(columns)), columns=list(columns), name="scores")
    found = {column: bins.score_edges(np.concatenate([part[column] for part in probes])) for column in columns}
    return {key: Axis(key=key, title=key, edges=edges) for key, edges in found.items() if edges is not None}


@dataclass(frozen=True)
class _Probe:
    columns: tuple[str, ...]

    def __call__(self, table: Any) -> dict[str, Array]:
        rows = np.linspace(0, table.num_rows - 1, min(_PROBE, table.num_rows)).astype(np.int64)
        return {column: _numbers(table, column)[rows] for column in self.columns}


def embeddings(pool: Pool) -> str | None:
    """Which embeddings every metadata file has beside it: l14 before b32 before others; None if there are none."""
    there = {os.path.basename(path) for path in list_files(join(pool.path, "metadata"), ".npz")}
    if any(os.path.basename(path).removesuffix(".parquet") + ".npz" not in there for path in pool.files):
        return None
    with ThreadPoolExecutor(_OPEN) as threads:  # which wait for the storage
        names = set.intersection(*threads.map(_arrays, (f"{path.removesuffix('.parquet')}.npz" for path in pool.files)))
    models = sorted(name.removesuffix("_img") for name in names if name.endswith("_img"))
    whole = [model for model in models if f"{model}_txt" in names]
    return next((model for model in ("l14", "b32", *whole) if model in whole), None)


def _arrays(path: str) -> set[str]:
    """Names of the arrays in an npz file."""
    with open_file(path) as file:
        try:
            return {name.removesuffix(".npy") for name in zipfile.ZipFile(file).namelist()}
        except zipfile.BadZipFile as error:
            raise ArtifactError(f"{path}: not a readable npz file: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some pairs of a pool, with what is known about each."""

    uids: Uids
    """(n,) sorted, each once."""
    captions: list[str]
    scores: Array
    """(n,), NaN where there is none."""
    images: Array | None
    """(n, D) embeddings of the pictures."""
    texts: Array | None
    """(n, D) of the captions."""

    def find(self, uids: Uids) -> Ints:
        """Rows (m,) of `uids` (m,), all of which are here."""
        return uid.find(self.uids, uids)

    @cached_property
    def shown(self) -> list[str]:
        """Captions cut to what a page can show, control characters as spaces."""
        cut = (text if len(text) < LONGEST else text[: LONGEST - 1] + "…" for text in self.captions)
        return [_CONTROL.sub(" ", text) for text in cut]


def rows_of(pool: Pool, uids: Uids, scratch: Path, *, score: str | None, model: str | None, captions: bool) -> Rows:
    """The rows of the sorted `uids` (n,), each once, from one pass over the metadata."""
    wanted = scratch / "wanted.npy"
    uid.save(wanted, uids)
    columns = ["uid", *(["text"] if captions else []), *([score] if score else [])]
    features = [f"{model}_img", f"{model}_txt"] if model else []
    parts = pool.map(_Taker(str(wanted), score), columns=columns, features=features, name="sample")
    found = np.concatenate([np.empty(0, uid.UID_DTYPE), *(part["uids"] for part in parts)])
    by_uid = uid.argsort(found)
    by_uid = by_uid[uid.starts(found[by_uid])]  # a uid may stand in several rows of an unsealed pool
    texts = [text for part in parts for text in part["captions"]]
    scores = np.concatenate([np.empty(0), *(part["scores"] for part in parts)])
    arrays = [np.concatenate([part[name] for part in parts])[by_uid] if parts else None for name in features]
    return Rows(
        uids=found[by_uid], captions=[texts[row] for row in by_uid.tolist()], scores=scores[by_uid],
        images=arrays[0] if arrays else None, texts=arrays[1] if arrays else None,
    )  # fmt: skip


@dataclass(frozen=True)
class _Taker:
    wanted: str
    score: str | None

    def __call__(self, table: Any, features: Mapping[str, Array] | None = None) -> dict[str, Any]:
        uids = uid.from_hex(table["uid"].to_pylist())
        rows = np.flatnonzero(uid.find(uid.load(self.wanted), uids) >= 0)
        chosen = table.take(pa.array(rows))
        texts = chosen["text"].to_pylist() if "text" in chosen.column_names else [""] * len(rows)
        scores = _numbers(chosen, self.score) if self.score else np.full(len(rows), np.nan)
        return {"uids": uids[rows], "captions": texts, "scores": scores} | {
            name: np.asarray(array[rows]) for name, array in (features or {}).items()
        }
