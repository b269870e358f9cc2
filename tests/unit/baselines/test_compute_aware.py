"""The law of utility and repetition, by hand and from planted runs, and the buckets it chooses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_pool import context, plant, rows_of

from baselines import compute_aware
from baselines._utility import Fit, Runs, fitted, promise
from harness import ArtifactError, ConfigError, Pool

N = 10_000


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Row i is the i-th best by score."""
    return plant(tmp_path_factory.mktemp("ranked"), scores=1 - np.arange(N) / N)


def test_compute_aware_keeps_less_with_few_samples_seen(ranked: Pool, tmp_path: Path) -> None:
    sizes = []
    for times in (0.25, 0.5, 1, 5, 10, 50):
        ctx = context(tmp_path, samples_seen=int(times * N))
        found = compute_aware.select(ranked, ctx=ctx)
        assert rows_of(ranked, found) == list(range(len(found)))
        sizes.append(len(found))
    # At medium's own budget (1) and ten times of it the paper's code finds the same numbers of buckets.
    assert sizes == [1000, 1000, 2000, 2000, 3000, 3000]


def test_compute_aware_follows_the_fit(ranked: Pool, tmp_path: Path) -> None:
    # Equal utilities that never decay with repetition, or do at once: one bucket is enough, or all are wanted.
    ctx = context(tmp_path, samples_seen=4 * N)
    (tmp_path / "fit.json").write_text('{"utility": [0.2, 0.19], "half_life": [1e9, 1e9], "origin": 0.01}')
    fit = str(tmp_path / "fit.json")
    assert len(compute_aware.select(ranked, ctx=ctx, fit=fit, bucket=0.5)) == N // 2
    (tmp_path / "fit.json").write_text('{"utility": [0.2, 0.19], "half_life": [0.1, 0.1], "origin": 0.01}')
    assert len(compute_aware.select(ranked, ctx=ctx, fit=fit, bucket=0.5)) == N
    # A later bucket that is better is taken alone.
    found = compute_aware.select(
        ranked, ctx=context(tmp_path, samples_seen=N // 2), utility=[0.1, 0.3], half_life=[5, 5]
    )
    assert rows_of(ranked, found) == list(range(1000, 2000))


def test_compute_aware_refuses_runs_on_other_buckets(ranked: Pool, tmp_path: Path) -> None:
    runs = [{"bucket": 0, "pairs": 2000, "samples": samples, "error": 0.5} for samples in (1000, 4000)]
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(ConfigError, match=r"runs\.json: a run on 2000 pairs, but buckets have 1000"):
        compute_aware.select(ranked, ctx=context(tmp_path), runs=str(tmp_path / "runs.json"))


def test_promise_by_hand() -> None:
    fit = Fit(utility=[0.2, 0.1], half_life=[1, 2], origin=1)
    sizes = np.array([100, 300])
    # One bucket, 250 samples: a whole epoch, another at half the utility, half of one at a quarter.
    one = 0.2 * np.log(100 / 10) + 0.1 * np.log(200 / 100) + 0.05 * np.log(250 / 200)
    assert promise(fit, sizes, [0], 250, 10) == pytest.approx(one)
    # Both, 800 samples: half-lives 1 * 4 and 2 * 4 / 3 epochs of the mixture.
    first = 0.25 * 0.2 + 0.75 * 0.1
    second = 0.25 * 0.2 * 0.5 ** (1 / 4) + 0.75 * 0.1 * 0.5 ** (3 / 8)
    both = first * np.log(400 / 10) + second * np.log(2)
    assert promise(fit, sizes, [0, 1], 800, 10) == pytest.approx(both)


def test_only_the_named_buckets(ranked: Pool, tmp_path: Path) -> None:
    found = rows_of(ranked, compute_aware.select(ranked, ctx=context(tmp_path), only=[9, 2, 2]))
    assert found == [*range(2000, 3000), *range(9000, N)]
    with pytest.raises(ConfigError, match="10 buckets"):
        compute_aware.select(ranked, ctx=context(tmp_path), only=[10])


TRUE = Fit(utility=[0.3, 0.12], half_life=[1.5, 6.0], origin=0.02)


def runs_of(law: Fit, noise: float = 0.0) -> dict[str, Any]:
    """Runs on two buckets of 1,000 pairs whose errors follow `law` above a floor of 0.02."""
    rng = np.random.default_rng(0)
    runs = []
    for bucket in (0, 1):
        for samples in (250, 500, 1000, 2000, 4000, 8000):
            left = np.exp(-promise(law, np.full(2, 1000), [bucket], samples, law.origin * N) + rng.normal() * noise)
            runs.append({"bucket": bucket, "pairs": 1000, "samples": samples, "error": 0.02 + float(left)})
    return {"runs": runs, "floor": 0.02}


def test_a_law_is_found_again_from_its_runs() -> None:
    found = fitted(Runs.model_validate(runs_of(TRUE)), N)
    assert found.utility == pytest.approx(TRUE.utility, rel=1e-4)
    assert found.half_life == pytest.approx(TRUE.half_life, rel=1e-4)


def test_runs_decide_what_is_kept(ranked: Pool, tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(runs_of(TRUE, noise=0.002)))
    sizes = [
        len(compute_aware.select(ranked, ctx=context(tmp_path, samples_seen=samples), runs=str(path)))
        for samples in (1000, 20_000)
    ]
    assert sizes == [1000, 2000]


def test_runs_that_tell_too_little_are_refused() -> None:
    runs = runs_of(TRUE)["runs"]
    with pytest.raises(ConfigError, match="bucket 1: a fit needs two"):
        fitted(Runs.model_validate({"runs": runs[:7]}), N)
    with pytest.raises(ConfigError, match=r"not above the floor 0\.9"):
        fitted(Runs.model_validate({"runs": runs, "floor": 0.9}), N)


def test_a_pair_without_a_score_is_in_no_bucket(tmp_path: Path) -> None:
    pool = plant(tmp_path, scores=[np.nan] * 70 + [0.1] * 30)
    found = compute_aware.select(pool, ctx=context(tmp_path / "s", samples_seen=10**6), utility=[1.0] * 9,
                                 half_life=[9.0] * 9)  # fmt: skip
    assert rows_of(pool, found) == list(range(70, 100))


def test_compute_aware_refuses_what_does_not_fit(ranked: Pool, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(ConfigError, match="4 utilities and 1 half-lives"):
        compute_aware.select(ranked, ctx=ctx, half_life=[1.0])
    with pytest.raises(ConfigError, match=r"setting method\.utility"):
        compute_aware.select(ranked, ctx=ctx, utility=[], half_life=[])
    with pytest.raises(ConfigError, match=r"give one of method\.fit"):
        compute_aware.select(ranked, ctx=ctx, utility=[1.0], half_life=[1.0], fit="fit.json")
    with pytest.raises(ConfigError, match=r"setting method\.bucket: the paper's law is of tenths, not of 0\.5"):
        compute_aware.select(ranked, ctx=ctx, bucket=0.5)
    for text, error, match in (
        ("{", ArtifactError, "JSON"),
        ("[1]", ConfigError, r"fit\.json"),
        ('{"utility": [-1]}', ConfigError, r"fit\.json.*utility"),
    ):
        (tmp_path / "fit.json").write_text(text)
        with pytest.raises(error, match=match):
            compute_aware.select(ranked, ctx=ctx, fit=str(tmp_path / "fit.json"))
