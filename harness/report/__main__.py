"""A page that explains a subset, and the same as a record.

    python -m harness.report pool.path=DIR subset=FILE.npy out=DIR [against=FILE.npy | against=[A.npy,B.npy]]
        [eval.data_dir=DIR] [run_dir=DIR]

Writes out/index.html, which needs nothing else, and out/report.json. What the pool or the arguments do not offer
(scores, embeddings, pictures, class names, results) is left out, and the page says so.
"""

import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from harness import cli, executor
from harness.compare import evaluations
from harness.errors import ArtifactError, ConfigError
from harness.eval import results
from harness.eval import suite as suites
from harness.files import is_remote, write_bytes
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.provenance import provenance
from harness.records import Record, StrictModel, read_record, write_record
from harness.report.analysis import Request, analyse
from harness.report.page import render
from harness.subset import Subset
from harness.tiny import cache as tiny

PAGE, REPORT = "index.html", "report.json"
OWN = ("pool", "kept", "subset", "random")
"""Names of the sets that every report has."""


class _PoolAt(StrictModel):
    path: str | None = Field(default=None, min_length=1, description="the pool's folder; the generated one by default")
    seal_dir: str | None = None


class _EvalAt(StrictModel):
    data_dir: str | None = Field(default=None, description="folder of the task sets, for the names of their classes")
    suite: str | None = Field(default=None, description="the suite that they are of; v1, or that of run_dir")


class Settings(StrictModel):
    """Explain a subset: a page and a record."""

    pool: _PoolAt = _PoolAt()
    subset: str = Field(description="the uid file")
    out: str = Field(description="the folder to write index.html and report.json to")
    against: tuple[str, ...] = Field(default=(), description="uid files to compare with, FILE or [FILE,FILE]")
    run_dir: str | None = Field(default=None, description="run folder or entry of a model trained on the subset")
    eval: _EvalAt = _EvalAt()
    sample: int = Field(default=16384, ge=2, description="pairs of each set whose embeddings are looked at")
    clusters: int = Field(default=64, ge=2, description="clusters in the treemap")
    pictures: int = Field(default=24, ge=0, le=200, description="pictures in each grid; 0 for none")
    seed: int = Field(default=0, ge=0)
    executor: Literal["local", "ray"] = "local"

    @field_validator("against", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def open_pool(path: str, seal_dir: str | None, workers: executor.Executor) -> Pool:
    """The pool, with its pictures where it is sealed."""
    beside = not is_remote(path) and Path(path, "pool.json").exists()  # a seal is always in a local folder
    sealed = SealedPool.open(path, seal_dir) if seal_dir is not None or beside else None
    return Pool.open(path, sealed=sealed, executor=workers)


def name_of(path: str) -> str:
    """What a uid file is called on the page: its name, or its folder's where the name says nothing."""
    file = Path(path).absolute()
    return file.parent.name if file.stem == "uids" else file.stem


def _others(paths: tuple[str, ...]) -> dict[str, Subset]:
    found: dict[str, Subset] = {}
    for path in paths:
        name = name_of(path)
        names = (name, *(f"{name} ({number})" for number in range(2, len(paths) + len(OWN) + 2)))
        found[next(name for name in names if name not in found and name not in OWN)] = Subset.load(path)
    return found


def _suite(settings: Settings) -> suites.Suite:
    """The suite that is named, that of the results, or v1."""
    of_results = None
    if settings.run_dir is not None:
        place = evaluations(Path(settings.run_dir))[0]
        of_results = read_record(place / results.EVALUATION, "evaluation").payload["suite"]
    wanted = settings.eval.suite or of_results or ("tiny" if settings.pool.path is None else "v1")
    if of_results not in (None, wanted):
        raise ConfigError(f"setting eval.suite: {wanted}, but {settings.run_dir} was evaluated on {of_results}")
    return suites.load(wanted)


def _check(settings: Settings, subset: Subset) -> None:
    """ConfigError for results of another subset, or a folder with files of these names that are no report's."""
    for place in evaluations(Path(settings.run_dir)) if settings.run_dir is not None else []:
        record = place.parent / "train" / "train.json"
        if record.exists() and read_record(record, "train").inputs.get("subset") != subset.digest:
            raise ConfigError(f"setting run_dir: {settings.run_dir} was trained on another subset than {subset.name}")
    out = Path(settings.out)
    for name in (PAGE, REPORT):
        if (out / name).exists():
            try:
                read_record(out / REPORT, "report")
            except ArtifactError as error:
                raise ConfigError(
                    f"setting out: {out / name} is there and no report's; choose another folder"
                ) from error


def command(argv: list[str]) -> None:
    """Write the report."""
    settings = cli.settings(argv, Settings)
    started = time.monotonic()
    subset, others, suite = Subset.load(settings.subset), _others(settings.against), _suite(settings)
    _check(settings, subset)
    data_dir = tiny.tasks_dir() if suite.name == "tiny" and tiny.tasks_dir().exists() else None
    if settings.eval.data_dir is not None:
        data_dir = tiny.find_tasks(suite.name, settings.eval.data_dir)
    workers = executor.get(settings.executor)
    pool = open_pool(settings.pool.path or tiny.ensure_pool(), settings.pool.seal_dir, workers)
    out = Path(settings.out)
    found = analyse(
        Request(
            pool=pool, subset=subset, others=others, suite=suite,
            data_dir=data_dir,
            run_dir=Path(settings.run_dir) if settings.run_dir else None,
            sample=settings.sample, clusters=settings.clusters, pictures=settings.pictures, seed=settings.seed,
        ),
        out.absolute(),
    )  # fmt: skip
    page = render(found, title=name_of(settings.subset)).encode()
    report = Record(
        kind="report", inputs=found.inputs, payload=found.payload(),
        provenance=provenance(seconds=time.monotonic() - started),
    )  # fmt: skip
    write_record(out / REPORT, report)  # first: a page without a record is taken for somebody else's
    write_bytes(out / PAGE, page)
    sys.stdout.write(f"{out / PAGE}: {found.distinct:,} of {found.pool_size:,} pairs, digest {report.digest}\n")


if __name__ == "__main__":
    cli.main(command)
