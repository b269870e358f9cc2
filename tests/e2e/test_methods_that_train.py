"""Methods that rest on training runs of one's own, by the commands of docs/methods.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import Pool, Subset, executor, score, select
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.records import read_json
from harness.train.__main__ import command as train


@pytest.mark.slow
def test_a_filter_network_is_trained_on_trusted_pairs_and_chosen_by(run_in: Path, mini_pool: Path) -> None:
    shutil.copytree(mini_pool, "pool")
    seal("pool", executor=executor.local(1))
    small = ["scale=tiny", "scale.samples_seen=256", "scale.batch_size=64", "scale.warmup_steps=1", "train.workers=0"]
    right = "pool.path=pool/targets/trusted"
    select.command(["scale=tiny", right, "method=no_filter", "out=right.npy"])
    train([*small, right, "subset=right.npy", "out=filter"])
    where = ["pool.path=pool", "model=clip-tiny", "checkpoint=filter/checkpoint.safetensors", "name=dfn"]
    score.command([*where, "device=cpu"])
    select.command(["scale=tiny", "pool.path=pool", "method=clip_score", "method.arch=dfn", "out=dfn.npy"])
    pool = Pool.open("pool", sealed=SealedPool.open("pool"))
    scores = np.concatenate(
        pool.map(lambda table: table["clip_dfn_similarity_score"].to_numpy(), columns=["clip_dfn_similarity_score"])
    )
    assert np.isfinite(scores).all() and len(np.unique(scores)) > 300
    border = np.sort(scores)[-int(640 * 0.3) - 1]
    kept = pool.filter(within={"clip_dfn_similarity_score": (border, None)})
    np.testing.assert_array_equal(Subset.load("dfn.npy").uids, kept)
    # Other methods take its embeddings by the same name.
    select.command(["scale=tiny", "pool.path=pool", "method=negcliploss", "method.arch=dfn", "out=loss.npy"])
    select.command(
        ["scale=tiny", "pool.path=pool", "method=prototypes", "method.key=dfn_img", "method.clusters=3", "out=far.npy"]
    )
    assert len(Subset.load("loss.npy")) == 193 and len(Subset.load("far.npy")) == 192


@pytest.mark.slow
def test_cluster_mixture_learns_from_runs_on_its_candidates(run_in: Path, mini_settings: list[str]) -> None:
    mixture = ["method=cluster_mixture", "method.clusters=3", "method.candidates=50"]
    told = []
    for candidate in range(3):
        harness.run(*mini_settings, *mixture, f"method.candidate={candidate}", f"run_dir=mixture{candidate}")
        entry = read_json(f"mixture{candidate}/entry/entry.json")["payload"]
        # Some tasks have no average; theirs is as good a score as any.
        mean = float(np.mean([task["score"] for task in entry["tasks"]]))
        told.append({"candidate": entry["method"]["params"]["candidate"], "score": mean})
    assert [one["candidate"] for one in told] == [0, 1, 2]
    assert len({Subset.load(f"mixture{number}/uids.npy").digest for number in range(3)}) == 3
    Path("runs.json").write_text(json.dumps({"rounds": [told]}))
    harness.run(*mini_settings, *mixture, "method.runs=runs.json", "run_dir=best")
    remarks = read_json("best/subset.json")["payload"]["remarks"]
    assert any(remark.startswith("mixture after 3 runs in 1 rounds: 0.") for remark in remarks)
    assert len(Subset.load("best/uids.npy")) == 192
