"""Tables: who is ranked with whom, who stands apart, and what the site's data say."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic

from harness.entry import write_entry
from harness.entry_schema import About
from harness.pool.sealed import SealedPool
from leaderboard import site
from leaderboard.board import Board, scale_correlations
from leaderboard.case import Means
from leaderboard.entries import Entry, find
from leaderboard.published import load_published
from leaderboard.verified import recall, remember
from leaderboard.verify import verify

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from bench_site import make_entry

NASTY = "</script><script>document.title='ran'</script>"


@pytest.fixture(scope="module")
def entries(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, random, twins, incomplete, unofficial, and one with a nasty name."""
    root = tmp_path_factory.mktemp("entries")
    runs = tmp_path_factory.mktemp("runs")
    half, third = synthetic.subset_of(sealed, keep=0.5), synthetic.subset_of(sealed, keep=0.3)
    for slug, name, uids, skill, method, drop in (
        ("good", "=good filter", third, 0.5, "clip_score", ()),
        ("random", "random 30 %", third, 0.3, "random_subset", ()),
        ("b-twin", "B twin", half, 0.31, "a", ()),
        ("a-twin", "a twin", half, 0.31, "a", ()),
        ("nasty", NASTY, third, 0.4, "n", ()),
        ("half-done", "half done", third, 0.9, "h", ("mnist",)),
    ):
        run = synthetic.run(runs / slug, sealed, uids, skill=skill, method=method, drop=drop)
        about = About(
            name=name, authors=["A. Author"], description=f"{NASTY} said", link="https://example.org/?a=1&b=2"
        )
        write_entry([run], root / "tiny" / slug, about=about)
    record = json.loads((root / "tiny" / "good" / "entry.json").read_text())
    record["payload"]["unofficial"] = ["scale.lr"]
    (root / "tiny" / "tuned").mkdir()
    (root / "tiny" / "tuned" / "entry.json").write_text(json.dumps(record))
    (root / "tiny" / "broken").mkdir()
    (root / "tiny" / "broken" / "entry.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def board(entries: Path) -> Board:
    return Board.load(entries, verified=entries.parent / "none")


def test_ranked_apart_and_left_out(board: Board) -> None:
    (table,) = board.tables
    assert [row.entry.slug for row in table.rows] == ["good", "nasty", "a-twin", "b-twin", "random"]
    assert {row.entry.slug: row.reason for row in table.apart} == {
        "half-done": "incomplete: 1 tasks missing", "tuned": "unofficial: scale.lr",
    }  # fmt: skip
    assert len(board.problems) == 1
    assert "broken" in board.problems[0]


def test_ties_stand_in_the_order_of_names_and_share_their_range(board: Board) -> None:
    rows = {row.entry.slug: row for row in board.tables[0].rows}
    assert rows["a-twin"].place + 1 == rows["b-twin"].place
    assert rows["a-twin"].ranks["average"] == rows["b-twin"].ranks["average"]
    assert rows["good"].rank_text == "1"


def test_every_entry_is_held_against_random_of_its_size(board: Board) -> None:
    rows = {row.entry.slug: row for row in board.tables[0].rows}
    assert rows["good"].yardstick is rows["random"]
    assert rows["good"].beats_random is True
    assert rows["good"].matched
    assert rows["a-twin"].yardstick is rows["random"]
    assert not rows["a-twin"].matched  # another size
    assert rows["random"].yardstick is None


def test_several_random_entries_are_told_apart_and_the_nearest_in_size_is_the_yardstick(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for slug, name, size, method in (
        ("r10", "random_subset", 1_200_000, "random_subset"), ("r30", "random_subset", 3_600_000, "random_subset"),
        ("a", "a", 1_900_000, "a"), ("b", "b", 2_400_000, "b"), ("c", "c", 3_700_000, "c"),
    ):  # fmt: skip
        make_entry(tmp_path / "tiny" / slug, name=name, scale="tiny", skill=0.2 + size / 1e8, size=size, seeds=2,
                   method=method, rng=rng)  # fmt: skip
    board = Board.load(tmp_path, verified=tmp_path / "none")
    rows = {row.entry.slug: row for row in board.rows}
    assert [rows[slug].yardstick for slug in "abc"] == [rows["r10"], rows["r30"], rows["r30"]]
    assert [rows[slug].matched for slug in "abc"] == [False, False, True]
    assert (rows["r10"].label, rows["r30"].label, rows["a"].label) == (
        "random_subset (10 %)", "random_subset (30 %)", "a",
    )  # fmt: skip
    # Across scales a name counts once, by its best entry.
    assert set(board.tables[0].best_by_name) == {"random_subset", "a", "b", "c"}
    assert board.tables[0].best_by_name["random_subset"] is rows["r30"]
    correlations = scale_correlations({"tiny": board.tables[0], "small": board.tables[0]})
    assert [(found.kendall, found.entries) for *_, found in correlations] == [(1.0, 4), (1.0, 4)]


def test_a_changed_bootstrap_or_a_wrong_place_keeps_an_entry_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for slug in ("changed", "few", "Twin", "twin", "wrong"):
        make_entry(tmp_path / "tiny" / slug, name=slug, scale="tiny", skill=0.2, size=9, seeds=1, method="m", rng=rng,
                   replicates=100 if slug == "few" else 1000)  # fmt: skip
    found = np.load(tmp_path / "tiny/changed/bootstrap.npy")
    np.save(tmp_path / "tiny/changed/bootstrap.npy", found + np.float32(0.01))
    (tmp_path / "small").mkdir()
    (tmp_path / "tiny/wrong").rename(tmp_path / "small/wrong")
    board = Board.load(tmp_path, verified=tmp_path / "none")
    assert [(row.name, row.reason) for row in board.rows] == [
        ("changed", "bootstrap.npy is not the file that entry.json names"),
        ("few", "bootstrap.npy does not fit the entry"),
    ]
    assert sorted(problem.split(": ", 1)[1] for problem in board.problems) == [
        "folders Twin and twin differ in case only", "folders Twin and twin differ in case only",
        "the folder of this entry is tiny/wrong",
    ]  # fmt: skip


def test_entries_are_found_and_what_lies_below_them_is_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiny/b", "tiny/a", "tiny/a/seed-0/eval", "small/c", "small/empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("tiny/b", "tiny/a", "tiny/a/seed-0", "small/c"):
        (tmp_path / name / "entry.json").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    walked = []
    monkeypatch.setattr(os, "scandir", lambda place, look=os.scandir: walked.append(Path(place).name) or look(place))
    assert [folder.relative_to(tmp_path).as_posix() for folder in find(tmp_path)] == ["small/c", "tiny/a", "tiny/b"]
    assert walked == [tmp_path.name, "small", "empty", "tiny"]
    assert list(find(tmp_path / "tiny" / "a")) == [tmp_path / "tiny" / "a"]
    assert list(find(tmp_path / "none")) == []


def test_a_level_belongs_to_one_version_of_an_entry(entries: Path, means: Means, tmp_path: Path) -> None:
    folder = entries / "tiny" / "good"
    result = verify(folder, means=means)
    remember(result, folder, tmp_path)
    kept = recall(Entry.load(folder), tmp_path)
    assert kept is not None
    assert kept.reached == "claimed"
    board = Board.load(entries, verified=tmp_path)
    assert {row.entry.slug: row.level for row in board.rows}["good"] == "claimed"
    remember(result.model_copy(update={"reached": None}), folder, tmp_path)  # a lower level does not take its place
    assert recall(Entry.load(folder), tmp_path) == kept
    (tmp_path / "tiny" / "tuned.json").write_bytes((tmp_path / "tiny" / "good.json").read_bytes())
    assert {row.entry.slug: row.level for row in Board.load(entries, verified=tmp_path).rows}["tuned"] == "unverified"


def test_only_what_is_verified_or_published_is_on_record(entries: Path, means: Means, tmp_path: Path) -> None:
    folder, other = entries / "tiny" / "nasty", entries / "tiny" / "random"
    best = Board.load(entries, verified=tmp_path).best_known(without=other)
    assert "tiny" not in best  # entries of one request do not vouch for each other
    assert best["small"] == {
        "imagenet": 0.099, "shifts": 0.08, "retrieval": 0.197, "average": 0.205,
    }  # fmt: skip
    remember(verify(folder, means=means), folder, tmp_path)
    board = Board.load(entries, verified=tmp_path)
    (row,) = (row for row in board.rows if row.entry.folder == folder)
    best = board.best_known(without=other)
    assert best["tiny"]["average"] == row.mean("average")
    assert best["tiny"]["mnist"] == row.scores["mnist"]
    assert "tiny" not in board.best_known(without=folder)


def test_nothing_of_an_entry_becomes_markup(board: Board, tmp_path: Path) -> None:
    site.build(board, tmp_path)
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert "document.title='ran'" not in text.replace("&#39;", "'") or NASTY not in text
        assert "<script>document" not in text
        assert text.count("Content-Security-Policy") == 1
        assert "http-equiv" in text
        for attribute in ('src="http', 'href="javascript', "style="):
            assert attribute not in text, page


def test_no_page_names_another_host_but_in_links(board: Board, tmp_path: Path) -> None:
    site.build(board, tmp_path)
    for page in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css"), *tmp_path.rglob("*.js")]:
        for line in page.read_text().splitlines():
            if "http" in line.replace("http-equiv", ""):
                assert "<a href=" in line or "www.w3.org/2000/svg" in line, (page, line)


def test_downloads_hold_every_entry(board: Board, tmp_path: Path) -> None:
    site.build(board, tmp_path)
    (table,) = json.loads((tmp_path / "board.json").read_text())
    assert len(table["entries"]) == 7
    rows = list(csv.DictReader(io.StringIO((tmp_path / "board.csv").read_text())))
    assert len(rows) == 7
    assert rows[0]["name"] == "'=good filter"  # a spreadsheet shall not take it for a formula
    assert float(rows[0]["cifar10"]) == table["entries"][0]["tasks"]["cifar10"]


def test_pages_of_withdrawn_entries_go(board: Board, tmp_path: Path) -> None:
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "old.html").write_text("old")
    site.build(board, tmp_path)
    assert not (tmp_path / "entries" / "old.html").exists()


def test_an_empty_board_has_a_site(tmp_path: Path) -> None:
    site.build(Board.load(tmp_path / "nothing", verified=tmp_path), tmp_path / "site")
    assert "no entry yet" in (tmp_path / "site" / "index.html").read_text()


def test_published_rows_are_plausible() -> None:
    published = load_published()
    assert len(published.rows) == 29
    for row in published.rows:
        assert row.source in published.sources
        assert all(value is None or 0 < value < 0.8 for value in row.scores)
    first = published.rows[0]
    assert (first.method, first.scores) == ("No filtering", (0.025, 0.033, 0.145, 0.114, 0.132))


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (3.14159, "3.14 s"), (600, "10 min"), (7200, "2 h"), (864_000, "10 days")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert site.duration(seconds) == text
