"""What lies in a folder of task data against its lock file: strangers, leftovers, what changed, room for more."""

import hashlib
import shutil
from types import SimpleNamespace

import pytest
from evaluated import MODEL, evaluate
from task_folders import small_suite, write_task

from harness import download_tasks
from harness import model as models
from harness.errors import ArtifactError, ConfigError, StageError
from harness.eval import digests, hubsets, lockfile, results
from harness.records import Record, read_record, write_record


class Shelf:
    """A hub without a network, with one data set in several revisions."""

    def __init__(self):
        self.revisions: list[dict[str, bytes]] = []
        self.fetched: list[str] = []

    def describe(self, source, revision):
        revision = revision or str(len(self.revisions) - 1)
        return revision, {name: self.entry(name, content) for name, content in self.revisions[int(revision)].items()}

    def entry(self, name, content):
        lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
        return SimpleNamespace(rfilename=name, size=len(content), lfs=lfs, blob_id=None)

    def fetch(self, source, revision, entry, folder):
        self.fetched.append(entry.rfilename)
        path = folder / entry.rfilename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.revisions[int(revision)][entry.rfilename])
        assert download_tasks._is_whole(path, entry)
        return path


@pytest.fixture
def cifar():
    task = small_suite(["cifar10"], samples=12).tasks["cifar10"]
    return task.model_copy(update={"source": "somebody/wds_cifar10_test"})


@pytest.fixture
def shelf(tmp_path, cifar, monkeypatch):
    """Two revisions of the data set: three tars, then two."""
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path / "cache"))
    made = Shelf()
    monkeypatch.setattr(download_tasks, "Hub", lambda: made)
    for shards in (3, 2):
        folder = write_task(tmp_path / str(shards), cifar, shards=shards)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        made.revisions.append(files | {"README.md": b"# a data set"})
    return made


def locked_files(out):
    return read_record(out / "tasks.lock.json").payload["tasks"]["cifar10"]["files"]


WANTED = {"classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/0.tar", "test/1.tar"}


def test_other_files_in_a_task_s_folder_are_nobody_s_concern(shelf, cifar, tmp_path, monkeypatch):
    out, folder = tmp_path / "out", tmp_path / "out" / cifar.folder
    (folder / "test").mkdir(parents=True)
    (folder / "README.md").write_text("of DataComp's download")
    assert download_tasks.download(out, [cifar]) == {}
    assert locked_files(out).keys() == WANTED
    for name in (".DS_Store", "test/._0.tar"):
        (folder / name).write_text("of somebody else")
    shelf.fetched.clear()
    assert download_tasks.download(out, [cifar]) == {}
    assert shelf.fetched == []
    assert (folder / "README.md").exists() and (folder / "test/._0.tar").exists()


def test_a_lock_that_lists_other_files_still_fetches_its_revision(shelf, cifar, tmp_path):
    download_tasks.download(tmp_path / "there", [cifar])
    record = read_record(tmp_path / "there/tasks.lock.json")
    record.payload["tasks"]["cifar10"]["files"]["README.md"] = {"size": 1, "sha256": "0" * 64}
    write_record(tmp_path / "here/tasks.lock.json", record)
    assert download_tasks.download(tmp_path / "here", [cifar]) == {}
    assert download_tasks.verify(tmp_path / "here", [cifar]) == {}


@pytest.mark.parametrize("locked", [True, False])
def test_tars_that_a_new_revision_lacks_are_removed(locked, shelf, cifar, tmp_path):
    out, newest = tmp_path / "out", shelf.revisions.pop()
    assert download_tasks.download(out, [cifar]) == {}
    if not locked:  # the download was stopped before it wrote its lock
        (out / "tasks.lock.json").unlink()
    shelf.revisions.append(newest)
    assert download_tasks.download(out, [cifar], update=locked) == {}
    assert locked_files(out).keys() == WANTED
    assert not (out / cifar.folder / "test/2.tar").exists()
    assert download_tasks.verify(out, [cifar]) == {}


def test_room_is_asked_for_what_is_still_to_be_fetched(shelf, cifar, tmp_path, monkeypatch):
    out, needed = tmp_path / "out", len(shelf.revisions[-1]["test/1.tar"])
    assert download_tasks.download(out, [cifar]) == {}
    (out / cifar.folder / "test/1.tar").write_bytes(b"damaged")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    assert "GB needed" in download_tasks.download(out, [cifar])["cifar10"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert download_tasks.download(out, [cifar]) == {}


def test_a_converted_set_needs_room_for_what_it_comes_from_and_for_its_tars(shelf, tmp_path, monkeypatch):
    key = "retrieval/flickr_1k_test_image_text_retrieval"
    task = small_suite([key], samples=12).tasks[key].model_copy(update={"source": "somebody/flickr"})
    out, tar = tmp_path / "out", tmp_path / "out" / task.folder / "test/0.tar"

    def convert(task, table, pictures, folder):
        shutil.rmtree(folder, ignore_errors=True)
        write_task(out, task)

    def tried(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return download_tasks.download(out, [task])

    monkeypatch.setattr(hubsets, "convert", convert)
    shelf.revisions = [{"a.csv": bytes(10), "a.zip": bytes(90)}]
    assert "GB needed" in tried(199)[key]
    assert tried(200) == {}
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert "GB needed" in tried(99)[key]
    assert tried(100) == {}


def test_data_that_changed_after_the_download_are_found_by_their_bytes(shelf, cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_state", lambda path: [0, 0])  # no change can be seen without reading
    out, tar = tmp_path / "out", tmp_path / "out" / cifar.folder / "test/1.tar"
    assert download_tasks.download(out, [cifar]) == {}
    download_tasks.command([f"out={out}", "check=true"])
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"1 tasks differ.*test/1\.tar, 1 files in all"):
        download_tasks.command([f"out={out}", "check=true"])
    shelf.fetched.clear()
    assert download_tasks.download(out, [cifar]) == {}
    assert shelf.fetched == ["test/1.tar"]
    assert download_tasks.verify(out, [cifar]) == {}


def test_an_evaluation_says_which_data_are_not_as_the_lock_says(shelf, cifar, tmp_path):
    out, small = tmp_path / "data", small_suite(["vtab/pcam"], samples=12)
    assert download_tasks.download(out, [cifar]) == {}
    write_task(out, small.tasks["vtab/pcam"])  # of which the lock says nothing
    small = small.model_copy(update={"tasks": {"cifar10": cifar, **small.tasks}})
    models.save_safetensors(tmp_path / "0.safetensors", models.create(MODEL, seed=0).state_dict())
    assert evaluate(tmp_path, small, tmp_path / "out", data_dir=out).payload["complete"]
    names = out / cifar.folder / "classnames.txt"
    names.write_text(names.read_text().replace("thing 0", "thing zero"))
    for folder in ("out", "anew"):
        with pytest.raises(StageError, match=r"1 of 2.*cifar10: .*tasks\.lock\.json says: classnames\.txt, 1"):
            evaluate(tmp_path, small, tmp_path / folder, data_dir=out)
        assert list(results.read(tmp_path / folder)[1]) == ["vtab/pcam"]


@pytest.mark.parametrize("payload", [
    {}, {"tasks": []}, {"tasks": {"cifar10": {}}},
    {"tasks": {"cifar10": {"source": "a/b", "revision": "c", "files": {"classnames.txt": {}}}}},
])  # fmt: skip
def test_a_lock_of_another_shape_is_refused(tmp_path, payload):
    write_record(tmp_path / "tasks.lock.json", Record(kind="task-data", payload=payload))
    with pytest.raises(ArtifactError, match=r"tasks\.lock\.json: not a valid record: tasks"):
        lockfile.read(tmp_path)


def test_a_check_needs_a_lock_and_fetches_nothing(tmp_path, cifar):
    with pytest.raises(ArtifactError, match=r"holds no tasks\.lock\.json"):
        download_tasks.command([f"out={tmp_path / 'out'}", "check=true"])
    assert "not in" in download_tasks.verify(tmp_path, [cifar])["cifar10"]
    with pytest.raises(ConfigError, match="leave one of the two out"):
        download_tasks.command([f"out={tmp_path / 'out'}", "check=true", "update=true"])
    assert not (tmp_path / "out").exists()
