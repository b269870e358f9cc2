"""Files appear whole or not at all, and folders are held by one command."""

import multiprocessing
from pathlib import Path

import pytest
from waiting import LONG

from harness import files
from harness.errors import ArtifactError, ConfigError, InfraError


def test_atomic_path_leaves_nothing_behind_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file"
    with pytest.raises(ValueError, match="stop"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert list((tmp_path / "a").iterdir()) == []


def test_atomic_path_replaces(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "file", b"old")
    files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    for name, names in (("one", ["one"]), ("two", ["two"])):
        with files.atomic_folder(tmp_path / "a") as draft:
            (draft / name).touch()
        assert [p.name for p in (tmp_path / "a").iterdir()] == names
    with pytest.raises(ValueError, match="stop"), files.atomic_folder(tmp_path / "a") as draft:
        (draft / "three").touch()
        raise ValueError("stop")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "two"]
    with pytest.raises(ArtifactError, match="a file stands"), files.atomic_folder(tmp_path / "a" / "two"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "two"]


def test_what_killed_commands_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.x.tmp" / "new").mkdir(parents=True)
    (tmp_path / ".a.x.tmp" / "new" / ".b.y.tmp").touch()
    (tmp_path / ".c.z.tmp").touch()
    (tmp_path / "kept.tmp").touch()
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.tmp"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ArtifactError, match=str(tmp_path / "a")):
        files.write_bytes(tmp_path / "a" / "b", b"")


def test_open_file_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.bin: no such file"):
        files.open_file(tmp_path / "nothing.bin")


def test_remote_paths_open_through_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/x.bin", b"content")
    assert files.is_remote("memory://folder/x.bin")
    assert files.open_file("memory://folder/x.bin").read() == b"content"
    assert [path.rsplit("/", 1)[1] for path in files.list_files("memory://folder", ".bin")] == ["x.bin"]
    assert files.join("memory://folder/", "y") == "memory://folder/y"


def test_a_store_that_cannot_be_reached_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(path: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    for act in (files.open_file, files.stamp, lambda path: files.list_files(path, ".parquet")):
        with pytest.raises(ConfigError, match=r"^nostore://pool/x: Protocol not known: nostore"):
            act("nostore://pool/x")
        with monkeypatch.context() as patch:
            patch.setattr(fsspec, "open", lambda path, mode: missing(path))
            patch.setattr(fsspec.core, "url_to_fs", missing)
            with pytest.raises(
                ConfigError, match=r"^s3://pool/x: Please install .*pip install 'datacomp-harness\[s3\]'"
            ):
                act("s3://pool/x")
    with pytest.raises(ArtifactError, match=r"nothing\.bin: no such file"):
        files.open_file("memory://folder/nothing.bin")
    pytest.importorskip("aiohttp")
    with pytest.raises(InfraError, match=r"^http://127\.0\.0\.1:9/x: the store did not answer \(.*run the same"):
        files.open_file("http://127.0.0.1:9/x")


def _hold(folder: str, ready: object, leave: object) -> None:
    with files.lock(folder):
        ready.set()  # type: ignore[attr-defined]
        leave.wait(LONG)  # type: ignore[attr-defined]


def test_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, leave))
    process.start()
    assert ready.wait(LONG)
    with pytest.raises(InfraError, match="another command"), files.lock(tmp_path):
        pass
    process.kill()
    process.join()
    with files.lock(tmp_path, wait=True):
        pass


def test_a_shared_lock_is_held_by_several_and_kept_from_one_alone(tmp_path: Path) -> None:
    alone, together = files.lock(tmp_path), files.lock(tmp_path, shared=True)
    with together, files.lock(tmp_path, shared=True), pytest.raises(InfraError, match="another command"), alone:
        pass
    with files.lock(tmp_path), pytest.raises(InfraError), files.lock(tmp_path, shared=True):
        pass


def test_require_space(tmp_path: Path) -> None:
    files.require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(InfraError, match="needed"):
        files.require_space(tmp_path, 1 << 62)


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path / "c"))
    assert files.cache_dir() == tmp_path / "c"
    monkeypatch.delenv("DATACOMP_HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / "datacomp-harness"


def test_unwritable_folder() -> None:
    # Not even root makes folders there.
    with pytest.raises(InfraError, match="/sys/nothing"):
        files.write_bytes("/sys/nothing/x", b"")
