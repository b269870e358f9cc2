"""`python -m leaderboard verify|rank|build`: believe entries or not, rank them, and make the site."""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import cli
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.progress import say
from leaderboard.board import AGGREGATE_TITLES, Board
from leaderboard.case import Means
from leaderboard.checks import copies
from leaderboard.entries import ENTRIES, find
from leaderboard.findings import LEVELS, Verification, visible
from leaderboard.means import brought, existing, fetch, generated_pool, sealed, uid_list, weights
from leaderboard.verified import VERIFIED, remember
from leaderboard.verify import failed, outside, verify

BROKEN = InfraError.exit_code


def command(argv: list[str]) -> int:
    """Verify entries (0: level reached, 1: not, 7: our machine failed), rank them, or build the site."""
    parser = argparse.ArgumentParser(prog="python -m leaderboard", description=command.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _verify_arguments(commands.add_parser("verify", help="check entries and say what was found"))
    for name, text in (("rank", "print the tables"), ("build", "write the static site")):
        chosen = commands.add_parser(name, help=text)
        chosen.add_argument("--entries", type=Path, default=ENTRIES, help="folder of entries")
        chosen.add_argument("--verified", type=Path, default=VERIFIED, help="folder of verification records")
        chosen.add_argument("--scale", help="only this scale")
        if name == "rank":
            chosen.add_argument("--json", action="store_true")
        else:
            chosen.add_argument("--out", type=Path, required=True, help="folder of the site")
    options = parser.parse_args(argv)
    if options.command == "verify":
        return _verify(options)
    board = Board.load(options.entries, verified=options.verified, scale=options.scale)
    for problem in board.problems:
        say(escape(f"left out: {problem}"))
    if options.command == "rank":
        _print_rank(board, as_json=options.json)
        return 0
    from leaderboard.site import build

    started = time.monotonic()
    pages = build(board, options.out)
    say(f"{options.out}/index.html: {pages:,} pages, {len(board.rows):,} entries, {time.monotonic() - started:.1f} s")
    return 0


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "entries", nargs="*", type=Path, metavar="DIR", help="folders of entries; default: all of the board"
    )
    parser.add_argument("--level", choices=LEVELS, default="claimed", help="how far up the ladder (default: claimed)")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument(
        "--changed-since", metavar="COMMIT", help="only entries changed since the merge base with COMMIT"
    )
    parser.add_argument("--pool", type=Path, help="folder of the sealed pool (pool.json, uids.npy, shards.npy)")
    parser.add_argument("--pool-list", type=Path, help="npy file of the full pool's sorted uids")
    parser.add_argument(
        "--files", type=Path, help="folder of files that the entry keeps elsewhere, under their paths in it"
    )
    parser.add_argument("--fetch", action="store_true", help="download such files into --files by the addresses stated")
    parser.add_argument("--checkpoint", type=Path, help="safetensors file to evaluate again, of an entry with one seed")
    parser.add_argument("--data-dir", type=Path, help="task data, for evaluating again")
    parser.add_argument("--tasks", type=int, help="evaluate so many drawn tasks again (default: all)")
    parser.add_argument("--work", type=Path, help="folder in which to train again")
    parser.add_argument("--seed", type=int, help="your training seed")
    parser.add_argument("--write", action="store_true", help="keep the result where the board shows it")


def _verify(options: argparse.Namespace) -> int:
    means = _means(options)
    folders: list[Path] = []
    results: list[Verification] = []
    for root in options.entries or [ENTRIES]:
        if not root.exists():
            raise ConfigError(f"{root}: no such folder")
        found = list(find(root))
        if not found and options.entries and not options.changed_since:
            raise ConfigError(f"{root}: holds no entry.json")
        if options.changed_since:
            found, others = _changed(root, found, options.changed_since)
            results += [_told(outside(root, options.level, others), options)] if others else []
        folders += found
    if options.changed_since and not options.entries:
        # What stands there is believed; an entry must not bring its own.
        for line in _changes(VERIFIED, options.changed_since):
            line = f"{VERIFIED.name}/{visible(line)}"
            say(escape(f"look: {line} has changed too; a request that adds an entry adds nothing else"))
    board = Board.load(ENTRIES, verified=VERIFIED)
    means = replace(means, marks=copies.index(row.entry for row in board.rows))
    for folder in folders:
        result = _verify_one(folder, options, replace(means, best_known=board.best_known(without=folder)))
        results.append(_told(result, options))
    if options.json:
        sys.stdout.write(json.dumps([result.model_dump() for result in results], indent=1) + "\n")
    elif not results:
        sys.stdout.write("no entries to verify\n")
    outcomes = {result.outcome for result in results}
    return BROKEN if "broken" in outcomes else int(not outcomes <= {"ok"})


def _means(options: argparse.Namespace) -> Means:
    """What the maintainer gave; ConfigError for a slip, before any entry is looked at."""
    if options.fetch and options.files is None:
        raise ConfigError("--fetch needs --files DIR, where the downloads are kept")
    if options.tasks is not None and options.tasks < 1:
        raise ConfigError(f"--tasks {options.tasks}: draw at least one")
    return Means(
        pool=brought("--pool", options.pool, sealed),
        pool_list=brought("--pool-list", options.pool_list, uid_list),
        files=options.files if options.fetch else brought("--files", options.files, existing),
        checkpoint=brought("--checkpoint", options.checkpoint, weights),
        data_dir=brought("--data-dir", options.data_dir, existing),
        tasks=options.tasks, work=options.work, seed=options.seed,
    )  # fmt: skip


def _verify_one(folder: Path, options: argparse.Namespace, means: Means) -> Verification:
    """Fetch what is needed, verify, and keep the result if asked to."""
    try:
        if options.fetch:
            fetch(folder, options.files, level=options.level)
    except (ArtifactError, InfraError) as problem:
        return failed(folder, options.level, problem)
    result = verify(folder, level=options.level, means=replace(means, pool=means.pool or generated_pool(folder)))
    if options.write and result.digest is not None and result.outcome != "broken":
        remember(result, folder)
    return result


def _told(result: Verification, options: argparse.Namespace) -> Verification:
    if not options.json:
        sys.stdout.write(_report(result))
        sys.stdout.flush()
    return result


WORDS = {"ok": "ok", "incomplete": "not reached", "invalid": "FAIL", "broken": "our machine failed"}


def _report(result: Verification) -> str:
    name = visible("/".join(Path(result.entry).parts[-2:]))
    lines = [
        f" {name:40} {result.level:10} {WORDS[result.outcome]:12} {len(result.checks)} checks, {result.seconds:.1f} s"
    ]
    marks = {"error": "", "warning": "look: ", "skipped": "not checked: "}
    lines += [f"{'':20} {marks[finding.severity]}{finding}" for finding in result.findings]
    return "".join(f"{line}\n" for line in lines)


def _changed(root: Path, folders: list[Path], commit: str) -> tuple[list[Path], list[str]]:
    """Those of the entries in `folders`, all of them below `root`, that changed, and what changed beside them."""
    owners = {folder.relative_to(root): folder for folder in folders}
    changed, others = set[Path](), set[str]()
    for path in map(Path, _changes(root, commit)):
        owner = next((owners[parent] for parent in path.parents if parent in owners), None)
        if owner is None:
            # Of an entry that was removed, its folder stands for all its files.
            others.add("/".join(path.parts[:2]))
        else:
            changed.add(owner)
    return sorted(changed), sorted(others)


def _changes(folder: Path, commit: str) -> list[str]:
    """Files below `folder` that git sees changed since the merge base with `commit`, committed or not, or removed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="surrogateescape", check=False
        )
        if done.returncode:
            raise ConfigError(f"--changed-since {commit}: git says: {done.stderr.strip()}")
        return done.stdout

    base = git("merge-base", "HEAD", commit).strip()
    old = git("diff", "--relative", "--no-renames", "--name-only", "-z", base, "--", ".")
    new = git("ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    return sorted({*old.split("\0"), *new.split("\0")} - {""})


def _print_rank(board: Board, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(board.as_json(), indent=1) + "\n")
        return
    # A pipe has no width; tables are not to be cut for it.
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)
    for table in board.tables:
        shown = Table(
            title=f"{table.scale}, {table.track} track, protocol {table.protocol}", box=None, title_justify="left"
        )
        for title in ("rank", "method", "size", *AGGREGATE_TITLES.values(), "95 %", "seeds", "level"):
            shown.add_column(title, justify="left" if title in ("rank", "method", "level") else "right")
        for row in table.rows:
            shown.add_row(
                row.rank_text, escape(row.label), f"{row.size:,}", *(_score(row.mean(a)) for a in AGGREGATE_TITLES),
                f"{_score(row.low)}-{_score(row.high)}", str(row.seeds), row.level,
            )  # fmt: skip
        console.print(shown)
        for row in table.apart:
            console.print(f"not ranked: {escape(row.label)} ({escape(row.reason)})", soft_wrap=True)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    cli.main(command)
