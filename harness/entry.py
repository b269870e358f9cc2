"""From run directories to a leaderboard entry: `python -m harness.entry pack RUN_DIR [RUN_DIR …] --out DIR`.

An entry is one uid file trained with one or more seeds. Its folder:

    entry.json                     record of kind "entry": what people read, and the digest of everything below
    subset.json  pool/pool.json    what was chosen, and from which sealed pool
    realised.npy                   one bit a uid of the full pool's sorted uid list: is it in the sealed pool?
    bootstrap.npy                  aggregates under resampled test samples, for ranks with intervals
    data-card.md                   how the data were chosen, by people for people
    pool/SOURCE/pool.json          of the byod track: each sealed pool whose union pool/pool.json is
    seed-N/config.json  seed-N/train/{train,ledger}.json  seed-N/eval/{evaluation,TASK}.json
    uids.npy  seed-N/eval/predictions/TASK.parquet                        in the folder at tiny, by URL above it
    pool/{uids,shards}.npy  seed-N/train/checkpoint.safetensors           always elsewhere (but pool/ of byod at tiny)

Above realised.IN_FOLDER bytes (scales large and xlarge) realised.npy stands elsewhere too.

`entry.json` is written last. Its `inputs` name every other file: records by record digest, the rest by sha256.
"""

import argparse
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import bootstrap, byod, cli, files, npy, realised, uid
from harness.config import validated
from harness.entry_schema import (
    About,
    Aggregate,
    Elsewhere,
    EntryPayload,
    PoolSummary,
    SeedSummary,
    Source,
    SubsetSummary,
    TaskScore,
    load_entry,
)
from harness.errors import ArtifactError, ConfigError
from harness.eval import predictions
from harness.eval import suite as suites
from harness.finished import Run, check_files, check_siblings, read_run
from harness.pool import union
from harness.pool.sealed import SealedPool, read_pool_record
from harness.provenance import provenance
from harness.records import Record, read_record, write_record
from harness.weights import WEIGHTS

__all__ = ["load_entry", "read_run", "sources_of", "write_entry"]

IN_FOLDER_SCALES = ("tiny",)
"""Scales whose uid files and predictions are small enough to stand in the entry's folder."""
PRIVATE = ("pool", "settings", "sources")
"""What a record's provenance says of places on the machine; no digest covers it, and no entry carries it."""
POOL_FILES = ("uids.npy", "shards.npy")
PARTS = r"(entry|subset)\.json|(uids|realised|bootstrap)\.npy|data-card\.md|pool|seed-[0-9]+|\..*\.tmp"
"""Names in an entry's folder, and of what killed commands of earlier versions left there."""


def write_entry(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    *,
    about: About | None = None,
    card: str | Path | None = None,
    pool: str | Path | None = None,
    pool_list: str | Path | None = None,
) -> Record:
    """Write the entry of finished runs of one uid file, one a seed, into the folder `out`; its record.

    `card` is a data card in Markdown, `pool` the folder of pool.json (default: where the run found it), `pool_list`
    the sorted uids of the full pool (npy; default above tiny: those of the pool's metadata). An entry of the same
    runs and words that is there already stays as it is, another one is replaced as a whole.
    Raises ArtifactError for a run that is not finished, ConfigError for runs that do not belong in one entry.
    """
    folder = Path(out)
    runs = sorted((read_run(Path(run)) for run in run_dirs), key=lambda run: run.seed)
    check_siblings(runs)
    sealed = _sealed(runs[0], pool)
    about = _of_track(about or About(name=_default_name(runs[0])), runs[0])
    sources = sources_of(runs, pool) | ({"data-card.md": Path(card)} if card is not None else {})
    inputs = _records(runs, sealed) | {name: files.sha256_file(path) for name, path in sources.items()}
    old = _finished(folder, inputs, about)
    if old is not None:
        return old

    for run in runs:
        check_files(run, weights=inputs[f"seed-{run.seed}/train/{WEIGHTS}"])
    _check_place(folder)
    with files.atomic_folder(folder) as draft:
        return _write(draft, runs, sealed, about, inputs, sources, pool_list)


def _write(
    folder: Path,
    runs: Sequence[Run],
    sealed: SealedPool,
    about: About,
    inputs: dict[str, str],
    sources: Mapping[str, Path],
    pool_list: str | Path | None,
) -> Record:
    """Write the entry into the empty `folder`; `inputs` are the digests of what is not made here."""
    for name, path in _copied(runs, sealed, sources).items():
        if name.endswith(".json"):
            record = read_record(path)
            write_record(folder / name, record.model_copy(update={"provenance": _public(record)}))
            continue
        with files.atomic_path(folder / name) as temporary:
            shutil.copyfile(path, temporary)
    replicates = _replicates(runs)
    if replicates:
        inputs["bootstrap.npy"] = _save(folder / "bootstrap.npy", bootstrap.aggregate(runs[0].suite, replicates))
    listed: dict[str, Any] = {}
    full = realised.full_list(runs[0], sealed, pool_list)
    elsewhere = {name: path for name, path in sources.items() if not _in_folder(name, runs[0])}
    if full is not None:
        listed = {"listed": len(full), "listed_uids": uid.digest(full)}
        bits = realised.bitmap(full, sealed)
        place = folder / "realised.npy"
        if bits.nbytes > realised.IN_FOLDER:
            place = elsewhere["realised.npy"] = realised.elsewhere(runs[0])
        inputs["realised.npy"] = _save(place, bits)
    payload = EntryPayload(
        about=about,
        scale=runs[0].config.payload["scale"]["name"],
        suite=runs[0].suite.name,
        unofficial=runs[0].config.payload["unofficial"],
        method=runs[0].config.payload["method"],
        pool=PoolSummary(
            digest=sealed.digest,
            samples=len(sealed),
            left_out=read_pool_record(sealed.seal_dir).payload["left_out"]["count"],
            sources=_sources(runs[0], sealed),
            **listed,
        ),
        subset=_subset_summary(runs[0]),
        runs=[
            SeedSummary(
                seed=run.seed,
                samples_seen=run.train.payload["samples_seen"],
                checkpoint=run.train.payload["checkpoint"],
                ledger=run.train.payload["ledger"],
            )
            for run in runs
        ],
        tasks=[
            _task_score(task, runs, replicates.get(task.key))
            for task in runs[0].suite.tasks.values()
            if all(task.key in run.tasks for run in runs)
        ],
        missing=[key for key in runs[0].suite.tasks if not all(key in run.tasks for run in runs)],
        aggregates=_aggregates(runs),
        elsewhere={name: Elsewhere(bytes=path.stat().st_size) for name, path in elsewhere.items()},
    )
    record = Record(
        kind="entry",
        inputs=inputs,
        payload=payload.model_dump(),
        provenance=provenance(
            selection=_public(runs[0].subset),
            training=[_public(run.train) for run in runs],
            evaluation=[_public(run.evaluation) for run in runs],
        ),
    )
    write_record(folder / "entry.json", record)
    return record


def _check_place(folder: Path) -> None:
    """ConfigError if something else than an entry would be lost by writing one into `folder`."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    other = [name for name in there if not re.fullmatch(PARTS, name)]
    if there and ("entry.json" not in there or other):
        raise ConfigError(f"{folder}: holds {(other or there)[0]} and is no entry; choose another folder or empty it")


def _of_track(about: About, run: Run) -> About:
    """`about` with the track that the run belongs to; ConfigError if it states that pairs come from the pool alone."""
    if not _mixed(run) or about.track == "byod":
        return about
    if "track" in about.model_fields_set:
        raise ConfigError(f"--track={about.track}: {run.folder} was trained on byod folders as well; leave it out")
    return about.model_copy(update={"track": "byod"})


def _mixed(run: Run) -> bool:
    """True for a run on the union of several sources."""
    return "sources" in run.subset.payload


def _sources(run: Run, sealed: SealedPool) -> list[Source]:
    digests = read_pool_record(sealed.seal_dir).inputs
    return [
        Source(name=name, digest=digests[name], samples=len(uids), weight=run.subset.payload["sources"][name])
        for name, uids in union.parts(sealed).items()
    ]


def _default_name(run: Run) -> str:
    method = run.config.payload["method"]
    if method is None:
        return "byod" if _mixed(run) else "uid file"
    words = [str(method.get("target") or method["name"])]
    words += [f"{key} {value}" for key, value in sorted(method["params"].items()) if value is not None]
    name = " ".join(words)
    # A name is one line of characters that can be seen; a parameter may hold others.
    return (name if name.isprintable() else ascii(name)[1:-1])[:120]


def _sealed(run: Run, pool: str | Path | None) -> SealedPool:
    """The pool that the run was trained on: in the folder `pool`, or where the run found it."""
    sealed = byod.trained_on(run.folder, run.train.provenance, pool)
    if sealed.digest != run.train.inputs["pool"]:
        raise ArtifactError(
            f"{sealed.seal_dir}: not the sealed pool that {run.folder} was trained on; name its folder with --pool"
        )
    return sealed


def _records(runs: Sequence[Run], sealed: SealedPool) -> dict[str, str]:
    """Path in the entry to digest, of every record."""
    shared = {"subset.json": runs[0].subset.digest, "pool/pool.json": sealed.digest}
    shared |= {path: read_record(file, "pool").digest for path, file in _source_records(sealed).items()}
    return shared | {f"seed-{run.seed}/{path}": digest for run in runs for path, digest in run.files.items()}


def _source_records(sealed: SealedPool) -> dict[str, Path]:
    """Path in the entry to the record of each source of a union."""
    return {f"pool/{name}/pool.json": Path(sealed.seal_dir) / name / "pool.json" for name in union.parts(sealed)}


def sources_of(runs: Sequence[Run], pool: str | Path | None = None) -> dict[str, Path]:
    """Path in the entry to where it lies now, of every file of the runs and their pool that is not a record."""
    sealed = _sealed(runs[0], pool)
    found = {"uids.npy": runs[0].folder / "uids.npy"}
    found |= {f"pool/{name}": Path(sealed.seal_dir) / name for name in POOL_FILES}
    for run in runs:
        found[f"seed-{run.seed}/train/{WEIGHTS}"] = run.folder / "train" / WEIGHTS
        found |= {f"seed-{run.seed}/eval/predictions/{path.name}": path for path in run.predictions.values()}
    return found


def _in_folder(name: str, run: Run) -> bool:
    if name.endswith(".safetensors") or (name.startswith("pool/") and not _mixed(run)):
        return False
    return name == "data-card.md" or run.config.payload["scale"]["name"] in IN_FOLDER_SCALES


def _copied(runs: Sequence[Run], sealed: SealedPool, sources: Mapping[str, Path]) -> dict[str, Path]:
    """Path in the entry to the file that is copied there."""
    found = {"subset.json": runs[0].folder / "subset.json", "pool/pool.json": Path(sealed.seal_dir) / "pool.json"}
    found |= _source_records(sealed)
    found |= {f"seed-{run.seed}/{path}": run.folder / path for run in runs for path in run.files}
    return found | {name: path for name, path in sources.items() if _in_folder(name, runs[0])}


def _finished(folder: Path, inputs: Mapping[str, str], about: About) -> Record | None:
    """The entry in `folder` if it was written from these inputs and words."""
    if not (folder / "entry.json").exists():
        return None
    try:
        entry = load_entry(folder)
    except ArtifactError:
        return None
    made_here = {"bootstrap.npy", "realised.npy"}
    same = {name: digest for name, digest in entry.record.inputs.items() if name not in made_here} == dict(inputs)
    return entry.record if same and entry.payload.about == about else None


def _public(record: Record) -> dict[str, Any]:
    """The provenance of `record` without folders of the machine that made it."""
    return {name: value for name, value in record.provenance.items() if name not in PRIVATE}


def _save(path: Path, array: npt.NDArray[Any]) -> str:
    """Write `array` as npy, atomically; the sha256 (hex) of the file."""
    npy.save(path, array)
    return files.sha256_file(path)


def _subset_summary(run: Run) -> SubsetSummary:
    payload = run.subset.payload
    return SubsetSummary(
        uids=payload["uids"],
        size=payload["size"],
        distinct=payload["distinct"],
        max_count=payload["max_count"],
        mean_repeats=round(run.config.payload["scale"]["samples_seen"] / payload["size"], 6),
    )


def _replicates(runs: Sequence[Run]) -> dict[str, npt.NDArray[np.float64]]:
    """Replicates (S, B) of every scored task by key; empty if a task is missing."""
    if any(task.key not in run.tasks for run in runs for task in run.suite.scored):
        return {}
    return {
        task.key: bootstrap.task_replicates(task, [predictions.read(run.predictions[task.key])[1] for run in runs])
        for task in runs[0].suite.scored
    }


def _score(run: Run, task: suites.Task) -> float | None:
    record = run.tasks.get(task.key)
    return None if record is None else record.payload["score"]


def _task_score(task: suites.Task, runs: Sequence[Run], replicates: npt.NDArray[np.float64] | None) -> TaskScore:
    seeds = [_score(run, task) for run in runs]
    mean = _mean(seeds)
    low, high = (
        (None, None) if mean is None or replicates is None else bootstrap.interval(replicates.mean(axis=0), mean)
    )
    return TaskScore(
        key=task.key,
        metric=task.main_metric,
        score=mean,
        low=low,
        high=high,
        seeds=seeds,
        samples=runs[0].tasks[task.key].payload["samples"],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _aggregates(runs: Sequence[Run]) -> dict[Any, Aggregate]:
    by_seed = [run.suite.aggregate({task.key: _score(run, task) for task in run.suite.scored}) for run in runs]
    found = {}
    for name in suites.AGGREGATES:
        seeds = [values[name] for values in by_seed]
        mean = _mean(seeds)
        known = [value for value in seeds if value is not None]
        std = None if mean is None or len(seeds) < 2 else statistics.stdev(known)
        found[name] = Aggregate(mean=mean, std=std, seeds=seeds)
    return found


def command(argv: list[str]) -> None:
    """`pack` run directories into an entry, or `publish` an entry's large files on the hub."""
    parser = argparse.ArgumentParser(prog="python -m harness.entry", description=command.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="write an entry from finished runs of one uid file")
    pack.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    pack.add_argument("--out", required=True, help="folder of the entry, e.g. leaderboard/entries/tiny/my-filter")
    pack.add_argument("--name", required=True, help="name of the method on the board")
    pack.add_argument("--authors", default="", help="comma-separated")
    pack.add_argument("--link", help="http(s) address of a paper or of code")
    pack.add_argument("--description", default="", help="what the method does, in a few sentences")
    pack.add_argument("--track", choices=("filtering", "byod"), help="default: what the runs belong to")
    pack.add_argument("--external-data", action="append", default=[], help="data outside the pool that were used")
    pack.add_argument("--external-model", action="append", default=[], help="a model that was used")
    pack.add_argument("--card", help="data card in Markdown (docs/data-card-template.md)")
    pack.add_argument("--pool", help="folder of pool.json; default: where the run found it")
    pack.add_argument(
        "--pool-list", help="npy file of the full pool's sorted uids, for the bitmap of what was realised"
    )
    publish = commands.add_parser("publish", help="upload an entry's large files to the hub and write their addresses")
    publish.add_argument("entry", metavar="ENTRY_DIR")
    publish.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    publish.add_argument("--repo", required=True, help="owner/name of a data set repository on the hub")
    publish.add_argument("--pool", help="folder of pool.json; default: where the run found it")
    options = parser.parse_args(argv)
    if options.command == "publish":
        from harness.publish import publish as upload

        upload(options.entry, options.run_dirs, repo=options.repo, pool=options.pool)
        return
    values = {
        "name": options.name,
        "authors": [a.strip() for a in options.authors.split(",") if a.strip()],
        "link": options.link,
        "description": options.description,
        "external_data": options.external_data,
        "external_models": options.external_model,
    } | ({"track": options.track} if options.track else {})
    record = write_entry(
        options.run_dirs,
        options.out,
        about=validated(About, values, prefix="--"),
        card=options.card,
        pool=options.pool,
        pool_list=options.pool_list,
    )
    sys.stdout.write(f"{Path(options.out) / 'entry.json'}  {record.digest}\n")


if __name__ == "__main__":
    cli.main(command)
