"""Verify one entry up to a level: every check is made, findings are collected, nothing an entry holds can stop it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError, from_os_error
from leaderboard.case import Case, Means, SkippedError
from leaderboard.checks import FIRST, LADDER, Check
from leaderboard.entries import Entry
from leaderboard.findings import LEVELS, Finding, Level, Outcome, Verification


def verify(folder: Path, *, level: Level = "claimed", means: Means | None = None) -> Verification:
    """The verification of the entry in `folder` up to `level`.

    Never raises for what an entry holds. What our own machine fails at (disk, memory, a command of the harness)
    makes the outcome `broken`, which says nothing about the entry.
    """
    started = time.monotonic()
    made: list[str] = []
    findings: list[Finding] = []
    evaluated: list[str] = []
    reached: Level | None = None
    digest: str | None = None
    outcome: Outcome = "invalid"
    try:
        digest, reached = _climb(folder, level, means or Means(), made, findings, evaluated)
        if not any(finding.severity == "error" for finding in findings):
            outcome = "ok" if reached == level else "incomplete"
    except (InfraError, MemoryError, OSError) as problem:
        outcome = "broken"
        findings.append(
            Finding(severity="skipped", check=made[-1] if made else "entry", where=folder.name, what=str(problem))
        )
    return Verification(
        entry=folder.as_posix(), digest=digest, level=level, reached=reached, outcome=outcome, checks=made,
        findings=findings, evaluated=evaluated, seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip


def failed(folder: Path, level: Level, problem: HarnessError) -> Verification:
    """The verification of an entry whose files elsewhere are not what it says, or could not be brought."""
    broken = isinstance(problem, InfraError)
    finding = Finding(severity="skipped" if broken else "error", check="fetch", where="elsewhere", what=str(problem))
    return Verification(
        entry=folder.as_posix(), digest=None, level=level, reached=None, outcome="broken" if broken else "invalid",
        checks=["fetch"], findings=[finding], seconds=0.0,
    )  # fmt: skip


def outside(root: Path, level: Level, names: Sequence[str]) -> Verification:
    """The verification of a request that changed `names` in the folder of entries `root`, which belong to no entry."""
    found = [
        Finding(
            severity="error", check="request", where=name,
            what="is in no entry" if os.path.lexists(root / name) else "was removed; only its authors may withdraw it",
        )
        for name in names
    ]  # fmt: skip
    return Verification(
        entry=root.as_posix(), digest=None, level=level, reached=None, outcome="invalid", checks=["request"],
        findings=found, seconds=0.0,
    )  # fmt: skip


def _climb(
    folder: Path, level: Level, means: Means, made: list[str], findings: list[Finding], evaluated: list[str]
) -> tuple[str | None, Level | None]:
    """Make the checks of every level up to `level`; the entry's digest and the highest level that it passes."""
    made.append("entry")
    try:
        entry = Entry.load(folder)
        case = Case(entry, means)
        entry.suite  # noqa: B018 - an unknown suite is found here, once
    except (ArtifactError, ConfigError) as problem:
        findings.append(Finding(severity="error", check="entry", where="entry.json", what=_plain(problem, folder)))
        return None, None
    for name, check in FIRST.items():
        findings += _make(name, check, case, made)
    if findings:
        return entry.record.digest, None
    reached: Level | None = None
    for step in LEVELS[: LEVELS.index(level) + 1]:
        found = [finding for name, check in LADDER[step].items() for finding in _make(name, check, case, made)]
        findings += found
        evaluated[:] = case.evaluated
        if any(finding.severity == "error" for finding in findings):
            return entry.record.digest, None
        if any(finding.severity == "skipped" for finding in found):
            return entry.record.digest, reached
        reached = step
    return entry.record.digest, reached


def _make(name: str, check: Check, case: Case, made: list[str]) -> list[Finding]:
    """The findings of one check. What is not caught here is our own fault and makes the outcome broken."""
    found: list[Finding] = []
    made.append(name)
    try:
        found.extend(note.named(name) for note in check(case))
    except SkippedError as reason:
        made.pop()
        found.append(Finding(severity="skipped", check=name, where="-", what=str(reason)))
    except (ArtifactError, ConfigError) as problem:
        found.append(Finding(severity="error", check=name, where="entry", what=_plain(problem, case.entry.folder)))
    except OSError as problem:
        raise from_os_error(problem, problem.filename or "the machine") from problem
    except HarnessError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, IndexError, ArithmeticError, RecursionError) as problem:
        # The schema of entry.json holds; the values of its records may have other types than a check expects.
        what = f"holds values of other types than they should be: {type(problem).__name__}: {problem}"[:300]
        found.append(Finding(severity="error", check=name, where="records", what=what))
    return found


def _plain(problem: HarnessError, folder: Path) -> str:
    return str(problem).replace(f"{folder}/", "")
