"""A whole evaluation on a small suite with a real model: resume, failures, recomputation, conversion."""

import json
import math
import shutil

import numpy as np
import pytest
from evaluated import KEYS, MODEL, evaluate
from open_clip.pretrained import _PRETRAINED

from harness import compare, convert, holdout, rescore
from harness import model as models
from harness.errors import ArtifactError, ConfigError, StageError
from harness.eval import embedders, predictions, report, results, suite
from harness.records import Record, read_record, write_record


def test_every_task_has_a_record_and_predictions(made):
    base, small = made
    evaluation, records = results.read(base / "out")
    assert set(records) == set(KEYS)
    assert evaluation.payload["complete"] and not evaluation.payload["missing"]
    assert not list((base / "out").glob(".classifiers*"))
    for key, record in records.items():
        payload, task = record.payload, small.tasks[key]
        assert payload["samples"] == task.samples
        assert (payload["score"] is None) == (not task.scored)
        if task.scored:
            low, high = payload["interval"]
            assert 0 <= low <= payload["score"] <= high <= 1
            assert payload["metrics"][task.main_metric] == payload["score"]
        assert not any(name.startswith("count") for name in payload["metrics"])
    assert records["vtab/pcam"].payload["metrics"]["acc5"] is None


def test_a_second_run_does_nothing_and_says_the_same(made, monkeypatch):
    base, small = made
    monkeypatch.setattr(embedders, "Encoder", lambda *a, **k: pytest.fail("the model was loaded"))
    before = {path: path.stat().st_mtime_ns for path in (base / "out").glob("*.json")}
    again = evaluate(base, small, base / "out")
    assert again.digest == read_record(base / "out/evaluation.json", "evaluation").digest
    assert before == {path: path.stat().st_mtime_ns for path in (base / "out").glob("*.json")}


def test_what_was_lost_is_made_again_and_equal(made, tmp_path):
    base, small = made
    out = shutil.copytree(base / "out", tmp_path / "out")
    whole = read_record(out / "evaluation.json", "evaluation").digest
    (out / "evaluation.json").unlink()
    (out / "cifar10.json").unlink()
    (out / "misc-winogavil.json").write_text("{}")
    (out / "predictions/wilds-fmow.parquet").write_bytes(b"PAR1 cut short")
    keys, columns = predictions.read(out / "predictions/fairness-geode.parquet")
    columns["top"] = columns["top"] ^ 1
    predictions.write(out / "predictions/fairness-geode.parquet", keys, columns)
    assert evaluate(base, small, out).digest == whole


def test_another_checkpoint_or_precision_is_evaluated_anew(made, tmp_path):
    base, small = made
    out = shutil.copytree(base / "out", tmp_path / "out")
    first = evaluate(base, small, out, tasks=["cifar10"])
    assert first.payload["complete"]
    other = evaluate(base, small, out, checkpoint=base / "1.safetensors", tasks=["cifar10"])
    assert not other.payload["complete"]
    assert list(other.payload["scores"]) == ["cifar10"]
    half = evaluate(base, small, out, precision="amp_bfloat16", tasks=["cifar10"])
    assert half.payload["precision"] == "amp_bfloat16"
    assert half.payload["results"]["cifar10"] != first.payload["results"]["cifar10"]


def test_the_pictures_of_a_tag_are_normalised_as_it_says(made, tmp_path, monkeypatch):
    base, small = made
    tag = {"file": str(base / "0.safetensors")}
    monkeypatch.setitem(_PRETRAINED, MODEL, {"tag": tag})
    said = {}
    for std in (None, [0.5, 0.25, 0.5], [0.5, 0.5, 0.5]):  # another way to see the pictures is another result
        tag |= {} if std is None else {"mean": [0.5, 0.5, 0.5], "std": std}
        record = evaluate(base, small, tmp_path / "out", checkpoint="tag", tasks=["cifar10"])
        payload = read_record(tmp_path / "out/cifar10.json", "task").payload
        assert payload.get("normalisation") == (std and {"mean": [0.5, 0.5, 0.5], "std": std})
        said[payload["predictions"]] = record.digest
    assert len(said) == len(set(said.values())) == 3
    plain = read_record(base / "out/cifar10.json", "task").payload
    assert plain["predictions"] == next(iter(said)) and "normalisation" not in plain


def test_changed_data_or_task_are_evaluated_anew(made, tmp_path):
    base, small = made
    out, data = shutil.copytree(base / "out", tmp_path / "out"), shutil.copytree(base / "data", tmp_path / "data")
    before = read_record(out / "cifar10.json", "task")
    place = data / small.tasks["cifar10"].folder / "classnames.txt"
    place.write_text(place.read_text().replace("thing 0", "thing zero"))
    record = evaluate(base, small, out, data_dir=data)
    after = read_record(out / "cifar10.json", "task")
    assert after.inputs["data"] != before.inputs["data"]
    assert record.payload["results"]["cifar10"] == after.digest


def test_results_whose_data_are_away_stay_when_others_are_evaluated(made, tmp_path):
    base, small = made
    out, data = shutil.copytree(base / "out", tmp_path / "out"), tmp_path / "data"
    folder = small.tasks["cifar10"].folder
    shutil.copytree(base / "data" / folder, data / folder)
    before = read_record(out / results.EVALUATION, "evaluation")
    assert evaluate(base, small, out, data_dir=data, tasks=["cifar10"]).digest == before.digest
    # Not what is broken, of another checkpoint, or unknown to evaluation.json.
    (out / "predictions/vtab-pcam.parquet").write_bytes(b"PAR1")
    record = evaluate(base, small, out, data_dir=data, tasks=["cifar10"])
    assert record.payload["missing"] == ["vtab/pcam"]
    shutil.copy(base / "out/predictions/vtab-pcam.parquet", out / "predictions")
    assert evaluate(base, small, out, data_dir=data, tasks=["cifar10"]).payload["missing"] == ["vtab/pcam"]
    other = evaluate(base, small, out, data_dir=data, tasks=["cifar10"], checkpoint=base / "1.safetensors")
    assert list(other.payload["scores"]) == ["cifar10"]


def test_one_bad_task_fails_alone(made, tmp_path, capfd):
    base, small = made
    data = shutil.copytree(base / "data", tmp_path / "data")
    (data / small.tasks["wilds/fmow"].folder / "test/nshards.txt").unlink()
    tar = data / small.tasks["cifar10"].folder / "test/1.tar"
    tar.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(StageError, match=r"2 of 10 tasks failed.*incomplete") as caught:
        evaluate(base, small, tmp_path / "out", data_dir=data)
    assert "wilds/fmow" in str(caught.value) and "nshards.txt" in str(caught.value)
    evaluation, records = results.read(tmp_path / "out")
    assert evaluation.payload["complete"] is False
    assert evaluation.payload["missing"] == ["cifar10", "wilds/fmow"]
    assert len(records) == 8
    assert evaluation.payload["aggregates"]["average"] is None
    assert "incomplete: no result of cifar10" in report.table(tmp_path / "out", small)


def test_a_part_of_the_suite_grows_into_the_whole(made, tmp_path):
    base, small = made
    part = evaluate(base, small, tmp_path / "out", tasks=["misc/winogavil"])
    assert part.payload["complete"] is False
    assert len(part.payload["missing"]) == 9
    assert evaluate(base, small, tmp_path / "out").payload["complete"]
    with pytest.raises(ConfigError, match="misc/winogavil"):
        evaluate(base, small, tmp_path / "out", tasks=["misc/winogavill"])
    with pytest.raises(ArtifactError, match=r"none\.safetensors"):
        evaluate(base, small, tmp_path / "out", checkpoint=base / "none.safetensors")


def test_embeddings_that_are_no_numbers_are_no_answer(made, tmp_path):
    # Their order would be one, and the score of a task with two classes that of chance.
    base, small = made
    for part in ("visual.proj", "text_projection"):
        state = models.create(MODEL, seed=0).state_dict()
        state[part][0, 0] = float("nan")
        models.save_safetensors(tmp_path / "broken.safetensors", state)
        with pytest.raises(StageError, match=r"broken\.safetensors: .* not finite"):
            evaluate(base, small, tmp_path / "out", checkpoint=tmp_path / "broken.safetensors", tasks=["vtab/pcam"])
        assert not list((tmp_path / "out").glob("*.json"))


@pytest.fixture
def known_suite(made, monkeypatch):
    """The small suite under a name that the commands find."""
    for module in (suite, holdout):
        monkeypatch.setattr(module, "load", lambda name: made[1])


def test_rescore_recomputes_everything_without_the_model(made, tmp_path, known_suite, capsys):
    base, _ = made
    assert rescore.command([f"run_dir={base / 'out'}"]) == 0
    assert "all equal" in capsys.readouterr().out
    out = shutil.copytree(base / "out", tmp_path / "run/eval")
    keys, columns = predictions.read(out / "predictions/wilds-camelyon17.parquet")
    columns["top"] = np.repeat(columns["target"][:, None], 5, axis=1)
    predictions.write(out / "predictions/wilds-camelyon17.parquet", keys, columns)
    assert rescore.command([f"run_dir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().out
    assert "wilds/camelyon17" in next(line for line in said.splitlines() if "DIFFERS" in line)
    assert "1.000000 recomputed" in said
    (out / "predictions/wilds-camelyon17.parquet").unlink()
    with pytest.raises(ArtifactError, match="camelyon17"):
        rescore.rescore(out)


def test_the_reference_s_file_goes_both_ways(made, tmp_path, known_suite, capsys):
    base, small = made
    place = tmp_path / "eval_results.jsonl"
    convert.command([f"run_dir={base / 'out'}", f"out={place}"])
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["key"] for line in lines] == list(KEYS)
    assert lines[5]["metrics"]["count_slide:0"] == 0.0
    assert lines[5]["metrics"]["acc5"] is None and math.isnan(lines[5]["metrics"]["acc_slide:0"])
    read = convert.from_reference(place, small)
    _, records = results.read(base / "out")
    for key, record in records.items():
        assert read[key].pop("main_metric") == record.payload["score"]
        assert read[key] == record.payload["metrics"] | record.payload["counts"]
    convert.command([f"results={place}"])
    assert "average" in capsys.readouterr().out
    with pytest.raises(ConfigError):
        convert.command([])


def test_what_an_incomplete_evaluation_lacks_is_said(made, tmp_path, known_suite, capsys):
    base, _ = made
    shutil.copytree(base / "out", tmp_path / "out")
    place = tmp_path / "out" / results.EVALUATION
    record = read_record(place, "evaluation")
    there = {key: digest for key, digest in record.payload["results"].items() if key not in ("cifar10", "vtab/pcam")}
    write_record(place, record.model_copy(update={"payload": record.payload | {"results": there}}))
    convert.command([f"run_dir={tmp_path / 'out'}", f"out={tmp_path / 'eval_results.jsonl'}"])
    assert "holds 8 of 10 tasks" in (said := capsys.readouterr().err)
    assert "missing: cifar10, vtab/pcam" in said
    keys = [json.loads(line)["key"] for line in (tmp_path / "eval_results.jsonl").read_text().splitlines()]
    assert keys == [key for key in KEYS if key in there]


def drop(name):
    return lambda payload: payload.pop(name)


def put(name, value):
    return lambda payload: payload.update({name: value})


@pytest.mark.parametrize("file, change, said", [
    ("cifar10", drop("score"), "score"), ("cifar10", put("score", "high"), "score"),
    ("cifar10", put("score", 7.0), "score"), ("cifar10", put("interval", None), "not the result of task cifar10"),
    ("cifar10", put("key", "mnist"), "not the result of task cifar10"), ("cifar10", put("metrics", []), "metrics"),
    ("cifar10", put("counts", "x"), "counts"), ("evaluation", drop("results"), "results"),
    ("evaluation", put("results", ["cifar10"]), "results"), ("evaluation", put("suite", ["v1"]), "suite"),
    ("evaluation", put("aggregates", {"average": 0.5}), "aggregates"), ("evaluation", drop("model"), "model"),
])  # fmt: skip
def test_records_of_another_shape_are_refused_by_every_reader(made, tmp_path, known_suite, file, change, said):
    out = shutil.copytree(made[0] / "out", tmp_path / "out")
    for name in {file, "evaluation"}:
        record = read_record(out / f"{name}.json")
        if name == file:
            change(record.payload)
        write_record(out / f"{name}.json", record)
        if name == "cifar10":
            whole = read_record(out / results.EVALUATION)
            whole.payload["results"]["cifar10"] = record.digest
            write_record(out / results.EVALUATION, whole)
    place = tmp_path / "eval_results.jsonl"
    for reads in (
        lambda: rescore.command([f"run_dir={out}"]),
        lambda: compare.command([str(out), f"out={tmp_path / 'chart.png'}"]),
        lambda: convert.command([f"run_dir={out}", f"out={place}"]),
    ):
        with pytest.raises(ArtifactError, match=rf"{file}\.json: .*{said}"):
            reads()
    assert not place.exists()


@pytest.mark.parametrize("change", [drop("model"), drop("score"), put("score", 0.99), put("metrics", {"acc1": 0.99})])
def test_a_result_that_does_not_follow_from_its_predictions_is_made_again(made, tmp_path, change):
    base, small = made
    out = shutil.copytree(base / "out", tmp_path / "out")
    record = read_record(out / "cifar10.json")
    right = json.loads(json.dumps(record.payload))
    change(record.payload)
    write_record(out / "cifar10.json", record)
    evaluate(base, small, out)
    assert read_record(out / "cifar10.json").payload == right


@pytest.mark.parametrize("damage", [
    b"", b"hello", lambda kept: kept[:200], lambda kept: kept[:128] + bytes(len(kept) - 128),
])  # fmt: skip
def test_class_embeddings_that_a_stopped_evaluation_left_damaged_are_made_again(made, tmp_path, damage):
    base, small = made
    out = tmp_path / "out"
    right = evaluate(base, small, out, tasks=["cifar10"]).payload
    (kept,) = out.glob(".classifiers-*.npy")
    content = kept.read_bytes()
    kept.write_bytes(damage(content) if callable(damage) else damage)
    (out / "cifar10.json").unlink()
    assert evaluate(base, small, out, tasks=["cifar10"]).payload == right
    assert kept.read_bytes() == content


def test_held_out_pairs_are_no_results_of_the_reference(tmp_path):
    payload = {
        "suite": holdout.KEY, "results": {}, "model": MODEL, "precision": "fp32", "scores": {}, "missing": [],
        "aggregates": dict.fromkeys(suite.AGGREGATES),
    }  # fmt: skip
    record = Record(kind="evaluation", inputs={"suite": "0" * 64}, payload=payload)
    write_record(tmp_path / results.EVALUATION, record)
    with pytest.raises(ConfigError, match=r"held-out pairs.*give an evaluation of tasks"):
        convert.command([f"run_dir={tmp_path}", f"out={tmp_path / 'eval_results.jsonl'}"])
    assert not (tmp_path / "eval_results.jsonl").exists()


@pytest.mark.parametrize("line", [
    "{", "[]", '{"key": "cifar10"}', '{"key": "cifar99", "metrics": {"main_metric": 0.5}}',
    '{"key": "cifar10", "metrics": {"main_metric": 1.5}}', '{"key": "cifar10", "metrics": {"main_metric": null}}',
    '{"key": "cifar10", "metrics": {"main_metric": "x"}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5, "acc1": 0.4}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5}}\n{"key": "cifar10", "metrics": {"main_metric": 0.5}}',
    '{"key": "fairness/utkface", "metrics": {"main_metric": 0.5}}', '{"key": "cifar10", "metrics": []}',
    '{"key": [], "metrics": {}}', '{"key": {}, "metrics": {"main_metric": 0.5}}', '{"key": null, "metrics": {}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5, "acc1": 1' + "0" * 400 + "}}",
])  # fmt: skip
def test_a_stranger_s_results_are_not_trusted(tmp_path, line):
    place = tmp_path / "eval_results.jsonl"
    place.write_text(line + "\n")
    with pytest.raises(ArtifactError, match="line"):
        convert.from_reference(place, suite.load("v1"))


def test_a_file_without_results_is_none(tmp_path):
    (tmp_path / "eval_results.jsonl").touch()
    with pytest.raises(ArtifactError, match="holds no result"):
        convert.from_reference(tmp_path / "eval_results.jsonl", suite.load("v1"))


def test_nan_of_the_reference_reads_as_none(tmp_path):
    place = tmp_path / "eval_results.jsonl"
    place.write_text(
        '{"key": "cifar10", "dataset": "CIFAR-10", "metrics": {"main_metric": 0.5, "acc1": 0.5, "x": NaN}}\n'
    )
    assert convert.from_reference(place, suite.load("v1"))["cifar10"]["x"] is None


def test_compare_shows_two_runs(made, tmp_path, known_suite, capsys):
    base, small = made
    other = tmp_path / "other" / "eval"
    evaluate(base, small, other, checkpoint=base / "1.safetensors")
    chart = tmp_path / "chart.png"
    compare.command([str(base / "out"), str(tmp_path / "other"), f"out={chart}"])
    said = capsys.readouterr().out
    assert "cifar10" in said and "±" in said
    assert chart.read_bytes().startswith(b"\x89PNG")
    compare.command([str(base / "out"), "task=cifar10", f"eval.data_dir={base / 'data'}"])
    assert "worst" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"setting out: .*chart\.svg.*give out=FILE\.png"):
        compare.command([str(base / "out"), f"out={tmp_path / 'chart.svg'}"])
    keys, columns = predictions.read(other / "predictions/cifar10.parquet")
    predictions.write(other / "predictions/cifar10.parquet", keys, {**columns, "target": columns["target"] + 90})
    with pytest.raises(ArtifactError, match=r"cifar10\.parquet: not the predictions"):
        compare.command([str(other), "task=cifar10"])
    half = tmp_path / "half"
    evaluate(base, small, half, precision="amp_bfloat16", tasks=["cifar10"])
    with pytest.raises(ConfigError, match="precision amp_bfloat16, others fp32; not comparable"):
        compare.command([str(base / "out"), str(half)])
    with pytest.raises(ConfigError, match="colour"):
        compare.command([str(base / "out"), "colour=red"])
    with pytest.raises(ArtifactError, match=r"evaluation\.json"):
        compare.command([str(tmp_path)])
