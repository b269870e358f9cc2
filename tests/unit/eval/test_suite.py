"""The suite as data, and the one way of taking means over it."""

import subprocess
import sys

import pytest
import yaml

from harness import cli
from harness import tasks as tasks_command
from harness.compose import compose
from harness.errors import ArtifactError, ConfigError
from harness.eval import __main__ as command
from harness.eval import suite
from harness.files import sha256_file
from harness.records import Record, write_record


def test_v1_has_40_tasks_38_scored_and_tiny_the_same_keys():
    v1, tiny = suite.load("v1"), suite.load("tiny")
    assert (len(v1.tasks), len(v1.scored)) == (40, 38)
    assert list(tiny.tasks) == list(v1.tasks)
    assert v1.digest != tiny.digest


def test_aggregates_are_means_of_their_groups():
    v1 = suite.load("v1")
    scores = {task.key: i / 100 for i, task in enumerate(v1.scored)}
    found = v1.aggregate(scores)
    assert found["imagenet"] == scores["imagenet1k"]
    members = [scores[t.key] for t in v1.scored if t.group == "vtab"]
    assert len(members) == 13
    assert found["vtab"] == pytest.approx(sum(members) / 13)
    assert found["average"] == pytest.approx(sum(scores.values()) / 38)


def test_one_missing_score_makes_its_aggregates_none_and_no_others():
    v1 = suite.load("v1")
    scores = {task.key: 0.5 for task in v1.scored}
    del scores["retrieval/mscoco_2014_5k_test_image_text_retrieval"]
    assert v1.aggregate(scores) == {"imagenet": 0.5, "shifts": 0.5, "vtab": 0.5, "retrieval": None, "average": None}
    assert v1.aggregate({**scores, "imagenet1k": None})["imagenet"] is None


def test_unscored_tasks_count_for_nothing():
    v1 = suite.load("v1")
    scores = dict.fromkeys(v1.tasks, 1.0)
    assert v1.aggregate({**scores, "fairness/utkface": 0.0}) == v1.aggregate(scores)


def test_a_suite_s_changes_stand_over_the_task_s_file(tmp_path, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for path in suite.task_files():
        (folder / path.name).write_text(path.read_text())
    changes = {"name": "CIFAR (stand-in)", "samples": 12, "classes": 3, "chance": 0.3}
    (folder / "suite_own.yaml").write_text(yaml.safe_dump({"name": "own", "tasks": {"cifar10": changes}}))
    monkeypatch.setattr(suite, "data_dir", lambda name: tmp_path / name)
    task = suite.load.__wrapped__("own").tasks["cifar10"]
    assert (task.samples, task.classes, task.source) == (12, 3, None)
    assert task.main_metric == "acc1"
    for broken, said in (
        ({"name": "own", "tasks": {"cifar11": {}}}, "cifar10"),
        ({"name": "own", "tasks": {"cifar10": {"sample": 3}}}, "sample"),
        ({"name": "own", "tasks": {"cifar10": {"scored": False}}}, "main_metric"),
        ({"name": "other", "tasks": {"cifar10": {}}}, "other"),
        ({"name": "own", "scored": 3, "tasks": {"cifar10": {}}}, "3"),
    ):
        (folder / "suite_own.yaml").write_text(yaml.safe_dump(broken))
        with pytest.raises(ConfigError, match=said):
            suite.load.__wrapped__("own")


def test_unknown_names_answer_with_the_nearest():
    with pytest.raises(ConfigError, match="cifar10"):
        suite.load("v1").select(["cifar1O"])
    with pytest.raises(ConfigError, match="tiny"):
        suite.load("tinny")


def test_listing_tasks_imports_no_torch(capsys):
    tasks_command.command(["suite=v1"])
    assert "38 scored" in capsys.readouterr().out
    code = "import sys, harness.tasks, harness.eval.source, harness.rescore; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_says_what_is_not_given_and_stays_what_it_is(tmp_path):
    run = compose(["scale=tiny", "method=no_filter", "eval.precision=amp_bfloat16", "eval.tasks=[cifar10,sun397]"])
    payload = {**run.identity, "unofficial": run.unofficial}
    settings = {"settings": run.model_dump(mode="json")}
    write_record(tmp_path / "config.json", Record(kind="config", payload=payload, provenance=settings))
    weights = tmp_path / "train" / "checkpoint.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    write_record(tmp_path / "train/train.json", Record(kind="train", payload={"checkpoint": sha256_file(weights)}))

    def found(*more):
        return command._of_run(cli.settings([f"run_dir={tmp_path}", *more], command.Settings), tmp_path)

    given = found("eval.device=cpu", "tasks=[cifar10]", "suite=tiny")
    assert (given.model, given.suite, given.executor) == ("clip-tiny", "tiny", "local")
    assert (given.eval.precision, given.tasks, given.eval.device) == ("amp_bfloat16", ["cifar10"], "cpu")
    for more, says in [
        ("model=ViT-B-32", "setting model"),
        ("eval.suite=v1", "made with suite=tiny, asked now for suite=v1"),
        ("eval.precision=fp32", "made with eval_precision=amp_bfloat16"),
        ("tasks=[cifar100]", "made with tasks="),
    ]:
        with pytest.raises(ConfigError, match=says):
            found(more)
    weights.write_bytes(b"others")
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: not the checkpoint that train\.json names"):
        found()
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: no such file"):
        found()
