"""Only the realised pairs of a sealed pool are seen."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from metadata_pool import (
    SCORE,
    SIZES,
    column,
    every,
    sealed,
    uid_hex,
)

from harness import Pool, executor, uid
from harness.errors import ArtifactError
from harness.pool import masks, scanning, view
from harness.pool.reading import MetadataFile
from harness.uid import to_hex as hexes


@pytest.mark.parametrize("holdout", [0, 9])
def test_only_realised_pairs_are_visible(folder: Path, holdout: int) -> None:
    real = [*every()[::3], uid_hex("not in the metadata")]
    seal = sealed(folder, real)
    held = {real[row] for row in seal.holdout(holdout)}
    wanted = [text for text in every()[::3] if text not in held]
    pool = Pool.open(folder, sealed=seal, holdout=holdout)
    assert len(pool) == len(wanted)
    assert hexes(pool.uids()) == sorted(wanted)
    assert sum(pool.map(lambda table: table.num_rows, columns=["text"])) == len(wanted)
    seen = [
        text
        for part in pool.map(lambda t, f: t["uid"].to_pylist(), columns=["uid"], features=["b32_img"])
        for text in part
    ]
    assert seen == wanted
    scores = dict(zip(every(), column(SCORE), strict=True))
    values = np.array([scores[text] for text in wanted])
    assert pool.threshold(SCORE, keep=0.4) == -np.sort(-values)[int(len(values) * 0.4)]
    assert hexes(pool.filter(within={SCORE: (0.25, None)})) == sorted(
        t for t in wanted if scores[t] >= np.float32(0.25)
    )
    assert set(hexes(pool.sample(5, rng=np.random.default_rng(0)))) <= set(wanted)
    assert pool.contains(uid.sort(uid.from_hex(every()))).sum() == len(wanted)
    assert pool.digest == seal.digest


def test_agreeing_pools_need_no_mask(folder: Path) -> None:
    pool = Pool.open(folder, sealed=sealed(folder, every()))
    assert len(pool) == sum(SIZES)
    assert all(file.mask is None for file in pool._files)


def test_what_is_visible_is_looked_up_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "KEEP_FROM", 0)
    seal, looked = sealed(folder, every()[::3]), []
    uids_of = scanning.uids

    def counted(file: MetadataFile, within: Any) -> uid.Uids:
        looked.append(file.path)
        return uids_of(file, within)

    def lookups(holdout: int = 0) -> int:
        """Files whose uids were read to see which rows are there."""
        looked.clear()
        pool = Pool.open(folder, sealed=seal, holdout=holdout, executor=executor.local(1))
        assert len(pool) == len(every()[::3]) - holdout
        count = len(looked)
        assert set(hexes(pool.uids())) <= set(every()[::3])
        return count

    monkeypatch.setattr(scanning, "uids", counted)
    assert [lookups(), lookups(), lookups(holdout=9), lookups(holdout=9), lookups()] == [3, 0, 3, 0, 0]
    path = folder / "metadata" / f"{1:032x}.parquet"
    os.utime(path, ns=(1, 1))
    assert [lookups(), lookups()] == [1, 0]
    # Where the seal cannot be written nothing is kept.
    shutil.rmtree(folder / f"visible-{seal.digest[:16]}")
    monkeypatch.setattr(masks.Masks, "_place", lambda *_: Path("/sys/visible/mask.npy"))
    assert [lookups(), lookups()] == [3, 3]


def test_metadata_of_other_pairs_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strangers = [uid_hex(("elsewhere", n)) for n in range(20)]
    with pytest.raises(ArtifactError, match=r"metadata: no row has the uid of a pair in the tars; put the pool's own"):
        Pool.open(folder, sealed=sealed(folder, strangers)).uids()
    assert len(Pool.open(folder, sealed=sealed(folder, every()[:7] + strangers))) == 7
    assert "metadata: no row for 20 of 27 pairs in the tars; they cannot be chosen" in capsys.readouterr().err
    assert len(Pool.open(folder, sealed=sealed(folder, every()[:7]), holdout=2)) == 5
    assert capsys.readouterr().err == ""


class Far(executor.Executor):
    """Like a cluster: all that is worked on is sent there, and little of it."""

    workers = 2
    largest = 0

    def _results(self, fn: Any, items: Any, name: str, threads: int) -> Iterator[Any]:
        for item in items:
            sent = cloudpickle.dumps((fn, item))
            self.largest = max(self.largest, len(sent))
            function, there = cloudpickle.loads(sent)
            yield function(there)


def test_little_of_a_sealed_pool_is_sent_to_other_machines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    real = [*every()[::3], *(uid_hex(("elsewhere", row)) for row in range(5000))]
    far = Far()

    def found(workers: executor.Executor) -> list[Any]:
        pool = Pool.open(folder, sealed=sealed(folder, real), holdout=9, executor=workers).resuming(tmp_path / "kept")
        keep = pool.threshold(SCORE, keep=0.4)
        uids = pool.filter(lambda table: np.ones(table.num_rows, bool), columns=["text"], within={SCORE: (keep, None)})
        return [len(pool), keep, hexes(uids), hexes(pool.sample(5, rng=np.random.default_rng(0)))]

    assert found(far) == found(executor.local(1))
    assert 0 < far.largest < 20_000 < 16 * len(real)
