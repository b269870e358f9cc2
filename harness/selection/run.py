"""Running a method on a pool, and taking a ready uid file: both give uids.npy and subset.json."""

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.config import MethodConfig, Scale
from harness.errors import ArtifactError, ConfigError, HarnessError, MethodError, machines_fault
from harness.executor import Executor
from harness.files import is_remote, lock, stamp
from harness.pool.keeping import scratch_of
from harness.pool.view import Pool
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, digest_of, read_record, write_record
from harness.selection import plugins
from harness.selection.context import SelectionContext
from harness.selection.plugins import Method
from harness.subset import Subset, kept_of
from harness.uid import UID_DTYPE, Uids

METADATA_ONLY = "Chosen from the metadata alone: which pictures are there was not known."
"""Remark in the record of a choice from a pool that is not sealed."""
MAX_SIZE = 1 << 40
"""Uids that a subset can hold, repeats counted: 16 TB."""


def select(method: Method, config: MethodConfig, *, pool: Pool, scale: Scale, out: Path, executor: Executor) -> Subset:
    """The subset that `method` chooses from `pool`; its uid file and, last, its record are written to `out`.

    `out` is a folder (uids.npy, subset.json), or the uid file itself (FILE.npy, with FILE.json beside it). A finished
    selection with the same method, source, parameters, seed and pool (in the same state) is taken as it is.
    Raises ConfigError before any work if a parameter does not fit, MethodError if the function raises or returns
    something that is not a subset of the pool, InfraError if another process is choosing for `out`, or if the disk or
    the memory is full.
    """
    params = plugins.bind(method, config.params)
    plain = plugins.recorded(method, params)
    settings = {"name": config.name, "target": config.target, "seed": config.seed, "params": plain}
    given = {name: _state(value) for name, value in plain.items()}
    given = {name: state for name, state in given.items() if state}
    source = plugins.source_digest(method, params)
    work = digest_of({"method": settings, "source": source, "files": given, "pool": pool.state})
    place = Place.of(out)
    done = finished(place, work)
    if done is not None:
        return done
    if not len(pool):
        raise ArtifactError(f"{pool.path}: there is no pair to choose from")
    started = time.monotonic()
    with lock(place.scratch), _unless_empty(place.scratch):
        scratch = scratch_of(place.scratch, work)
        ctx = SelectionContext(
            rng=np.random.default_rng(config.seed),
            scale=scale,
            samples_seen=scale.samples_seen,
            scratch=scratch,
            executor=executor,
            remarks=[] if pool.sealed is not None else [METADATA_ONLY],
        )
        pool = pool.resuming(scratch / "pool")
        subset = checked(call(method, pool, ctx, params), pool=pool, name=method.name)
        inputs = {"pool": pool.digest}
        subset.save(place.uids)
        more = {"method": settings, "remarks": ctx.remarks}
        write_record(place.record, record_of(subset, inputs, more, work=work, seconds=time.monotonic() - started))
        shutil.rmtree(place.scratch, ignore_errors=True)
    return Subset.load(place.uids)


@contextmanager
def _unless_empty(folder: Path) -> Iterator[None]:
    """Removes `folder` after an error if nothing lies in it that a later run could go on from."""
    try:
        yield
    except BaseException:
        if not any(path.is_file() and path.name != ".lock" for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _state(value: Any) -> Any:
    """Stamps of the files and folders of a pool that a parameter names, in lists and mappings too; empty if none."""
    if isinstance(value, list | tuple):
        return [state for state in map(_state, value) if state]
    if isinstance(value, dict):
        return {str(key): state for key, part in value.items() if (state := _state(part))}
    if not isinstance(value, str) or not (is_remote(value) or os.path.exists(value)):
        return ""
    try:
        return Pool.open(value).state if os.path.isdir(value) else stamp(value)
    except HarnessError:  # no pool, or no file: whatever the method makes of it
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a selection is written."""

    uids: Path
    record: Path
    scratch: Path

    @classmethod
    def of(cls, out: Path) -> Self:
        """In the folder `out`, or at the uid file itself; ConfigError if that would write over something else."""
        if out.suffix == ".npy":
            if out.name == "uids.npy" and (out.parent / "config.json").exists():
                raise ConfigError(f"setting out: {out} is the uid file of the run in {out.parent}; choose another file")
            record = out.with_suffix(".json")
            if record.exists():
                try:
                    read_record(record, "subset")
                except ArtifactError as error:
                    raise ConfigError(
                        f"setting out: {record}, where the record of {out.name} goes, is there and none of a "
                        "selection; choose another name"
                    ) from error
            elif out.exists():
                try:
                    uid.load(out)
                except ArtifactError as error:
                    raise ConfigError(f"setting out: {out} is there and no uid file; choose another name") from error
            return cls(uids=out, record=record, scratch=out.with_name(f".{out.stem}.scratch"))
        return cls(uids=out / "uids.npy", record=out / "subset.json", scratch=out / "scratch")


def adopt(path: str, *, pool: Pool, out: Path, intersect: bool = False) -> Subset:
    """The subset in the uid file `path`, checked against `pool`; copied to out/uids.npy, with its out/subset.json.

    With `intersect` uids outside the pool are left out, the others stand as often as before, and the record says what
    was lost. Raises ArtifactError if the file is not sorted, not of dtype u8,u8, empty, or names uids outside the pool
    (with `intersect`: no uid inside).
    """
    given = Subset.load(path)
    work = digest_of({"subset": given.digest, "pool": pool.state, **({"intersect": True} if intersect else {})})
    place = Place.of(out)
    done = finished(place, work)
    if done is not None:
        return done
    if not is_remote(path) and place.uids.exists() and place.uids.samefile(path):
        raise ConfigError(f"setting subset: {path} is where the result goes, too; choose another place for that")
    unknown, first = pool.strangers(given.uids)
    if unknown and (not intersect or unknown == len(given)):
        raise ArtifactError(
            f"{path}: {unknown} of {len(given)} uids are not in the pool {pool.path}, the first is {first}"
            + ("" if intersect else "; with intersect=true they are left out, and the loss is reported")
        )
    uid.save_pieces(place.uids, (part[pool.contains(part)] if unknown else part for part in uid.blocks(given.uids)))
    subset = Subset.load(place.uids)
    more: dict[str, Any] = {"method": None, "remarks": list[str]()}
    if intersect:
        lost = {"size": len(given) - len(subset), "distinct": given.distinct - subset.distinct}
        requested = {"size": len(given), "distinct": given.distinct}
        more["intersected"] = {"subset": given.digest, "requested": requested, "lost": lost}
        say(f"{path}: {kept_of(given, subset)}")
    write_record(place.record, record_of(subset, {"pool": pool.digest}, more, work=work, seconds=None))
    return subset


def call(method: Method, pool: Pool, ctx: SelectionContext, params: dict[str, Any]) -> Any:
    """What the method's function returns.

    An exception in it comes out as MethodError with its traceback as note, as InfraError if disk or memory are full.
    """
    try:
        return method.function(pool, ctx=ctx, **params)
    except MethodError as error:
        raise _named(method, str(error), error) from error
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit(0) of a method is no success of the command
        wrapped = machines_fault(error, ctx.scratch) or _named(method, f"raised {type(error).__name__}: {error}", error)
        wrapped.add_note("".join(traceback.format_exception(error)))
        raise wrapped from error


def _named(method: Method, text: str, error: BaseException) -> MethodError:
    wrapped = MethodError(f"method {method.name}: {text}")
    for note in getattr(error, "__notes__", []):
        wrapped.add_note(note)
    return wrapped


def checked(answer: Any, *, pool: Pool, name: str) -> Subset:
    """The answer of a method as a subset of `pool`: uids, (uids, counts) or a Subset.

    Raises MethodError that says what is wrong, which uid is the first and how many there are.
    """
    if isinstance(answer, Subset):
        uids, counts = answer.uids, None
    else:
        uids, counts = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(uids, np.ndarray) or uids.dtype != UID_DTYPE or uids.ndim != 1:
        raise MethodError(
            f"method {name} returned {_described(answer)}; it must return an array of uids (one-dimensional, dtype "
            "u8,u8, as pool.filter gives), or (uids, counts)"
        )
    if counts is not None:
        counts = _checked_counts(counts, uids, name)
    if not len(uids) or (counts is not None and not counts.any()):
        raise MethodError(f"method {name} chose nothing; a subset needs at least one uid")
    if uid.is_sorted(uids):
        subset = Subset(uids if counts is None else np.repeat(uids, counts))
    else:
        subset = Subset.of(uids, counts)
    unknown, first = (0, "") if pool.gave(uids) else pool.strangers(subset.uids)
    if unknown:
        raise MethodError(f"method {name} returned {unknown} uids that are not in the pool, the first is {first}")
    return subset


def _checked_counts(counts: Any, uids: Uids, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(counts)
    if array.shape != uids.shape or array.dtype.kind not in "iu":
        raise MethodError(
            f"method {name} returned counts of dtype {array.dtype} and shape {array.shape}; it must be one whole "
            f"number for each of the {len(uids)} uids"
        )
    if len(array) and int(array.min()) < 0:
        raise MethodError(f"method {name} returned a negative count ({int(array.min())}) in row {int(array.argmin())}")
    # Unsigned counts that fell below zero are huge.
    if (total := float(array.sum(dtype=np.float64))) > MAX_SIZE:
        raise MethodError(
            f"method {name} returned counts that add up to {total:.3g}, the largest ({int(array.max())}) in row "
            f"{int(array.argmax())}; a subset holds at most {MAX_SIZE:.3g}"
        )
    return array.astype(np.int64)


def _described(answer: Any) -> str:
    if isinstance(answer, np.ndarray):
        return f"an array of dtype {answer.dtype} and shape {answer.shape}"
    if answer is None:
        return "None"
    return f"a {type(answer).__name__}"


def finished(place: Place, work: str) -> Subset | None:
    """The subset of an earlier run that did the same work, if it is whole."""
    try:
        record = read_record(place.record, "subset")
        subset = Subset.load(place.uids)
    except ArtifactError:
        return None
    if record.provenance.get("work") != work or record.payload["uids"] != subset.digest:
        return None
    say(f"{place.uids}: already chosen")
    return subset


def record_of(
    subset: Subset, inputs: dict[str, str], more: dict[str, Any], *, work: str, seconds: float | None
) -> Record:
    """The record of a subset; `work` is a digest of what it was made from, for `finished`.

    `seconds` is what the choice took, None where that is not known: of a ready uid file.
    """
    payload = {
        "uids": subset.digest,
        "size": len(subset),
        "distinct": subset.distinct,
        "max_count": subset.max_count,
        **more,
    }
    return Record(kind="subset", inputs=inputs, payload=payload, provenance=provenance(seconds=seconds, work=work))
