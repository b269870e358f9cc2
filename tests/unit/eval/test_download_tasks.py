"""The download against a hub on this machine: whole, killed, missing, busy, slow, broken and lying transfers."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from fake_hub import COMMIT, FakeHub
from serving import serving
from task_folders import picture, small_suite, write_task
from waiting import LONG, until

from harness.errors import ArtifactError
from harness.eval import data, hubsets
from harness.eval.source import TaskSource


@pytest.fixture
def hub():
    server = FakeHub()
    with serving(server):
        yield server
        server.over.set()


KEYS = ("cifar10", "fairness/geode")
PICTURES = "retrieval/flickr_1k_test_image_text_retrieval"
WINOGAVIL = "misc/winogavil"


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    """A folder of tasks whose suite `small` has few samples but the real sources."""
    import yaml

    from harness.eval import suite

    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(suite.data_dir("configs"), folder / "configs")
    (folder / "tasks").mkdir()
    sizes = {key: {} for key in (*KEYS, PICTURES, WINOGAVIL)}
    for key in sizes:
        task = suite.load("v1").tasks[key]
        few = {"samples": 12, "classes": task.classes and min(7, task.classes)}
        (folder / "tasks" / f"{task.slug}.yaml").write_text(yaml.safe_dump(task.model_dump() | few))
    (folder / "tasks/suite_small.yaml").write_text(yaml.safe_dump({"name": "small", "tasks": sizes}))
    return folder


def put(hub, tmp_path, key):
    """The data set of a task on the hub, as a folder of tars."""
    task = small_suite([key], samples=12).tasks[key]
    from harness.eval.suite import load

    folder = write_task(tmp_path / "there", task)
    source = load("v1").tasks[key].source
    hub.sets[source] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } | {"README.md": b"# a data set", "train/0.tar": b"not wanted"}
    return task, source


def start(hub, out, tasks_dir, *settings, timeout=120):
    code = (
        "import sys, pathlib; from harness.eval import suite; from harness import cli, download_tasks as d; "
        f"suite.data_dir = lambda name: pathlib.Path({str(tasks_dir)!r}) / name; "
        "cli.main(d.command)"
    )
    environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": str(timeout),
                    "HF_HUB_ETAG_TIMEOUT": "120", "HF_HOME": str(out.parent / "hf")}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code, f"out={out}", "suite=small", *settings],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(*args, **more):
    with start(*args, **more) as process:
        stdout, stderr = process.communicate(timeout=LONG)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def fetched(hub):
    """The files that the hub was asked for since `asked` was emptied."""
    return {line.partition(f"/resolve/{COMMIT}/")[2] for line in hub.asked if "/resolve/" in line}


def test_tasks_arrive_whole_and_a_second_run_only_verifies(hub, tmp_path, tasks_dir):
    for key in KEYS:
        task, source = put(hub, tmp_path, key)
    out = tmp_path / "out"
    chosen = f"tasks=[{','.join(KEYS)}]"
    done = run(hub, out, tasks_dir, chosen)
    assert done.returncode == 0, done.stderr
    lock = json.loads((out / "tasks.lock.json").read_text())["payload"]["tasks"]
    assert lock["fairness/geode"]["revision"] == COMMIT
    held = {
        str(p.relative_to(out / task.folder)): p.read_bytes() for p in (out / task.folder).rglob("*") if p.is_file()
    }
    wanted = {name: content for name, content in hub.sets[source].items() if name[:5] not in ("READM", "train")}
    assert held == wanted
    assert {name: entry["sha256"] for name, entry in lock["fairness/geode"]["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in wanted.items()
    }
    hub.asked.clear()
    assert run(hub, out, tasks_dir, chosen).returncode == 0
    assert hub.asked == []
    (out / task.folder / "test/0.tar").write_bytes(b"damaged")
    assert run(hub, out, tasks_dir, chosen).returncode == 0
    assert (out / task.folder / "test/0.tar").read_bytes() == wanted["test/0.tar"]


@pytest.mark.slow
def test_broken_lying_and_slow_transfers_end_well(hub, tmp_path, tasks_dir):
    task, source = put(hub, tmp_path, "cifar10")
    hub.break_once = {"test/0.tar", "classnames.txt"}
    hub.lie_once = {"test/1.tar"}
    hub.slow = 0.2
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10]")
    assert done.returncode == 0, done.stderr
    for name in ("test/0.tar", "test/1.tar"):
        assert (tmp_path / "out" / task.folder / name).read_bytes() == hub.sets[source][name]
    assert not hub.break_once and not hub.lie_once


def test_what_is_missing_or_lies_is_named_and_the_others_go_on(hub, tmp_path, tasks_dir):
    put(hub, tmp_path, "cifar10")
    hub.lie_always = {"test/1.tar"}
    task = put(hub, tmp_path / "more", "fairness/geode")[0]
    hub.lie_always = set()
    from harness.eval.suite import load

    hub.sets.pop(load("v1").tasks["cifar10"].source)
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10,fairness/geode]")
    assert done.returncode == 7
    assert "djghosh/wds_cifar10_test: the hub has no such data set" in done.stderr
    assert "1 of 2 tasks" in done.stdout
    assert (tmp_path / "out" / task.folder / "test/nshards.txt").exists()
    hub.sets.clear()
    put(hub, tmp_path / "again", "cifar10")
    hub.lie_always = {"test/1.tar"}
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10]")
    assert done.returncode == 7
    assert "test/1.tar" in done.stderr.replace("\n", "")


@pytest.mark.slow
def test_a_hub_that_is_busy_or_stalls_is_asked_again(hub, tmp_path, tasks_dir):
    task, source = put(hub, tmp_path, "cifar10")
    hub.busy = {source: [503], "test/0.tar": [503], "test/nshards.txt": [429]}
    hub.stall_once = {"test/1.tar"}
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10]", timeout=4)
    assert done.returncode == 0, done.stderr
    assert not any(hub.busy.values()) and hub.stalls.is_set()
    for name in ("test/0.tar", "test/1.tar", "test/nshards.txt"):
        assert (tmp_path / "out" / task.folder / name).read_bytes() == hub.sets[source][name]


@pytest.mark.slow
def test_a_file_that_is_gone_is_named_and_all_else_arrives(hub, tmp_path, tasks_dir):
    put(hub, tmp_path, "fairness/geode")
    hub.gone = {"test/1.tar"}
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[fairness/geode]")
    assert done.returncode == 7
    assert "test/1.tar: the hub answered 404" in done.stderr
    assert "0 of 1 tasks" in done.stdout
    hub.gone.clear()
    hub.asked.clear()
    assert run(hub, tmp_path / "out", tasks_dir, "tasks=[fairness/geode]").returncode == 0
    assert fetched(hub) == {"test/1.tar"}


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(hub, tmp_path, tasks_dir):
    task, source = put(hub, tmp_path, "cifar10")
    folder = tmp_path / "out" / task.folder
    wanted = {name for name in hub.sets[source] if name[:5] not in ("READM", "train")}
    hub.stall_once = {"test/1.tar"}
    with start(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10]", timeout=LONG) as process:
        assert hub.stalls.wait(LONG)
        until(lambda: all((folder / name).exists() for name in wanted - {"test/1.tar"}))
        process.kill()
    hub.asked.clear()
    done = run(hub, tmp_path / "out", tasks_dir, "tasks=[cifar10]")
    assert done.returncode == 0, done.stderr
    assert fetched(hub) == {"test/1.tar"}
    assert {name: (folder / name).read_bytes() for name in wanted} == {name: hub.sets[source][name] for name in wanted}


def archive(names, prefix="pictures/"):
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w") as target:
        for name in names:
            target.writestr(prefix + name, picture(rng, extension="jpg"))
        target.writestr("__MACOSX/._junk.jpg", b"junk")
    return buffer.getvalue()


def table(rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def test_retrieval_and_winogavil_are_converted_without_running_anything(hub, tmp_path, tasks_dir):
    names = [f"picture {i}.v2.jpg" for i in range(12)]
    hub.sets["nlphuji/flickr_1k_test_image_text_retrieval"] = {
        "images_flickr_1k_test.zip": archive(names, "images_flickr_1k_test/"), "loader.py": b"raise SystemExit",
        "test_1k_flickr.csv": table([
            {"sentids": "[1, 2]", "imgid": "[0, 0]", "tokens": '[["a"], ["b"]]', "raw": json.dumps([f"{n} one", "two"]),
             "sentid": "[1, 2]", "split": "test", "filename": n} for n in names
        ]),
    }  # fmt: skip
    hub.sets["nlphuji/winogavil"] = {
        "winogavil_images.zip": archive(names, "winogavil_images/"),
        "winogavil_dataset.csv": b"\xef\xbb\xbf" + table([
            {"cue": "ice", "candidates": json.dumps([n[:-4] for n in names[i % 3 : i % 3 + 5]]),
             "associations": str([names[i % 3][:-4]]), "score_fool_the_ai": 60.0, "ID": i} for i in range(12)
        ]),
    }  # fmt: skip
    out = tmp_path / "out"
    done = run(hub, out, tasks_dir, f"tasks=[{PICTURES},{WINOGAVIL}]")
    assert done.returncode == 0, done.stderr
    assert not any("loader.py" in line for line in hub.asked)
    task = small_suite([WINOGAVIL], samples=12).tasks[WINOGAVIL]
    source = TaskSource.open(task, out)
    source.take([data.index_shard(path, source.parts[part]) for part, path in source.shards])
    chunk = next(source.jobs(16, 99)).load()
    assert chunk.documents[1] == {"cue": "ice", "candidates": [f"{i:08d}" for i in range(1, 6)],
                                  "associations": ["00000001"]}  # fmt: skip
    lock = json.loads((out / "tasks.lock.json").read_text())["payload"]["tasks"]
    assert set(lock[PICTURES]["files"]) == {"test/0.tar", "test/nshards.txt"}
    assert not list((out / ".hub").glob("*"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.csv": b"x\n", "b.csv": b"x\n", "a.zip": b""}, "2 files"),
        ({"a.csv": b"x\n"}, "0 files"),
    ],
)
def test_a_data_set_of_another_shape_is_refused(files, said):
    with pytest.raises(ArtifactError, match=said):
        hubsets.wanted(list(files), "somebody/set")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"name": "a.jpg", "raw": '["x"]'}, "filename or image"),
        ({"filename": "b.jpg", "raw": '["x"]'}, "no picture 'b.jpg'"),
        ({"filename": "a.jpg", "raw": "__import__('os')"}, "not a list"),
        ({"filename": "a.jpg", "raw": "[1]"}, "not a list"),
        ({"filename": "twice", "raw": '["x"]'}, "2 pictures 'twice'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, row, said):
    (tmp_path / "a.csv").write_bytes(table([row]))
    (tmp_path / "a.zip").write_bytes(archive(["a.jpg", "one/twice.jpg", "two/twice.jpg"]))
    task = small_suite([PICTURES]).tasks[PICTURES]
    with pytest.raises(ArtifactError, match=said):
        hubsets.convert(task, tmp_path / "a.csv", tmp_path / "a.zip", tmp_path / "out")
