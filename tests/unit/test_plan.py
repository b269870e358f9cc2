"""The plan of a run is arithmetic on its settings."""

import pytest

from harness.compose import compose
from harness.config import load_scale
from harness.plan import Plan, duration, forward_macs, parameters


def _plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "config": compose(["scale=small", "method=no_filter"]),
        "pool_size": 11_482_113,
        "subset_size": 3_440_000,
        "subset_distinct": 3_440_000,
        "shard_bytes": 404_000_000_000,
        "missing_tasks": [],
        "device": "NVIDIA H200",
        "cores": 16,
        "reshard": False,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def test_numbers() -> None:
    plan = _plan()
    assert plan.repeats == pytest.approx(3.72, abs=0.01)
    assert plan.pass_bytes == pytest.approx(121e9, rel=0.01)
    text = "\n".join(plan.lines())
    for words in (
        "3,440,000 uids",
        "3.72 times each",
        "3,125 steps of 4,096",
        "1 x NVIDIA H200",
        "all there",
        "official",
    ):
        assert words in text


def test_missing_tasks_and_changed_settings_are_named() -> None:
    text = "\n".join(_plan(missing_tasks=["cifar10"], config=compose(["scale=small", "scale.lr=1e-3"])).lines())
    assert "1 missing: cifar10" in text
    assert "unofficial: scale.lr" in text


def test_resharding_writes_what_is_kept() -> None:
    assert _plan(reshard=True).disk_bytes - _plan().disk_bytes == _plan().pass_bytes


def test_the_papers_compute() -> None:
    # DataComp, table 1: MACs of the forward pass times samples seen. 7.4 GMACs a sample at B-32.
    for scale, macs in (("small", 9.5e16), ("medium", 9.5e17), ("large", 2.6e19), ("xlarge", 1.1e21)):
        recipe = load_scale(scale)
        assert forward_macs(recipe) * recipe.samples_seen == pytest.approx(macs, rel=0.05)


def test_models_of_our_own_are_counted_from_their_shape() -> None:
    tiny = load_scale("tiny")
    assert 7e6 < parameters(tiny) < 8.5e6
    assert 1e7 < forward_macs(tiny) < 5e7


def test_durations() -> None:
    assert [duration(s) for s in (4, 89, 240, 7200)] == ["4 s", "89 s", "4 min", "2.0 h"]
