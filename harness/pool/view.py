"""The pool as methods see it: metadata and embeddings, read-only, never more than one file per worker in memory."""

import hashlib
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from harness import executor as executors
from harness import uid
from harness.errors import ArtifactError, MethodError
from harness.executor import Executor, LocalExecutor
from harness.files import join, list_files, open_file, stamp
from harness.pool import asked, per_file, reading, scanning
from harness.pool import features as npz
from harness.pool.drawing import draw
from harness.pool.keeping import gathered, identity, resumable
from harness.pool.masks import Masks
from harness.pool.ranking import nth_largest
from harness.pool.reading import MetadataFile, Ranges, stretches
from harness.pool.sealed import SealedPool
from harness.uid import Uids

CHUNK = 1 << 17
"""File rows that `filter` hands to a function at once."""
INLINE_ROWS = 200_000
"""Pools up to this size are worked on in this process: starting workers takes longer."""

Array = npt.NDArray[Any]


class Pool:
    """A read-only view of a pool in CommonPool's layout: `<path>/metadata/*.parquet` with `.npz` beside them.

    `path` may be local or a URL that fsspec opens. Of a sealed pool only the realised pairs are visible, without
    those held out. Rows keep the order of the files (by name) and of the rows in them. Arrays of uids that a pool
    gives are read-only.
    """

    def __init__(self, path: str, *, sealed: SealedPool | None, holdout: int, executor: Executor) -> None:
        self.path = path
        self.sealed = sealed
        self.executor = executor
        self._holdout = uid.sort(sealed.uids[sealed.holdout(holdout)]) if sealed and holdout else uid.from_hex([])
        self._scratch: Path | None = None
        self._passes: Counter[str] = Counter()
        self._arrays = 0
        self._given: weakref.WeakValueDictionary[int, Uids] = weakref.WeakValueDictionary()
        self.files = list_files(join(path, "metadata"), ".parquet")
        if not self.files:
            raise ArtifactError(f"{join(path, 'metadata')}: no parquet file; pool.path is the folder above metadata/")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        sealed: SealedPool | None = None,
        holdout: int = 0,
        executor: Executor | None = None,
    ) -> "Pool":
        """The pool in the folder `path`. Raises ArtifactError if it has no metadata."""
        return cls(str(path), sealed=sealed, holdout=holdout, executor=executor or executors.local())

    def resuming(self, scratch: Path) -> "Pool":
        """This pool, keeping what each pass over it has finished in `scratch`, for the same passes of a later run."""
        other = Pool.__new__(Pool)
        other.__dict__.update(self.__dict__)
        other._scratch, other._passes, other._arrays = scratch, Counter(), 0
        return other

    def __reduce__(self) -> NoReturn:
        raise executors.left_behind("`pool`", "ask it before, and let the function use the answer")

    def __len__(self) -> int:
        return sum(file.count for file in self._files)

    def count(self) -> int:
        """Number of visible rows."""
        return len(self)

    @cached_property
    def columns(self) -> list[str]:
        """Names of the metadata columns that every file has, with those of `harness.duplicates` where they are."""
        names = [
            list(dict.fromkeys(name for path in (file.path, file.beside) if path for name in reading.columns_of(path)))
            for file in self._plain_files
        ]
        return [name for name in names[0] if all(name in other for other in names)]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) that names the pool: the sealed pool's, else one of the metadata's file names and rows."""
        if self.sealed is not None:
            return self.sealed.digest
        state = hashlib.sha256()
        for file in self._plain_files:
            state.update(f"{file.path.rsplit('/', 1)[-1]} {file.rows}\n".encode())
        return state.hexdigest()

    @cached_property
    def state(self) -> str:
        """sha256 (hex) of what this pool's answers hang on, to tell whether a result still holds on this machine.

        Beside `digest` these are the metadata, embeddings and targets as they lie there now, and how many pairs are
        held out.
        """
        places = ("metadata",), ("targets",), ("targets", "trusted", "metadata")
        files = [
            path
            for place in places
            for suffix in (".parquet", ".npz", ".txt")
            for path in list_files(join(self.path, *place), suffix)
        ]
        state = hashlib.sha256(f"{self.digest} {len(self._holdout)}\n".encode())
        for path in [*files, *self._more]:
            state.update(f"{path.rsplit('/', 1)[-1]} {stamp(path)}\n".encode())
        return state.hexdigest()

    def map(
        self,
        fn: Callable[..., Any],
        *,
        columns: Sequence[str] = (),
        features: Sequence[str] = (),
        rows: int | None = None,
        name: str = "map",
    ) -> list[Any]:
        """`fn(table)`, or `fn(table, features)`, for every metadata file, in parallel; the results in pool order.

        `table` is a pyarrow table of `columns`, one chunk a column, null captions as "". `features` are names of
        embeddings (b32_img, b32_txt, l14_img, l14_txt); `fn` then gets a dict of arrays (rows, width) in the same
        row order. With `rows`, files are cut into stretches of at most that many rows, one result each. Stretches
        without a visible row are left out.

        Raises ArtifactError naming the file where a column or an embedding is missing, MethodError where `fn` raises,
        an argument is of another type, or `rows` is not a whole number from 1.
        """
        if rows is not None:
            rows = asked.whole("map", "rows", rows, least=1)
        what = {"columns": asked.names("map", "columns", columns), "features": asked.names("map", "features", features)}
        work = partial(per_file.map_file, fn, what | {"rows": rows})
        return [result for part in self._pass(work, name=name) for result in part]

    def filter(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        columns: Sequence[str] = (),
        features: Sequence[str] = (),
        within: Ranges | None = None,
        name: str = "filter",
    ) -> Uids:
        """Sorted uids of the rows that are `within` the ranges and where `fn(table[, features])` is true.

        `fn` gets stretches of at most 131,072 file rows as in `map` and returns one boolean a row; True = keep.
        `within` maps a column of numbers to (least, greatest), both included, None for open; rows outside never
        reach `fn`, and row groups that cannot hold one inside are not read. Limits are rounded to the column's own
        precision; NaN and null are outside. One of `fn` and `within` may be left out.
        """
        columns, features = asked.names("filter", "columns", columns), asked.names("filter", "features", features)
        within = asked.ranges("filter", "within", within)
        what = {"columns": ["uid", *columns], "features": features, "within": within, "rows": CHUNK}
        work = partial(per_file.filter_file, fn, what) if fn else partial(per_file.scan_uids, within)
        parts = (part[0] for part in self._pass(work, name=name, threads=fn is None))
        return self._gathered(parts)

    def uids(self) -> Uids:
        """Sorted uids of all visible rows; one that stands in several rows stands as often here."""
        return self.filter(name="uids")

    def threshold(self, column: str, *, keep: float) -> float:
        """The value that the reference cuts `column` at to keep the fraction `keep` of the pool: keep rows >= it.

        It is the element at 0-based index int(n * keep) of the n values in descending order, NaN and null last; so
        more than int(n * keep) rows pass, with all ties. keep=1 gives -inf. (DataComp, baselines/apply_filter.py)
        """
        asked.fraction("threshold", "keep", keep)
        if keep == 1:
            return -np.inf
        return nth_largest(partial(self._visit, column), int(len(self) * keep))

    def _visit(self, column: str, fn: Callable[[Array], Any]) -> list[Any]:
        """fn(values) of every file's `column`."""
        work = partial(per_file.visit_file, column, fn)
        return [result for part in self._pass(work, name=column, threads=True) for result in part]

    def sample(self, n: int, *, rng: np.random.Generator) -> Uids:
        """Sorted uids of `n` different visible rows, every choice of rows equally likely; all of them if n >= count.

        Raises MethodError if `n` is not a whole number from 0.
        """
        n, total = asked.whole("sample", "n", n, least=0), len(self)
        return self.take(draw(total, min(n, total), rng))

    def take(self, rows: npt.NDArray[np.int64]) -> Uids:
        """Sorted uids of the visible rows at the places `rows` (n,), 0-based and ascending in the order of `map`.

        Raises MethodError if `rows` are not that: all different, each above the one before it, none beyond the pool.
        """
        rows = asked.rows("take", "rows", rows)
        counts = [file.count for file in self._files]
        borders = np.concatenate([[0], np.cumsum(counts)])
        if len(rows) and (rows[0] < 0 or rows[-1] >= borders[-1] or (rows[1:] <= rows[:-1]).any()):
            raise MethodError(f"pool.take: rows must ascend from 0 to {borders[-1] - 1} at most, none of them twice")
        cuts = np.searchsorted(rows, borders)
        picks = [rows[cuts[i] : cuts[i + 1]] - borders[i] for i in range(len(counts))]
        items = list(zip(self._files, picks, strict=True))
        return self._gathered(
            self.executor.stream(
                partial(per_file.pick_rows, CHUNK), items, name="uids", unit="rows", weights=counts, threads=True
            )
        )

    def features(self, name: str) -> Iterator[Array]:
        """The embeddings `name` of all visible rows in pool order, as arrays (at most 131,072 rows, width)."""
        for file in self._files:
            for stretch in stretches(file, features=(name,), rows=CHUNK):
                yield stretch.features[name]

    def targets(self, name: str) -> dict[str, Array]:
        """The arrays of `<path>/targets/<name>.npz`: what is offered to methods beside the pool, such as a train split.

        `train` holds b32_img and l14_img (rows, width) and label (rows,) where the pool's maker offers them.
        """
        path = join(self.path, "targets", f"{name}.npz")
        # np.load would take an npy file, too.
        with open_file(path) as file, npz.reading(path), np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def target_texts(self) -> list[str]:
        """The lines of `<path>/targets/texts.txt`: captions like those that evaluation wants."""
        with open_file(join(self.path, "targets", "texts.txt")) as file:
            return str(file.read().decode(errors="replace")).splitlines()

    def trusted(self) -> "Pool":
        """The small pool of right pairs in `<path>/targets/trusted`, if this one offers it."""
        return Pool.open(join(self.path, "targets", "trusted"), executor=self.executor)

    def contains(self, uids: Uids) -> npt.NDArray[np.bool_]:
        """Which of `uids` (N,) are visible, (N,)."""
        inside = uid.find(self._realised, uids) >= 0
        if len(self._holdout):
            inside &= uid.find(self._holdout, uids) < 0
        return inside

    def strangers(self, uids: Uids) -> tuple[int, str]:
        """How many of the sorted `uids` (N,) are not visible here, and the first of them in hex."""
        count, first = 0, ""
        for part in uid.blocks(uids):
            outside = np.flatnonzero(~self.contains(part))
            if len(outside) and not count:
                first = uid.to_hex(part[outside[:1]])[0]
            count += len(outside)
        return count, first

    def gave(self, uids: Uids) -> bool:
        """True if `uids` is, unchanged, an array that this pool has given."""
        return self._given.get(id(uids)) is uids and not uids.flags.writeable

    @cached_property
    def _realised(self) -> Uids:
        return self.uids() if self.sealed is None else self.sealed.sorted_uids()

    def _gathered(self, parts: Iterable[Uids]) -> Uids:
        self._arrays += 1
        folder = None if self._scratch is None else self._scratch / f"uids-{self._arrays}"
        uids = gathered(parts, folder)
        self._given[id(uids)] = uids
        return uids

    def _pass(
        self, work: Callable[[MetadataFile], list[Any]], *, name: str, threads: bool = False
    ) -> Iterator[list[Any]]:
        """work(file) of every file. Without `threads` (a method's own function) what is finished is kept."""
        files = self._files
        rows = [file.rows for file in files]
        executor = self.executor
        if sum(rows) <= INLINE_ROWS:
            executor = executors.local(1)
        elif self._scratch is not None and not threads:
            work = self._resumed(work, self._scratch)
        if not threads:
            work = executors.carried(work)
        return executor.stream(work, files, name=name, unit="rows", weights=rows, threads=threads)

    def _resumed(self, work: Callable[[MetadataFile], list[Any]], scratch: Path) -> Callable[[MetadataFile], list[Any]]:
        """`work` that takes from `scratch` what an earlier run of the method finished in the same pass."""
        # A method may leave out passes whose outcome it finds in its scratch folder, so passes are told apart by
        # what they do, and by their number only where they do the same.
        known = identity(work)
        if known is None:
            return work
        self._passes[known] += 1
        return partial(resumable, str(scratch / f"{known[:16]}-{self._passes[known]}"), work)

    @cached_property
    def _plain_files(self) -> list[MetadataFile]:
        more = {os.path.basename(path): path for path in self._more}
        return self.executor.map(partial(_opened, more), self.files, name="metadata", threads=True)

    @cached_property
    def _more(self) -> list[str]:
        """The files of `harness.duplicates`, if it was run on this sealed pool."""
        return list_files(self.sealed.duplicates_dir, ".parquet") if self.sealed else []

    @cached_property
    def _files(self) -> list[MetadataFile]:
        files = self._masked_files()
        if self.sealed is not None:
            reading.require_rows(self.path, files, len(self.sealed) - len(self._holdout))
        return files

    def _masked_files(self) -> list[MetadataFile]:
        """The metadata files with their masks; no masks where all rows are visible."""
        if self.sealed is None:
            return self._plain_files
        rows = [file.rows for file in self._plain_files]
        masks = Masks(self.sealed, len(self._holdout))
        if not all(map(masks.kept, self._plain_files)):
            _ = self._realised
        work = partial(masks.masked, self._visible)
        # Threads of this process, whatever the executor: the sorted uids would be too much to ship to each worker.
        here = self.executor if isinstance(self.executor, LocalExecutor) else executors.local()
        return here.map(work, self._plain_files, name="realised", unit="rows", weights=rows, threads=True)

    def _visible(self, file: MetadataFile) -> npt.NDArray[np.bool_]:
        return self.contains(scanning.uids(file, {}))


def _opened(beside: dict[str, str], path: str) -> MetadataFile:
    with reading.open_parquet(path) as parquet:
        return MetadataFile(path, parquet.metadata.num_rows, beside=beside.get(path.rsplit("/", 1)[-1]))
