"""The metrics against the reference's vectors, and against independent formulations on fresh inputs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import check_vectors
from harness.errors import ArtifactError, ConfigError
from harness.eval import metrics

VECTORS = Path(__file__).parents[2] / "golden" / "metrics"


def test_vectors_agree_to_the_last_digit_we_promise(capsys):
    assert check_vectors.command([str(VECTORS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith("ok") for line in lines)


def test_every_kind_has_a_vector():
    assert {check_vectors.kind_of(path.stem) for path in VECTORS.glob("*.npz")} == set(check_vectors.KINDS)


@pytest.mark.parametrize("change", [{"acc1": 0.5}, {"acc1": None}, {"no_such_key": 0.5}, {"acc5": 0.25}])
def test_a_wrong_answer_is_found(tmp_path, capsys, change):
    shutil.copy(VECTORS / "classification_two.npz", tmp_path)
    answers = json.loads((VECTORS / "classification_two.json").read_text())
    (tmp_path / "classification_two.json").write_text(json.dumps(answers | change))
    assert check_vectors.command([str(tmp_path)]) == 1
    assert next(iter(change)) in capsys.readouterr().out


@pytest.mark.parametrize("answers", ["[]", "{}", '["acc1"]', '{"acc1": "x"}', '{"acc1": [1]}'])
def test_answers_that_are_none_do_not_agree(tmp_path, answers):
    shutil.copy(VECTORS / "classification_two.npz", tmp_path)
    (tmp_path / "classification_two.json").write_text(answers)
    with pytest.raises(ArtifactError, match="not a pair of inputs and answers"):
        check_vectors.compare(tmp_path)


@pytest.mark.parametrize("inputs", [
    {"pred": [0.0], "target": [0.0], "metadata": [[0.0, 0.0, 0.0]]}, {"pred": [0], "target": [0], "metadata": [0]},
])  # fmt: skip
def test_inputs_of_another_shape_are_refused(tmp_path, inputs):
    shutil.copy(VECTORS / "wilds_fmow.json", tmp_path)
    np.savez(tmp_path / "wilds_fmow.npz", **{name: np.array(values) for name, values in inputs.items()})
    with pytest.raises(ArtifactError, match="not a pair of inputs and answers"):
        check_vectors.compare(tmp_path)


def test_vectors_of_no_kind_or_without_answers_are_refused(tmp_path):
    with pytest.raises(ArtifactError):
        check_vectors.compare(tmp_path)
    shutil.copy(VECTORS / "classification_two.npz", tmp_path)
    with pytest.raises(ArtifactError):
        check_vectors.compare(tmp_path)
    (tmp_path / "classification_two.npz").rename(tmp_path / "other.npz")
    with pytest.raises(ConfigError):
        check_vectors.compare(tmp_path)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_best_is_a_stable_sort_with_ties(rows, columns, k, seed):
    scores = np.random.default_rng(seed).integers(0, 4, (rows, columns)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    top = metrics.best(scores, k)
    assert top.shape == (rows, k)
    assert np.array_equal(top[:, : expected.shape[1]], expected)
    assert (top[:, expected.shape[1] :] == -1).all()


@given(st.integers(2, 200), st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_classification_by_the_definition(n, classes, seed):
    rng = np.random.default_rng(seed)
    scores, target = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    values = metrics.classification({"top": metrics.best(scores, 5), "target": target})
    order = np.argsort(-scores, axis=1)
    assert values["acc1"] == pytest.approx(np.mean(order[:, 0] == target))
    if classes < 5:
        assert np.isnan(values["acc5"])
    else:
        assert values["acc5"] == pytest.approx(np.mean([t in row[:5] for t, row in zip(target, order, strict=True)]))
    recalls = [np.mean(order[target == c, 0] == c) for c in np.unique(target)]
    assert values["mean_per_class_recall"] == pytest.approx(np.mean(recalls))


def test_groups_that_are_empty_are_nan_and_left_out_of_the_worst():
    hits = np.array([True, False, True, True])
    values = metrics.by_group("acc", hits, {"region": np.array([0, 0, 3, 3])}, "acc_wg")
    assert np.isnan(values["acc_region:1"])
    assert values["count_region:1"] == 0
    assert values["acc_wg"] == 0.5
    reported, counts = metrics.evaluate("fairness_geode", {
        "top": np.array([[0, 1, 2, 3, 4]] * 3), "target": np.array([0, 0, 1]),
        "metadata": np.array([[0, 5], [2, 5], [2, 5]]),
    })  # fmt: skip
    assert reported["acc_region:1"] is None
    assert counts == {"count_region:0": 1, "count_region:1": 0, "count_region:2": 2}
    assert not any(key.startswith("count") for key in reported)


def test_fmow_keeps_the_reference_s_fault_and_shows_the_corrected_value():
    target = np.array([0, 0, 0, 0])
    top = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4], [1, 0, 2, 3, 4]])
    metadata = np.array([[0, 14, 0], [0, 14, 0], [metrics.FMOW_OTHER, 15, 0], [metrics.FMOW_OTHER, 15, 0]])
    top[2] = top[1]  # region Other: none right
    values = metrics.fmow({"top": top, "target": target, "metadata": metadata})
    assert values["acc_worst_region"] == 0.0
    assert values["acc_worst_region_without_other"] == 0.5


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_retrieval_by_the_definition(images, captions, seed):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(images), rng.integers(1, captions + 1, images))
    pictures, texts = rng.normal(size=(images, 8)), rng.normal(size=(len(index), 8))
    values = metrics.retrieval(metrics.retrieval_columns(pictures, texts, index))
    scores = texts @ pictures.T
    for k in metrics.RECALL_AT:
        by_text = [index[i] in np.argsort(-scores[i])[:k] for i in range(len(index))]
        by_image = [(index[np.argsort(-scores[:, j])[:k]] == j).any() for j in range(images)]
        assert values[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(by_text), abs=1e-6)
        assert values[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(by_image), abs=1e-6)


def test_winogavil_edges():
    nothing = np.full((2, 12), -1)
    columns = {"chosen": nothing, "associated": nothing, "candidates": np.array([5, 5])}
    values = metrics.winogavil(columns)
    assert values["avg_jaccard_score"] == 0.0
    assert np.isnan(values["jaccard_score_10-12"])
    assert metrics.chosen(np.array([0.5, 0.5, 0.1]), 1).tolist() == [1]
    assert metrics.chosen(np.array([0.5]), 0).tolist() == []
