"""Replicates agree with the evaluators, with SciPy's bootstrap, and are paired across models."""

import numpy as np
import pytest
import synthetic
from scipy import stats

from harness import bootstrap
from harness.errors import ConfigError
from harness.eval import metrics
from harness.eval import suite as suites
from harness.eval.suite import Task

SUITE = suites.load("tiny")


@pytest.mark.parametrize("task", SUITE.scored, ids=lambda task: task.key)
def test_every_sample_once_gives_the_main_metric(task: Task) -> None:
    _, columns = synthetic.answers(task, skill=0.4, seed=1)
    form = bootstrap.ratios(task, columns)
    values, _ = metrics.evaluate(task.metrics, columns)
    assert form.units == task.samples
    assert form.scores(np.ones((1, form.units)))[0] == pytest.approx(values[task.main_metric], abs=1e-6)


@pytest.mark.parametrize("metrics_name", ["classification", "wilds_iwildcam", "wilds_fmow", "winogavil"])
def test_a_weight_is_a_repeated_row(metrics_name: str) -> None:
    task = next(task for task in SUITE.scored if task.metrics == metrics_name)
    _, columns = synthetic.answers(task, skill=0.4, seed=1)
    drawn = bootstrap.weights(task.key, units=task.samples, start=3, stop=4)
    rows = np.repeat(np.arange(task.samples), drawn[0])
    values, _ = metrics.evaluate(task.metrics, {name: column[rows] for name, column in columns.items()})
    score = bootstrap.ratios(task, columns).scores(drawn)[0]
    assert score == pytest.approx(values[task.main_metric], abs=1e-6)


def test_intervals_agree_with_scipy() -> None:
    task = SUITE.tasks["cifar10"]
    _, columns = synthetic.answers(task, skill=0.4, seed=1)
    hits = (columns["top"][:, 0] == columns["target"]).astype(float)
    expected = stats.bootstrap((hits,), np.mean, method="percentile", n_resamples=2000, rng=0).confidence_interval
    found = bootstrap.interval(bootstrap.task_replicates(task, [columns])[0], hits.mean())
    assert found == pytest.approx(tuple(expected), abs=0.006)


def test_draws_are_the_same_for_every_model_and_every_part() -> None:
    whole = bootstrap.weights("a", units=77, start=0, stop=20)
    assert (bootstrap.weights("a", units=77, start=7, stop=11) == whole[7:11]).all()
    assert (whole.sum(axis=1) == 77).all()
    assert (bootstrap.weights("b", units=77, start=0, stop=20) != whole).any()


def test_replicates_do_not_depend_on_how_much_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SUITE.tasks["retrieval/flickr_1k_test_image_text_retrieval"]
    runs = [synthetic.answers(task, skill=skill, seed=1)[1] for skill in (0.3, 0.5)]
    whole = bootstrap.task_replicates(task, runs, replicates=50)
    monkeypatch.setattr(bootstrap, "CHUNK", 1000)
    assert np.array_equal(bootstrap.task_replicates(task, runs, replicates=50), whole)
    assert whole[1].mean() > whole[0].mean()


def test_an_unknown_metric_is_an_error() -> None:
    task = SUITE.tasks["cifar10"].model_copy(update={"main_metric": "auc"})
    with pytest.raises(ConfigError, match="auc"):
        bootstrap.ratios(task, synthetic.answers(SUITE.tasks["cifar10"], skill=0.4, seed=1)[1])
