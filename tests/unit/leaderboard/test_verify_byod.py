"""Entries of the byod track: sources, weights and track are what the records and the uid file say."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from harness import uid
from harness.compose import compose
from harness.config import ByodFolder
from harness.entry import write_entry
from harness.entry_schema import About
from harness.files import sha256_file
from harness.pool.sealed import SealedPool
from harness.pool.union import unite
from harness.records import Record, read_record
from leaderboard.board import Board
from leaderboard.case import Means
from leaderboard.site import build, command
from leaderboard.verify import verify

FOLDERS = [ByodFolder(path="mine", weight=3), ByodFolder(path="web")]


@pytest.fixture(scope="module")
def board(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an honest entry that mixes 40 pairs, three times, and 50 pairs with 30 % of the pool."""
    root = tmp_path_factory.mktemp("byod")
    mine = synthetic.world(root / "mine", samples=40, shards=2, seed=8)
    web = synthetic.world(root / "web", samples=50, shards=1, seed=9)
    union = unite({"pool": sealed, "byod-1": mine, "byod-2": web}, root / "union")
    chosen = [synthetic.subset_of(sealed, keep=0.3), np.repeat(np.asarray(mine.uids), 3), np.asarray(web.uids)]
    run = synthetic.run(root / "run", union, uid.sort(np.concatenate(chosen)), byod=FOLDERS)
    write_entry([run], root / "tiny" / "mixed", about=About(name="Mixed", external_data=["90 pairs of our own"]))
    return root / "tiny" / "mixed"


def problems(folder: Path, means: Means) -> list[str]:
    return [f"{f.check}: {f.where} {f.what}" for f in verify(folder, means=means).findings]


def changed(folder: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record's content and mend its digest in entry.json."""
    value = json.loads((folder / path).read_text())
    change(value)
    (folder / path).write_text(json.dumps(value))
    entry = json.loads((folder / "entry.json").read_text())
    if path != "entry.json":
        entry["inputs"][path] = Record.model_validate(value).digest
        (folder / "entry.json").write_text(json.dumps(entry))


def pool_digest(folder: Path) -> str:
    return read_record(folder / "pool" / "pool.json", "pool").digest


@pytest.fixture
def spoiled(board: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(board, tmp_path / "tiny" / "spoiled"))


def test_an_honest_entry_is_verified(board: Path, means: Means) -> None:
    result = verify(board, means=means)
    assert result.findings == []
    assert result.outcome == "ok"
    assert {"sources", "weights"} <= set(result.checks)


def test_its_page_lists_the_sources(board: Path, tmp_path: Path) -> None:
    build(Board.load(board.parents[1], verified=tmp_path / "none"), tmp_path / "site")
    page = next(
        path
        for path in (tmp_path / "site").rglob("*.html")
        if "Mixed" in path.read_text() and "byod-1" in path.read_text()
    )
    assert "byod-1: 40 pairs, weight 3, digest" in page.read_text()
    assert "90 pairs of our own" in page.read_text()


def test_how_to_run_it_again_names_the_folders(board: Path, tmp_path: Path) -> None:
    (row,) = Board.load(board.parents[1], verified=tmp_path / "none").rows
    *_, last = command(row).split("\n")
    config = compose(shlex.split(last)[3:])
    assert [(folder.path, folder.weight) for folder in config.byod] == [("BYOD-1", 3), ("BYOD-2", 1)]
    assert (config.method.name, config.subset, config.pool.weight) == ("clip_score", None, 1)


def test_the_track_cannot_be_hidden(spoiled: Path, means: Means) -> None:
    changed(spoiled, "entry.json", lambda e: e["payload"]["about"].update(track="filtering"))
    assert "sources: entry.json track is filtering, but byod folders were trained on" in problems(spoiled, means)


def test_undeclared_data_are_pointed_out(spoiled: Path, means: Means) -> None:
    changed(spoiled, "entry.json", lambda e: e["payload"]["about"].update(external_data=[]))
    assert problems(spoiled, means) == ["sources: entry.json external_data does not say what the byod folders hold"]


def test_sources_cannot_be_left_out(spoiled: Path, means: Means) -> None:
    changed(spoiled, "entry.json", lambda e: e["payload"]["pool"].update(sources=[]))
    assert any("pool.sources are not the 3 of pool.json" in p for p in problems(spoiled, means))


def test_weights_are_counted(spoiled: Path, means: Means) -> None:
    changed(spoiled, "entry.json", lambda e: e["payload"]["pool"]["sources"][1].update(weight=2))
    found = problems(spoiled, means)
    assert any("weights of the sources" in p for p in found)
    assert "weights: uids.npy 40 pairs of source byod-1 do not count 2 times" in found


def test_a_source_of_other_content(spoiled: Path, means: Means) -> None:
    changed(spoiled, "pool/byod-2/pool.json", lambda r: r["payload"].update(samples=51))
    found = problems(spoiled, means)
    assert any(p.startswith("sources: pool/byod-2/pool.json digest in pool.json") for p in found)
    assert any("samples are not the sum over the sources, 3,091" in p for p in found)


def test_the_pool_must_be_the_contests_own(spoiled: Path, tmp_path: Path) -> None:
    other = synthetic.world(tmp_path / "other", seed=4)
    assert any("is not the generated pool" in p for p in problems(spoiled, Means(pool=other)))


@pytest.mark.parametrize("name", ["../../etc", "byod-0", "", "pool/pool"])
def test_names_of_sources_are_no_paths(spoiled: Path, means: Means, name: str) -> None:
    changed(spoiled, "pool/pool.json", lambda r: r["payload"]["sources"][1].update(name=name))
    assert any("is not a source of a union" in p for p in problems(spoiled, means))


def test_a_swapped_uid_list(spoiled: Path, means: Means) -> None:
    uids = np.array(uid.load(spoiled / "pool" / "uids.npy"))
    uids[-1] = uid.from_hex(["f" * 32])[0]
    uid.save(spoiled / "pool" / "uids.npy", uids)
    digest = sha256_file(spoiled / "pool" / "uids.npy")
    changed(spoiled, "entry.json", lambda e: e["inputs"].update({"pool/uids.npy": digest}))
    assert any("its digest of the uids" in p for p in problems(spoiled, means))
    changed(spoiled, "pool/pool.json", lambda r: r["payload"].update(uids=uid.digest(uids)))
    changed(spoiled, "entry.json", lambda e: e["payload"]["pool"].update(digest=pool_digest(spoiled)))
    assert any("source byod-2 does not hold the uids of its record" in p for p in problems(spoiled, means))
