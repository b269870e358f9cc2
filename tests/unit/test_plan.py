"""The plan of a run is arithmetic on its settings."""

from dataclasses import replace

import pytest

from harness.compose import compose
from harness.config import load_scale
from harness.plan import Chosen, Plan, duration, forward_macs, parameters

CHOSEN = Chosen(size=3_440_000, distinct=3_440_000, shard_bytes=404_000_000_000, reshard=False)


def _plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "config": compose(["scale=small", "method=no_filter"]),
        "pool_size": 11_482_113,
        "chosen": CHOSEN,
        "missing_tasks": [],
        "device": "NVIDIA H200",
        "cores": 16,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def test_numbers() -> None:
    plan = _plan()
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


def test_what_is_not_known_before_the_pool_is_made_is_not_stated() -> None:
    text = "\n".join(_plan(pool_size=65_536, chosen=None, missing_tasks=None).lines())
    assert "65,536 pairs, generated" in text
    assert "not known before the pool is there" in text
    assert "stand-ins, generated" in text
    assert "a pass" not in text
    assert "there is no folder" in "\n".join(_plan(no_tasks="there is no folder").lines())


def test_resharding_writes_what_is_kept() -> None:
    resharded = _plan(chosen=replace(CHOSEN, reshard=True))
    assert resharded.disk_bytes - _plan().disk_bytes == _plan().pass_bytes


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


def test_a_subset_of_which_no_entry_is_accepted_is_named() -> None:
    few, enough = replace(CHOSEN, size=12_787), replace(CHOSEN, size=12_788)
    text = "\n".join(_plan(chosen=few).lines())
    assert "12,787 uids are passed over 1,001 times, 1,000 are the most" in text
    assert "choose 12,788 uids or more" in text
    assert "not accepted" not in "\n".join(_plan(chosen=enough).lines())
