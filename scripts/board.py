"""The shipped board of scale tiny: run, pack and verify what is missing of the list in leaderboard/tiny.yaml.

    python scripts/board.py [jobs=2] [only=dsir,semdedup] [dry_run=true] [entries=DIR] [runs=DIR] [level=rescored]

What is there is left as it is: a run of the same settings, an entry of the same runs, its verification. An entry that
was packed from the listed settings and seeds needs no runs; with entries=DIR the whole board is made anew elsewhere.
With level=rescored the checkpoints of the run folders are evaluated again, on all tasks or on tasks=8 drawn afresh.
A failure ends neither the rest nor goes unsaid: all failures are named at the end.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import rounds
import yaml
from pydantic import Field

from harness import cli, executor
from harness.config import validated
from harness.entry import load_entry, read_run, sources_of, write_entry
from harness.entry_schema import About
from harness.errors import ArtifactError, ConfigError, HarnessError, StageError, unknown_name
from harness.pool.seal import seal
from harness.progress import say
from harness.records import StrictModel
from harness.tiny import cache
from leaderboard.__main__ import command as leaderboard
from leaderboard.entries import ENTRIES, Entry
from leaderboard.findings import LEVELS, Level
from leaderboard.verified import VERIFIED, recall

LIST = Path(__file__).parents[1] / "leaderboard" / "tiny.yaml"


class First(StrictModel):
    """What a method reads beside the pool's own files."""

    file: str
    command: str
    """The module that writes the file, given pool.path."""


class Listed(StrictModel):
    """One entry of the board."""

    seeds: list[int] = Field(min_length=1)
    run: list[str] = Field(default=[])
    """Overrides beside scale, seed and run_dir; empty: `method=<slug>`."""
    description: str = ""
    first: First | None = None


class Board(StrictModel):
    """What the board holds, by slug."""

    authors: list[str]
    entries: dict[str, Listed]

    def rounds(self, slug: str, runs: Path) -> list[rounds.Round]:
        """One round a seed of the entry."""
        entry = self.entries[slug]
        overrides = tuple(entry.run or [f"method={slug}"])
        return [rounds.Round(name=slug, overrides=overrides, seed=seed, runs=runs) for seed in entry.seeds]

    def about(self, slug: str) -> About:
        """What the entry says of itself."""
        return About(name=slug, authors=self.authors, description=self.entries[slug].description)


class Settings(StrictModel):
    """Make what is missing of the board of scale tiny."""

    jobs: int = Field(default=1, ge=1, description="rounds at a time; each gets an equal share of the cores")
    only: str | None = Field(default=None, description="comma-separated entries; null: all of the list")
    dry_run: bool = Field(default=False, description="say what is there and what is missing")
    entries: Path = Field(default=ENTRIES / "tiny", description="folder of the entries")
    runs: Path = Field(default=rounds.RUNS, description="folder of the run folders")
    level: Literal["claimed", "rescored"] = Field(default="claimed", description="how far entries are verified")
    tasks: int | None = Field(default=None, ge=1, description="rescored: evaluate so many drawn tasks; null: all")


def load(path: Path = LIST) -> Board:
    """The list. ConfigError that names what does not fit."""
    return validated(Board, yaml.safe_load(path.read_text()), prefix=f"{path.name}: ")


def packed(folder: Path, wanted: list[rounds.Round]) -> bool:
    """True if the entry in `folder` was packed from runs of these settings and seeds."""
    try:
        seeds = [run.seed for run in load_entry(folder).payload.runs]
    except ArtifactError:
        return False
    return sorted(seeds) == sorted(job.seed for job in wanted) and all(
        rounds.made_with(folder / f"seed-{job.seed}", job.settings()) for job in wanted
    )


def prepare(first: First, pool: str) -> None:
    """Write what a method reads beside the pool, if it is not there; where that fails, its rounds say so."""
    if not (Path(pool) / first.file).exists():
        subprocess.run([sys.executable, "-m", first.command, f"pool.path={pool}"], check=False)


def ready(board: Board, slugs: Iterable[str]) -> None:
    """Make and seal the pool and what these methods read, before rounds side by side ask for it."""
    pool = seal(cache.ensure_pool(), executor=executor.get("local")).path
    cache.ensure_tasks()
    for slug in sorted(set(slugs)):
        if (first := board.entries[slug].first) is not None:
            prepare(first, pool)


def verified(folder: Path, level: Level) -> bool:
    """True if this very version of a shipped entry reached `level`; of those elsewhere no record is kept."""
    found = recall(Entry.load(folder), VERIFIED) if folder.is_relative_to(ENTRIES) else None
    return found is not None and found.reached in LEVELS[LEVELS.index(level) :]


def verify(folder: Path, jobs: list[rounds.Round], level: Level, tasks: int | None = None) -> bool:
    """Verify an entry, and keep the result of a shipped one; above `claimed` with the files of its run folders."""
    command = ["verify", str(folder), "--level", level, *(["--write"] if folder.is_relative_to(ENTRIES) else [])]
    with tempfile.TemporaryDirectory() as files:
        if level != "claimed":
            for name, path in sources_of([read_run(job.folder) for job in jobs]).items():
                (place := Path(files) / name).parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path.absolute())
            command += ["--files", files, *([] if tasks is None else ["--tasks", str(tasks)])]
        return leaderboard(command) == 0


def command(argv: list[str]) -> None:
    """See the module. Raises StageError that names all that failed."""
    chosen, board = cli.settings(argv, Settings), load()
    slugs = list(board.entries) if chosen.only is None else list(dict.fromkeys(chosen.only.split(",")))
    for slug in slugs:
        if slug not in board.entries:
            raise ConfigError(f"only={chosen.only}: {unknown_name('entry', slug, board.entries)}")
    wanted = {slug: board.rounds(slug, chosen.runs) for slug in slugs}
    there = {slug: packed(chosen.entries / slug, wanted[slug]) for slug in slugs}
    done = {job for jobs in wanted.values() for job in jobs if job.done()}
    missing = [job for slug in slugs if not there[slug] for job in wanted[slug] if job not in done]
    if chosen.dry_run:
        for slug in slugs:
            states = [f"seed {job.seed} {'run' if job in done else '-'}" for job in wanted[slug]]
            print(f"{slug:34}{'entry' if there[slug] else '-':7}{', '.join(states)}")
        print(rounds.estimate({job: job.seconds() for job in done}, missing))
        return
    if missing:
        ready(board, (job.name for job in missing))
    failed = rounds.run(missing, jobs=chosen.jobs)
    problems, level = list(failed.values()), chosen.level
    for slug in slugs:
        folder = chosen.entries.absolute() / slug
        try:
            if all(job.done() for job in wanted[slug]):
                write_entry([job.folder for job in wanted[slug]], folder, about=board.about(slug))
            written = (folder / "entry.json").exists()
            reached = written and verified(folder, level)
            if written and not reached and not verify(folder, wanted[slug], level, chosen.tasks):
                problems.append(f"{folder}: does not reach {level}; see above")
        except HarnessError as error:
            problems.append(str(error))
    if problems:
        raise StageError("\n  ".join([f"{len(problems)} of the board's parts failed:", *problems]))
    say(f"{chosen.entries}: {len(slugs)} entries there")


if __name__ == "__main__":
    cli.main(command)
