"""A finished run directory: its records, read back."""

from dataclasses import dataclass
from pathlib import Path

from harness.eval import suite as suites
from harness.records import Record, read_record


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


def read_run(folder: Path) -> Run:
    """The records of a finished run; ArtifactError that names the one that is missing or damaged."""
    config = read_record(folder / "config.json", "config")
    suite = suites.load(config.payload["suite"])
    paths = {task.key: folder / "eval" / f"{task.slug}.json" for task in suite.tasks.values()}
    return Run(
        folder=folder,
        config=config,
        subset=read_record(folder / "subset.json", "subset"),
        train=read_record(folder / "train" / "train.json", "train"),
        ledger=read_record(folder / "train" / "ledger.json", "ledger"),
        evaluation=read_record(folder / "eval" / "evaluation.json", "evaluation"),
        suite=suite,
        tasks={key: read_record(path, "task") for key, path in paths.items() if path.exists()},
    )
