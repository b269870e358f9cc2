"""The board's data filtering network, on a small pool."""

from pathlib import Path

import numpy as np
import pytest

from harness import Pool, Subset
from harness.tiny import cache

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_the_network_chooses_its_best_and_leaves_the_pool_alone(
    run_in: Path, mini_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import dfn

    monkeypatch.setattr(cache, "ensure_pool", lambda: str(mini_pool))
    before = {path: path.stat().st_mtime_ns for path in mini_pool.rglob("*") if path.is_file()}
    given = ["samples_seen=256", "fraction=0.25", "folder=work", "out=dfn.npy"]
    dfn.command(given)
    assert {path: path.stat().st_mtime_ns for path in mini_pool.rglob("*") if path.is_file()} == before
    column = "clip_dfn_similarity_score"
    pool = Pool.open("work/pool")
    scores = np.concatenate(pool.map(lambda table: table[column].to_numpy(), columns=[column]))
    border = np.sort(scores)[-len(scores) // 4 - 1]
    np.testing.assert_array_equal(Subset.load("dfn.npy").uids, pool.filter(within={column: (border, None)}))
    stamps = [Path(name).stat().st_mtime_ns for name in ("work/filter/checkpoint.safetensors", "work/best.npy")]
    dfn.command(given)  # nothing is done again
    assert stamps == [Path(name).stat().st_mtime_ns for name in ("work/filter/checkpoint.safetensors", "work/best.npy")]
