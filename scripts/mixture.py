"""The small runs that cluster_mixture chooses by, as the board has it.

    python scripts/mixture.py [jobs=2] [candidates=24,8] [dry_run=true]

Trains each round's candidates at scale tiny on a quarter of its samples and writes their averages to
leaderboard/cluster_mixture.json, which the board's entry of the method reads. What is done is not done again.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import board
import rounds
from pydantic import BeforeValidator, Field

from harness import cli
from harness.errors import StageError
from harness.files import write_bytes
from harness.finished import Run, read_run
from harness.progress import say
from harness.records import StrictModel

SAMPLES_SEEN = 16_384


class Settings(StrictModel):
    """Make the runs that cluster_mixture chooses by."""

    jobs: int = Field(default=1, ge=1, description="rounds at a time; each gets an equal share of the cores")
    candidates: Annotated[str, BeforeValidator(str)] = Field(
        default="24,8",
        pattern=r"^([3-9]|[1-9]\d+)(,([3-9]|[1-9]\d+))*$",
        description="how many runs each round of the search has, three or more",
    )
    dry_run: bool = Field(default=False, description="say what is missing of the round that is to be done, and stop")
    runs: Path = Field(default=rounds.RUNS, description="folder of the run folders")
    out: Path = Field(default=board.LIST.with_name("cluster_mixture.json"), description="what the runs told")


def planned(number: int, candidates: int, known: Path | None, runs: Path) -> list[rounds.Round]:
    """The runs of round `number` (from 0), whose candidates follow from the file `known` of the rounds before."""
    told = () if known is None else (f"method.runs={known}",)
    # Named after what is known: of other runs other candidates follow, which are other rounds.
    name = f"cluster_mixture-{number}" if known is None else f"cluster_mixture-{number}-{known.stem[-8:]}"
    return [
        rounds.Round(
            name=f"{name}-{candidate}", seed=0, runs=runs,
            overrides=("method=cluster_mixture", f"method.candidate={candidate}", *told,
                       f"scale.samples_seen={SAMPLES_SEEN}"),
        )
        for candidate in range(candidates)
    ]  # fmt: skip


def mixture_of(run: Run) -> list[float]:
    """The shares of the clusters that a run's selection remarks."""
    remark = next(text for text in run.subset.payload["remarks"] if text.startswith("mixture after "))
    return [float(share) for share in remark.rpartition(": ")[2].split(", ")]


def command(argv: list[str]) -> None:
    """See the module. Raises StageError that names the runs that failed."""
    chosen = cli.settings(argv, Settings)
    told: list[list[dict[str, Any]]] = []
    known: Path | None = None
    for number, candidates in enumerate(map(int, chosen.candidates.split(","))):
        jobs = planned(number, candidates, known, chosen.runs)
        missing = [job for job in jobs if not job.done()]
        if chosen.dry_run and missing:
            print(f"round {number}: {rounds.estimate({job: job.seconds() for job in jobs if job.done()}, missing)}")
            return
        if missing:
            board.ready(board.load(), [])
        failed = rounds.run(missing, jobs=chosen.jobs)
        if failed:
            raise StageError("\n  ".join([f"{len(failed)} runs of round {number} failed:", *failed.values()]))
        runs = [read_run(job.folder) for job in jobs]
        scores = [run.evaluation.payload["aggregates"]["average"] for run in runs]
        told.append([
            {"candidate": candidate, "score": score, "mixture": mixture_of(run)}
            for candidate, (run, score) in enumerate(zip(runs, scores, strict=True))
        ])  # fmt: skip
        content = json.dumps({"rounds": told}).encode()
        known = chosen.runs / f"cluster_mixture-{hashlib.sha256(content).hexdigest()[:8]}.json"
        write_bytes(known, content)
        best = max(range(candidates), key=scores.__getitem__)
        say(f"round {number}: {candidates} runs, averages {min(scores):.3f} to {scores[best]:.3f} (candidate {best})")
    write_bytes(chosen.out, (json.dumps({"rounds": told}, indent=1) + "\n").encode())
    say(f"{chosen.out} written; `make board ARGS=only=cluster_mixture` trains what it promises")


if __name__ == "__main__":
    cli.main(command)
