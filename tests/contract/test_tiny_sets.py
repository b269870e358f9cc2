"""Every stand-in task set of scale tiny is what tasks/suite_tiny.yaml states, in the layout of the real sets."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.eval import suite
from harness.files import data_dir
from harness.tiny.sets import folder_name, make_set, makers
from harness.tiny.tasks import suite_order, suite_text

KEYS = suite_order()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, object]]]:
    folder = tmp_path_factory.mktemp("eval")
    return folder, {key: make_set((str(folder), key, 0)) for key in KEYS}


def members(folder: Path) -> list[tuple[str, bytes]]:
    shards = int((folder / "nshards.txt").read_text())
    assert len(list(folder.glob("*.tar"))) == shards
    found = []
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar") as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return found


def test_all_forty_are_there() -> None:
    assert len(KEYS) == 40
    assert set(KEYS) == set(makers()) == set(suite.load("v1").tasks) == set(suite.load("tiny").tasks)


def test_suite_file_is_the_one_that_the_generator_writes(made: tuple[Path, dict[str, dict[str, object]]]) -> None:
    assert (data_dir("tasks") / "suite_tiny.yaml").read_text() == suite_text(made[1])


@pytest.mark.parametrize("key", KEYS)
def test_set_is_as_stated(key: str, made: tuple[Path, dict[str, dict[str, object]]]) -> None:
    task = suite.load("tiny").tasks[key]
    assert task.name.endswith("(stand-in)")
    folder = made[0] / folder_name(key)
    assert folder.name == task.folder
    found = members(folder / "test")
    keys = list(dict.fromkeys(name.split(".")[0] for name, _ in found))
    assert len(keys) == task.samples
    pictures = [content for name, content in found if name.endswith((".jpg", ".png"))]
    if task.kind == "winogavil":
        check_instances([json.loads(content) for _, content in found], dict(members(folder / "images")))
        return
    assert len(pictures) == task.samples
    assert len(set(pictures)) > 0.99 * task.samples
    assert min(Image.open(io.BytesIO(pictures[0])).size) >= 32
    if task.kind == "retrieval":
        told = [json.loads(content)["captions"] for name, content in found if name.endswith(".json")]
        assert {len(captions) for captions in told} == {5}
        return
    labels = np.array([int(content) for name, content in found if name.endswith(".cls")])
    names = (folder / "classnames.txt").read_text().removesuffix("\n").split("\n")
    templates = (folder / "zeroshot_classification_templates.txt").read_text().removesuffix("\n").split("\n")
    assert len(set(names)) == len(names)
    assert all("{c}" in template for template in templates)
    assert labels.min() >= 0
    assert labels.max() < len(names)
    if task.classes is not None:
        assert len(names) == task.classes
    if task.chance is not None:
        assert task.chance == pytest.approx(((np.bincount(labels) / len(labels)) ** 2).sum(), abs=1e-6)
    if task.metadata:
        check_groups(task, [content for name, content in found if name.endswith(".npy")], labels)


def check_instances(instances: list[dict[str, object]], pictures: dict[str, bytes]) -> None:
    assert {len(instance["candidates"]) for instance in instances} == {5, 6, 10, 12}  # type: ignore[arg-type]
    for instance in instances:
        candidates, associations = set(instance["candidates"]), set(instance["associations"])  # type: ignore[call-overload]
        assert associations < candidates
        assert len(associations) >= 1
        assert {f"{name}.jpg" for name in candidates} <= set(pictures)


def check_groups(task: suite.Task, contents: list[bytes], labels: np.ndarray) -> None:
    metadata = np.stack([np.load(io.BytesIO(content), allow_pickle=False) for content in contents])
    assert metadata.dtype == np.int64
    assert metadata.shape == (task.samples, len(task.metadata))
    for column, (name, groups) in enumerate(task.metadata.items()):
        assert metadata[:, column].min() >= 0
        if groups is not None:
            assert metadata[:, column].max() < groups
        if name == "y":
            assert (metadata[:, column] == labels).all()
    if task.key == "wilds/fmow":
        assert set(metadata[:, 0].tolist()) == {0, 1, 2, 3, 5}, "one region is empty, as a group of the real set may be"
