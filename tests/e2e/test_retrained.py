"""The whole ladder by the commands that people type: a run, its entry, and a verification up to `retrained`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness.config import Scale
from harness.files import checkout
from harness.tiny import cache as tiny

from .conftest import command

TASKS = ["cifar10", "imagenet1k", "imagenetv2", "vtab/dtd", "retrieval/flickr_1k_test_image_text_retrieval"]
RECIPE = {
    "samples_seen": 448, "batch_size": 128, "warmup_steps": 2, "model": "clip-tiny", "precision": "fp32",
    "checkpoints": 1, "suite": "mini",
}  # fmt: skip


@pytest.fixture
def contest(tmp_path: Path) -> Path:
    """A checkout whose scale debug is locked to 4 steps of a small model and five tasks of tiny."""
    for name in ("harness", "baselines", "leaderboard", "assets"):
        (tmp_path / name).symlink_to(checkout() / name)
    for name in ("configs", "tasks"):
        shutil.copytree(checkout() / name, tmp_path / name)
    scales = tmp_path / "configs" / "scale"
    recipe = yaml.safe_load((scales / "debug.yaml").read_text()) | RECIPE
    (scales / "debug.yaml").write_text(yaml.safe_dump(recipe))
    locked = json.loads((scales / "locked.json").read_text())
    (scales / "locked.json").write_text(json.dumps(locked | {"debug": Scale(**recipe).digest}))
    suite = yaml.safe_load((tmp_path / "tasks" / "suite_tiny.yaml").read_text())
    mini = {"name": "mini", "tasks": {key: suite["tasks"][key] for key in TASKS}}
    (tmp_path / "tasks" / "suite_mini.yaml").write_text(yaml.safe_dump(mini))
    return tmp_path


@pytest.mark.slow
def test_an_entry_is_trained_again(contest: Path, mini_pool: Path) -> None:
    def run(*arguments: str) -> str:
        done = command(*arguments, cwd=contest)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    pool = Path(shutil.copytree(mini_pool, contest / "pool"))
    data, entry = tiny.ensure_tasks(), "debug/mini"
    places = [f"pool.path={pool}", f"eval.data_dir={data}", "train.workers=0", "eval.workers=0"]
    run("harness.run", "scale=debug", "method=clip_score", "method.fraction=0.5", "run_dir=r", *places)
    run("harness.entry", "pack", "r", "--name", "Mini", "--out", entry)
    run("harness.select", f"pool.path={pool}", "method=no_filter", "out=full.npy")
    files = ["--pool", str(pool), "--pool-list", "full.npy", "--files", "r/brought", "--data-dir", str(data)]
    for path in ("uids.npy", "train/checkpoint.safetensors", "eval/predictions"):
        there = contest / "r" / "brought" / ("seed-0" if "/" in path else "") / path
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(contest / "r" / path, there) if there.suffix == "" else shutil.copy(contest / "r" / path, there)
    again = ["--level", "retrained", "--work", "work", "--seed", "5", "--json"]
    result = json.loads(run("leaderboard", "verify", entry, *files, *again))[0]
    assert (result["outcome"], result["reached"]) == ("ok", "retrained")
    assert [finding["check"] for finding in result["findings"]] == ["addresses"]  # nothing was published
    assert sorted(result["evaluated"]) == sorted(TASKS)
    trained = [
        json.loads((contest / path / "train/train.json").read_text())["payload"] for path in ("r", "work/seed-5")
    ]
    assert [payload["seed"] for payload in trained] == [0, 5]
    assert trained[0]["checkpoint"] != trained[1]["checkpoint"]
