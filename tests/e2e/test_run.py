"""The whole round: it ends with an entry, does nothing twice, and refuses what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import compare
from harness.errors import ConfigError, InfraError
from harness.files import lock
from harness.records import Record, read_json, read_record, write_record
from harness.rescore import folder_of, rescore


def records(run_dir: Path) -> dict[str, str]:
    """Path of each record of a run, relative to it, to the record's digest."""
    return {
        str(path.relative_to(run_dir)): Record.model_validate(value).digest
        for path in sorted(run_dir.rglob("*.json"))
        if isinstance(value := read_json(path), dict) and "schema_version" in value
    }


@pytest.mark.slow
def test_a_round_ends_with_an_entry_and_is_not_done_twice(run_in: Path, mini_settings: list[str]) -> None:
    result = harness.run(*mini_settings, "method=clip_score", "method.fraction=0.5", "run_dir=a")
    assert {"config.json", "subset.json", "train/train.json", "eval/evaluation.json", "entry/entry.json"} <= set(
        records(run_in / "a")
    )
    assert (run_in / "a" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (run_in / "a" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert result.run_dir == Path("a")
    train = read_json("a/train/train.json")["payload"]
    assert train["samples_seen"] == 448
    assert len((run_in / "a" / "train" / "log.jsonl").read_text().splitlines()) == 4
    before = {path: path.stat().st_mtime_ns for path in (run_in / "a").rglob("*.json")}
    harness.run(*mini_settings, "method=clip_score", "method.fraction=0.5", "run_dir=a")
    kept = {path: stamp for path, stamp in before.items() if "entry" not in path.parts}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    # The same subset as a ready uid file gives the same model, bit by bit.
    harness.run(*mini_settings, "subset=a/uids.npy", "run_dir=b")
    assert read_json("b/train/train.json")["payload"]["checkpoint"] == train["checkpoint"]

    with pytest.raises(ConfigError, match="seed=0, asked now for seed=1"):
        harness.run(*mini_settings, "method=clip_score", "method.fraction=0.5", "run_dir=a", "seed=1")
    with pytest.raises(ConfigError, match=r"method.params.fraction=0.5, asked now for method.params.fraction=0.2"):
        harness.run(*mini_settings, "method=clip_score", "method.fraction=0.2", "run_dir=a")
    config = read_record(run_in / "a" / "config.json", "config")
    write_record(run_in / "a" / "config.json", config.model_copy(update={"protocol": "v0"}))
    with pytest.raises(ConfigError, match="protocol=v0, asked now for protocol=v1"):
        harness.run(*mini_settings, "method=clip_score", "method.fraction=0.5", "run_dir=a")
    write_record(run_in / "a" / "config.json", config)
    with lock(run_in / "a"), pytest.raises(InfraError, match="another command"):
        harness.run(*mini_settings, "method=clip_score", "method.fraction=0.5", "run_dir=a")


@pytest.mark.slow
def test_masked_and_resharded_runs_are_equal_bit_by_bit(run_in: Path, mini_settings: list[str]) -> None:
    for reading in ("mask", "reshard"):
        harness.run(*mini_settings, "method=random_subset", f"train.reading={reading}", f"run_dir={reading}")
    first, second = (read_json(f"{r}/train/train.json")["payload"] for r in ("mask", "reshard"))
    assert first["checkpoint"] == second["checkpoint"]
    assert first["ledger"] == second["ledger"]


@pytest.mark.slow
def test_holding_pairs_out(run_in: Path, mini_settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    harness.run(*mini_settings, "method=no_filter", "pool.holdout=64", "run_dir=a")
    held = read_json("a/holdout/eval/holdout.json")["payload"]
    assert held["samples"] == 64
    assert rescore(folder_of("a/holdout")) == {"holdout": [], "aggregates": []}
    uids = np.load("a/uids.npy", allow_pickle=False)
    assert len(uids) == 640 - 64
    compare.command(["a/holdout", "out=held.png"])
    assert "\nholdout " in capsys.readouterr().out
    assert read_json("a/config.json")["payload"]["unofficial"] == [
        "scale.samples_seen",
        "scale.batch_size",
        "scale.warmup_steps",
        "pool.holdout",
    ]


def test_dry_run_prints_the_plan_and_starts_nothing(
    run_in: Path, mini_settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.compose import compose
    from harness.executor import local
    from harness.pool.seal import seal
    from harness.stages import run_config

    overrides = [*mini_settings, "method=random_subset", "method.fraction=0.25", "dry_run=true"]
    seal(overrides[1].split("=")[1], executor=local(1))
    assert run_config(compose(overrides)) is None
    plan = capsys.readouterr().out
    for word in ("160 uids", "2.80 times each", "4 steps of 128 (last 64)", "448 samples seen", "unofficial"):
        assert word in plan, (word, plan)
    assert list(run_in.iterdir()) == []


def test_run_is_a_function_whatever_was_imported(run_in: Path) -> None:
    import importlib

    importlib.import_module("harness.run")
    from harness import run

    assert callable(run), "the module harness.run hides the function"
    assert json.dumps(sorted(harness.__all__)) == json.dumps(harness.__all__)
    for name in harness.__all__:
        assert getattr(harness, name) is not None
