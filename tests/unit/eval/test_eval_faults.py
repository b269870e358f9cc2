"""What cannot be evaluated: it fails alone, says why, and leaves what was there before."""

import json
import shutil

import pytest
from task_folders import small_suite, write_part, write_task

from harness import model as models
from harness.errors import ArtifactError, ConfigError, StageError
from harness.eval import __main__ as eval_command
from harness.eval import results, run, suite
from harness.eval.board import Board
from harness.eval.data import CLASSNAMES, TEMPLATES

KEYS = ("cifar10", "vtab/pcam", "misc/winogavil", "fairness/utkface")
MODEL = "clip-tiny"


@pytest.fixture
def small(tmp_path):
    """The suite of KEYS; its data and a checkpoint lie in the folder of the test."""
    found = small_suite(KEYS)
    for task in found.tasks.values():
        write_task(tmp_path / "data", task)
    models.save_safetensors(tmp_path / "0.safetensors", models.create(MODEL, seed=0).state_dict())
    return found


def evaluate(folder, small, *, data="data", tasks=None):
    at = {"checkpoint": folder / "0.safetensors", "data_dir": folder / data, "out": folder / "out"}
    return run.evaluate(model=MODEL, suite=small, tasks=tasks, workers=1, **at)


def test_bad_words_and_nothing_to_score_fail_alone(small, tmp_path):
    pcam, pairs, faces = (tmp_path / "data" / small.tasks[key].folder for key in KEYS[1:])
    (pcam / TEMPLATES).write_text("a photo of a {}.\n")
    few = {"cue": "apple", "candidates": [f"{i:05d}" for i in range(5)], "associations": ["00001"]}
    shutil.rmtree(pairs / "test")
    write_part(pairs / "test", [{"json": json.dumps(few).encode()}] * small.tasks["misc/winogavil"].samples, 1)
    names = (faces / CLASSNAMES).read_text().splitlines()
    (faces / CLASSNAMES).write_text("\n".join(name for name in names if not name.startswith("age:")))
    with pytest.raises(StageError, match=r"3 of 4 tasks failed.*incomplete") as caught:
        evaluate(tmp_path, small)
    reasons = str(caught.value).partition("incomplete: ")[2].split("; ")
    for key, said in zip(KEYS[1:], (TEMPLATES, "jaccard_score_10-12", "'age:'"), strict=True):
        assert any(one.startswith(f"{key}: {tmp_path}") and said in one for one in reasons)
    evaluation, records = results.read(tmp_path / "out")
    assert evaluation.payload["missing"] == list(KEYS[1:])
    assert list(records) == ["cifar10"]


def test_data_that_are_away_leave_the_evaluation_as_it_was(small, tmp_path):
    with pytest.raises(StageError, match="incomplete"):
        evaluate(tmp_path, small, data="away")
    assert results.read(tmp_path / "out")[0].payload["missing"] == list(KEYS)
    evaluate(tmp_path, small)
    before = (tmp_path / "out/evaluation.json").read_bytes()
    with pytest.raises(StageError, match=r"none of 4 tasks.*stays as it was: cifar10: .*no such folder"):
        evaluate(tmp_path, small, data="away")
    assert (tmp_path / "out/evaluation.json").read_bytes() == before
    with pytest.raises(StageError, match=r"none of 1 tasks.*stays as it was: cifar10: .*no such folder"):
        evaluate(tmp_path, small, data="away", tasks=["cifar10"])
    assert (tmp_path / "out/evaluation.json").read_bytes() == before


@pytest.mark.parametrize("tasks, said", [("cifar10", r"must be a list, as in \[a,b\]"), ("[]", "at least 1 item")])
def test_tasks_are_a_list_of_some(tasks, said):
    with pytest.raises(ConfigError, match=f"setting tasks: .*{said}"):
        eval_command.command([f"tasks={tasks}"])


def test_what_failed_is_not_to_come():
    tasks = list(small_suite(KEYS).tasks.values())
    board = Board(tasks, {}, {})
    board._started -= 100  # a slow one
    board.running("misc/winogavil", 2 * tasks[2].samples)  # instances and pictures
    assert "0 of 4 tasks" in board._progress() and not board._progress().endswith(" 0 s left")
    for key in ("cifar10", "vtab/pcam", "fairness/utkface"):
        board.fail(key, ArtifactError("its data do not fit"))
    assert "3 of 4 tasks" in board._progress() and board._progress().endswith(" 0 s left")


def test_the_command_tells_what_is_wrong_where_there_are_no_results(small, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "load", lambda name: small)
    state = models.create(MODEL, seed=0).state_dict()
    state["visual.proj"][0, 0] = float("nan")
    models.save_safetensors(tmp_path / "0.safetensors", state)
    at = [f"checkpoint={tmp_path / '0.safetensors'}", f"eval.data_dir={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]
    with pytest.raises(StageError, match="not finite"):
        eval_command.command([f"model={MODEL}", *at, "tasks=[vtab/pcam]"])
