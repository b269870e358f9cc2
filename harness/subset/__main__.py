"""Subsets on the command line.

python -m harness.subset info subset=FILE                    size, distinct uids, counts, digest
python -m harness.subset check subset=FILE pool.path=DIR     is it sorted, and are all its uids in the pool?
python -m harness.subset union a=FILE b=FILE out=FILE        every uid of either (intersect, diff likewise)
python -m harness.subset intersect … counts=a                the uids of both, as often as in a
python -m harness.subset convert path=FILE out=FILE          npy, raw, parquet, csv or a list of hex, sorted
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness import cli, executor, uid
from harness.config import PoolAt
from harness.errors import ArtifactError, ConfigError, unknown_name
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.records import StrictModel, read_record
from harness.subset import Subset, combined, kept_of
from harness.subset.convert import Format, read
from harness.uid import Uids


class _Info(StrictModel):
    """What a subset holds."""

    subset: str


class _Pool(PoolAt):
    holdout: int = Field(default=0, ge=0)


class _Check(StrictModel):
    """Check a uid file by itself and against a pool (the sealed one, where it is sealed)."""

    subset: str
    pool: _Pool


class _Combine(StrictModel):
    """Combine two uid files; neither need fit memory."""

    a: str
    b: str
    out: str


class _Intersect(_Combine):
    counts: Literal["least", "a"] = Field(
        default="least",
        description="how often a uid stands that both have: as where it stands less often, or as in a",
    )


class _Convert(StrictModel):
    """Write the uids of a file, sorted, as a uid file; repeats stay. The file need not fit memory."""

    path: str
    out: str
    format: Format | None = None
    column: str = Field(default="uid", description="the column of a csv or parquet file")
    repeats: Literal["keep", "drop"] = "keep"


def _info(argv: list[str]) -> None:
    subset = Subset.load(cli.settings(argv, _Info).subset)
    sys.stdout.write(json.dumps(subset.describe(), indent=1) + "\n")


def _check(argv: list[str]) -> None:
    settings = cli.settings(argv, _Check)
    subset = Subset.load(settings.subset)
    count, first = check(subset, settings.pool)
    if count:
        raise ArtifactError(
            f"{settings.subset}: {count:,} of {len(subset):,} uids are not in the pool {settings.pool.path}, "
            f"the first is {first}"
        )
    sys.stdout.write(f"{settings.subset}: {len(subset):,} uids, sorted, all of them in {settings.pool.path}\n")


def check(subset: Subset, at: _Pool) -> tuple[int, str]:
    """How many uids of `subset` are not in the pool, and the first of them in hex."""
    plain = at.seal_dir is None and not at.holdout and not Path(at.path, "pool.json").exists()
    sealed = None if plain else SealedPool.open(at.path, at.seal_dir)
    pool = Pool.open(at.path, sealed=sealed, holdout=at.holdout, executor=executor.local())
    with tempfile.TemporaryDirectory() as scratch:
        return pool.resuming(Path(scratch)).strangers(subset.uids)


def _require_own(out: str) -> None:
    """ConfigError if `out` is the choice of a method: its record beside it would tell of other uids then."""
    record = Path(out).with_suffix(".json")
    try:
        read_record(record, "subset")
    except ArtifactError:
        return  # none, or something else
    raise ConfigError(f"setting out: {out} is a method's choice, told of in {record}; choose another name")


def _combine(rule: str) -> Callable[[list[str]], None]:
    def command(argv: list[str]) -> None:
        settings = cli.settings(argv, _Combine)
        _require_own(settings.out)
        pieces = combined(Subset.load(settings.a), Subset.load(settings.b), rule)
        total = uid.save_pieces(settings.out, _some(pieces, f"{rule} of {settings.a} and {settings.b}"))
        sys.stdout.write(f"{settings.out}: {total:,} uids\n")

    return command


def _intersect(argv: list[str]) -> None:
    settings = cli.settings(argv, _Intersect)
    _require_own(settings.out)
    a, b = Subset.load(settings.a), Subset.load(settings.b)
    pieces = combined(a, b, "within" if settings.counts == "a" else "intersection")
    uid.save_pieces(settings.out, _some(pieces, f"intersection of {settings.a} and {settings.b}"))
    sys.stdout.write(f"{settings.out}: {kept_of(a, Subset.load(settings.out))} of {settings.a}\n")


def _convert(argv: list[str]) -> None:
    settings = cli.settings(argv, _Convert)
    _require_own(settings.out)
    pieces = _some(read(settings.path, format=settings.format, column=settings.column), settings.path)
    total = uid.sort_to_file(pieces, settings.out, distinct=settings.repeats == "drop")
    sys.stdout.write(f"{settings.out}: {total:,} uids\n")


def _some(pieces: Iterator[Uids], name: str) -> Iterator[Uids]:
    """`pieces`; ArtifactError at their end if no uid was in them."""
    total = 0
    for piece in pieces:
        total += len(piece)
        yield piece
    if not total:
        raise ArtifactError(f"{name}: holds no uid; a subset needs at least one, so nothing was written")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "info": _info,
    "check": _check,
    "union": _combine("union"),
    "intersect": _intersect,
    "diff": _combine("difference"),
    "convert": _convert,
}


def command(argv: list[str]) -> None:
    """Run the command that the first argument names."""
    cli.offer_help(argv[:1] or ["--help"], __doc__)
    if argv[0] not in COMMANDS:
        raise ConfigError(unknown_name("command", argv[0], COMMANDS))
    COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    cli.main(command)
