"""A finished run directory: its records, read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import uid
from harness.errors import ArtifactError, ConfigError
from harness.eval import suite as suites
from harness.records import Record, read_record
from harness.weights import WEIGHTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The records of one run directory."""

    folder: Path
    config: Record
    subset: Record
    train: Record
    ledger: Record
    evaluation: Record
    suite: suites.Suite
    tasks: dict[str, Record]
    """By task key; a task without a result is missing."""

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.config.payload["seed"])

    @property
    def files(self) -> dict[str, str]:
        """Path in the run directory to digest, of every record that belongs in an entry."""
        records = {
            "config.json": self.config,
            "train/train.json": self.train,
            "train/ledger.json": self.ledger,
            "eval/evaluation.json": self.evaluation,
        }
        tasks = {f"eval/{self.suite.tasks[key].slug}.json": record for key, record in self.tasks.items()}
        return {path: record.digest for path, record in (records | tasks).items()}

    @property
    def predictions(self) -> dict[str, Path]:
        """Task key to its predictions' file."""
        folder = self.folder / "eval" / "predictions"
        return {key: folder / f"{self.suite.tasks[key].slug}.parquet" for key in self.tasks}


def links(
    *, subset: Record, config: Record, train: Record, ledger: Record, evaluation: Record, tasks: Mapping[str, Record]
) -> list[tuple[str, str, Any, Any]]:
    """The chain of a run: file in its folder, what it names, the digest it states, and that of the thing itself.

    `tasks` are by slug. A link holds if both digests are the same and not None.
    """
    pool, uids, weights = subset.inputs.get("pool"), subset.payload.get("uids"), train.payload.get("checkpoint")
    return [
        ("config.json", "pool", config.inputs.get("pool"), pool),
        ("train/train.json", "pool", train.inputs.get("pool"), pool),
        ("train/train.json", "subset", train.inputs.get("subset"), uids),
        ("train/ledger.json", "pool", ledger.inputs.get("pool"), pool),
        ("train/ledger.json", "subset", ledger.inputs.get("subset"), uids),
        ("train/train.json", "ledger", train.payload.get("ledger"), ledger.payload.get("digest")),
        ("eval/evaluation.json", "checkpoint", evaluation.inputs.get("checkpoint"), weights),
        *(
            (f"eval/{slug}.json", "checkpoint", record.inputs.get("checkpoint"), weights)
            for slug, record in tasks.items()
        ),
    ]


def read_run(folder: Path) -> Run:
    """The records of a finished run; ArtifactError that names the one that is missing, damaged or of another run."""
    config = read_record(folder / "config.json", "config")
    suite = suites.load(config.payload["suite"])
    paths = {task.key: folder / "eval" / f"{task.slug}.json" for task in suite.tasks.values()}
    run = Run(
        folder=folder,
        config=config,
        subset=read_record(folder / "subset.json", "subset"),
        train=read_record(folder / "train" / "train.json", "train"),
        ledger=read_record(folder / "train" / "ledger.json", "ledger"),
        evaluation=read_record(folder / "eval" / "evaluation.json", "evaluation"),
        suite=suite,
        tasks={key: read_record(path, "task") for key, path in paths.items() if path.exists()},
    )
    _check_chain(run)
    return run


def _check_chain(run: Run) -> None:
    seed = run.config.payload["seed"]
    tasks = {run.suite.tasks[key].slug: record for key, record in run.tasks.items()}
    chain = links(
        subset=run.subset, config=run.config, train=run.train, ledger=run.ledger, evaluation=run.evaluation, tasks=tasks
    )
    chain += [("train/train.json", "seed", run.train.payload.get("seed"), seed)]
    for file, what, stated, true in chain:
        if stated != true or true is None:
            raise ArtifactError(
                f"{run.folder / file}: its {what} is not that of this run, so the folder mixes several; "
                "run again with a run_dir of its own"
            )


def check_files(run: Run, *, weights: str) -> None:
    """ArtifactError unless uid file and checkpoint (sha256 `weights`) are those that the records speak of."""
    uids, checkpoint = run.folder / "uids.npy", run.folder / "train" / WEIGHTS
    if uid.digest(uid.load(uids)) != run.subset.payload["uids"]:
        raise ArtifactError(f"{uids}: is not the file of subset.json beside it; run again with a run_dir of its own")
    if weights != run.train.payload["checkpoint"]:
        raise ArtifactError(
            f"{checkpoint}: is not the file of train.json beside it; run again with a run_dir of its own"
        )


def check_siblings(runs: Sequence[Run]) -> None:
    """ConfigError unless the runs differ in their training seed only."""
    if not runs:
        raise ConfigError("pack: name at least one run directory")
    first = runs[0]
    for run in runs[1:]:
        if run.subset.payload["uids"] != first.subset.payload["uids"]:
            raise ConfigError(f"{run.folder}: was trained on other uids than {first.folder}; an entry has one uid file")
        for name, value in first.config.payload.items():
            if name != "seed" and run.config.payload.get(name) != value:
                raise ConfigError(
                    f"{run.folder}: setting {name} differs from {first.folder}; an entry differs in seeds only"
                )
        if run.config.inputs.get("pool") != first.config.inputs.get("pool"):
            raise ConfigError(f"{run.folder}: was trained on another pool than {first.folder}")
    seeds = [run.seed for run in runs]
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"pack: training seeds {seeds} are not distinct; give each seed's run directory once")
