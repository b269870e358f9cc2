"""No entry of the corpus is believed, none stops the verifier, and none gets anything run."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import answers, claims, files
from hostile.forger import Forger

from harness.files import sha256_file
from leaderboard.board import Board
from leaderboard.case import Means
from leaderboard.site import build
from leaderboard.verify import verify

CASES, RESCORED = files.CASES | claims.CASES, answers.CASES
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing an entry names is opened."""
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("an address was opened"))


def _findings(folder: Path, means: Means, level: str) -> list[str]:
    result = verify(folder, level=level, means=means)  # type: ignore[arg-type]
    assert result.outcome == "invalid", result
    return [str(finding) for finding in result.of("error")]


def _names(case: object) -> str:
    return getattr(case, "__name__", "")


@pytest.mark.parametrize(("spoil", "reason"), CASES.items(), ids=_names)
def test_claimed_refuses_and_says_why(
    spoil: Callable[[Forger], None], reason: str, spoiled: Path, means: Means, run_in: Path
) -> None:
    spoil(Forger(spoiled))
    findings = _findings(spoiled, means, "claimed")
    assert any(reason in finding for finding in findings), findings
    assert not (run_in / "hostile-code-ran").exists()


def test_an_unsorted_uid_file_is_said_to_be_that_alone(spoiled: Path, means: Means) -> None:
    claims.unsorted_uids(Forger(spoiled))
    findings = _findings(spoiled, means, "claimed")
    assert not any("not in the sealed pool" in finding for finding in findings), findings


@pytest.mark.parametrize("linked", [False, True])
def test_nothing_outside_an_entry_is_read(spoiled: Path, means: Means, tmp_path: Path, linked: bool) -> None:
    """Else its digest, or what is wrong with it, would stand among the findings."""
    secret = tmp_path / "secret.json"
    secret.write_text("the password")
    if linked:
        for path in ("subset.json", "uids.npy"):
            (spoiled / path).unlink()
            (spoiled / path).symlink_to(secret)
    paths = [str(secret), "../../secret.json", "seed-0/../../../secret.json"]
    Forger(spoiled).edit("entry.json", lambda record: record["inputs"].update(dict.fromkeys(paths, "0" * 64)))
    found = [finding for finding in _findings(spoiled, means, "claimed") if not finding.startswith("files: ")]
    assert not any(word in finding for word in ("secret", sha256_file(secret)[:12], "JSON") for finding in found), found


@pytest.mark.parametrize(("spoil", "reason"), RESCORED.items(), ids=_names)
def test_rescored_finds_what_claimed_cannot(
    spoil: Callable[[Forger], None], reason: str, spoiled: Path, means: Means
) -> None:
    spoil(Forger(spoiled))
    assert verify(spoiled, means=means).outcome == "ok"
    findings = _findings(spoiled, means, "rescored")
    assert any(reason in finding for finding in findings), findings


@pytest.mark.parametrize("spoil", [*CASES, *RESCORED], ids=_names)
def test_the_site_is_built_whatever_lies_there(spoil: Callable[[Forger], None], spoiled: Path, tmp_path: Path) -> None:
    spoil(Forger(spoiled))
    board = Board.load(spoiled.parents[1], verified=tmp_path / "verified")
    build(board, tmp_path / "site")
    assert len(board.rows) + len(board.problems) == 1
