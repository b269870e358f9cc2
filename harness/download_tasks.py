"""`python -m harness.download_tasks out=DIR [tasks=[key,…]]`: the data of the evaluation tasks from the hub.

Each task becomes a folder as harness.eval.data describes it. `DIR/tasks.lock.json` then holds the revision of every
data set and the size and sha256 of every file: the same command goes on where it was stopped, reads what is there
again, and fetches the locked revisions elsewhere; with `check=true` it reads only. Files that the evaluation does not
read may lie in a task's folder. Nothing of a hub data set is ever run: the retrieval sets and WinoGAViL, which need a
loading script there, are converted from their files (see harness.eval.hubsets).
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field

from harness import cli, files
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError
from harness.eval import data, digests, hubsets, kinds, lockfile, suite
from harness.eval.source import TaskSource
from harness.eval.suite import Task
from harness.hub import BusyError, failure
from harness.progress import Progress, say
from harness.provenance import provenance
from harness.records import Json, Record, StrictModel, write_record

AT_ONCE = 8
TRIES = 3
WAITS = (1, 5)
"""Seconds before each further try of a hub that has too much to do."""


class Settings(StrictModel):
    """Fetch the data of the evaluation tasks."""

    out: str = Field(description="folder of the task data")
    tasks: list[str] | None = Field(default=None, min_length=1, description="only these keys")
    suite: str = Field(default="v1", description="the suite whose tasks are fetched")
    update: bool = Field(default=False, description="newest revisions instead of the locked ones")
    check: bool = Field(default=False, description="fetch nothing; say which of the locked files have changed")


class Hub:
    """The data sets of a hub ($HF_ENDPOINT, or the public one)."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import huggingface_hub

        self._hub = huggingface_hub
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._api = huggingface_hub.HfApi(endpoint=self._endpoint)

    def _call(self, what: str, work: Callable[[], Any]) -> Any:
        for wait in WAITS:
            try:
                return self._try(what, work)
            except BusyError:
                time.sleep(wait)
        return self._try(what, work)

    def _try(self, what: str, work: Callable[[], Any]) -> Any:
        from huggingface_hub import errors

        try:
            return work()
        except errors.RepositoryNotFoundError as error:
            raise ArtifactError(f"{what}: the hub has no such data set, or it needs a login") from error
        except errors.RevisionNotFoundError as error:
            raise ArtifactError(f"{what}: the locked revision is gone; update=true takes the newest") from error
        except Exception as error:
            raise failure(error, what) from error

    def describe(self, source: str, revision: str | None) -> tuple[str, dict[str, Any]]:
        """Revision (commit) and files by name of a data set."""
        info = self._call(source, lambda: self._api.dataset_info(source, revision=revision, files_metadata=True))
        return str(info.sha), {entry.rfilename: entry for entry in info.siblings or ()}

    def fetch(self, source: str, revision: str, entry: Any, folder: Path) -> Path:
        """Fetch the file to `folder`, verified against the size and digest that the hub states."""
        name = str(entry.rfilename)
        target = folder / name
        for attempt in range(TRIES):
            target.unlink(missing_ok=True)  # of another revision, or damaged
            self._call(f"{source}/{name}", lambda: self._hub.hf_hub_download(
                source, name, repo_type="dataset", revision=revision, local_dir=folder, endpoint=self._endpoint,
                force_download=attempt > 0,  # noqa: B023 - called at once
            ))  # fmt: skip
            if _is_whole(target, entry):
                return target
        target.unlink()
        raise InfraError(
            f"{source}/{name}: arrived {TRIES} times with another digest than the hub states; run it again"
        )


def _is_whole(path: Path, entry: Any) -> bool:
    if not path.is_file() or (entry.size is not None and path.stat().st_size != entry.size):
        return False
    if entry.lfs is not None:
        return digests.hashed(path) == str(entry.lfs.sha256)
    if entry.blob_id is None:
        return True
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == str(entry.blob_id)


def _wanted(names: list[str], task: Task) -> list[str]:
    """The files of a webdataset folder that the evaluation reads."""
    missing = sorted({data.CLASSNAMES, data.TEMPLATES, "test/nshards.txt"} - set(names))
    if missing:
        raise ArtifactError(f"{task.source}: has no {missing[0]}; it is not the data set of task {task.key}")
    return [name for name in names if lockfile.is_read(task, name)]


def _names(task: Task, folder: Path) -> list[str]:
    """The files in the task's folder that the evaluation reads."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in names if lockfile.is_read(task, name)]


def _contents(task: Task, folder: Path) -> dict[str, Json]:
    paths = {name: folder / name for name in _names(task, folder)}
    return {name: {"size": p.stat().st_size, "sha256": digests.sha256(p)} for name, p in paths.items()}


def changed(task: Task, folder: Path, known: Mapping[str, Json]) -> str | None:
    """A sentence on the files that are not what the lock says, byte for byte; None if all are."""
    expected, found = lockfile.files(task, known), _names(task, folder)

    def differs(name: str) -> bool:
        path, entry = folder / name, expected[name]
        return bool(path.stat().st_size != entry["size"] or digests.hashed(path) != entry["sha256"])

    both = sorted(expected.keys() & set(found))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [name for name, is_wrong in zip(both, pool.map(differs, both), strict=True) if is_wrong]
    return lockfile.complaint(folder, [*wrong, *(expected.keys() ^ set(found))])


def fetch_task(hub: Hub, task: Task, out: Path, revision: str | None) -> dict[str, Json]:
    """Fetch and check one task; its part of the lock file: source, revision and files."""
    source = str(task.source)
    found, entries = hub.describe(source, revision)
    folder = out / task.folder
    converted = task.kind in ("retrieval", "winogavil")
    names = hubsets.wanted(list(entries), source) if converted else _wanted(list(entries), task)
    sizes = {name: entries[name].size or 0 for name in names}
    raw = out / ".hub" / task.folder if converted else folder
    with ThreadPoolExecutor(AT_ONCE) as pool:
        whole = pool.map(lambda name: _is_whole(raw / name, entries[name]), names)
        absent = [name for name, is_whole in zip(names, whole, strict=True) if not is_whole]
        to_fetch = sum(sizes[name] for name in absent)
        # The converted tars are about as large as what they come from, and take the place of those that are there.
        there = sum((folder / name).stat().st_size for name in _names(task, folder))
        files.require_space(out, to_fetch + (max(0, sum(sizes.values()) - there) if converted else 0))
        with Progress(task.slug, total=to_fetch, unit="bytes") as bar:
            fetched = pool.map(lambda name: hub.fetch(source, found, entries[name], raw), absent)
            for name, path in zip(absent, fetched, strict=True):
                bar.advance(path.stat().st_size, note=name)
    if converted:
        table, pictures = (raw / name for name in names)
        hubsets.convert(task, table, pictures, folder)
        shutil.rmtree(raw)
    else:
        for name in sorted(set(_names(task, folder)) - set(names)):
            (folder / name).unlink()
            say(f"{folder / name}: removed, revision {found[:10]} has no such file")
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    check(task, out)
    return {"source": source, "revision": found, "files": _contents(task, folder)}


def check(task: Task, out: Path) -> None:
    """ArtifactError unless the task's folder holds what the task says: tars, class list, number of samples."""
    source = TaskSource.open(task, out)
    source.take([data.index_shard(path, kinds.parts(task)[part]) for part, path in source.shards])


def verify(out: Path, tasks: list[Task]) -> dict[str, str]:
    """Read the data of `tasks` in `out`; what is wrong with those that are not as the lock file says, by key."""
    locked = lockfile.read(out)
    failed: dict[str, str] = {}
    for task in tasks:
        known = locked.get(task.key)
        wrong = f"not in {out / lockfile.NAME}" if known is None else changed(task, out / task.folder, known)
        if wrong is not None:
            failed[task.key] = wrong
        say(f"{task.key:52} {wrong or 'verified'}")
    return failed


def download(out: Path, tasks: list[Task], *, update: bool = False) -> dict[str, str]:
    """Fetch `tasks` to `out`; why each task that failed did so, by key."""
    hub: Hub | None = None
    failed: dict[str, str] = {}
    locked = lockfile.read(out)
    for task in tasks:
        folder, known = out / task.folder, None if update else locked.get(task.key)
        try:
            if task.source is None:
                raise ArtifactError(f"task {task.key} is a stand-in; `python -m harness.make_tasks` makes it")
            if known is not None:
                wrong = changed(task, folder, known)
                say(f"{task.key:52} {wrong or 'verified, revision ' + known['revision'][:10]}")
                if wrong is None:
                    continue
            hub = hub or Hub()
            fetched = fetch_task(hub, task, out, None if known is None else known["revision"])
            if known is not None and fetched["files"] != lockfile.files(task, known):
                raise ArtifactError(f"{folder}: other files than {lockfile.NAME} says for the same revision")
        except (HarnessError, OSError) as error:
            failed[task.key] = str(error)
            say(f"{task.key:52} failed: {error}")
            continue
        locked[task.key] = fetched
        write_record(out / lockfile.NAME, Record(kind="task-data", payload={"tasks": locked}, provenance=provenance()))
        say(f"{task.key:52} fetched, revision {fetched['revision'][:10]}, {len(fetched['files'])} files")
    return failed


def command(argv: list[str]) -> None:
    """Fetch or check, then say what failed."""
    settings = cli.settings(argv, Settings)
    out, chosen = Path(settings.out), suite.load(settings.suite)
    if settings.check and settings.update:
        raise ConfigError("setting update: check=true fetches nothing; leave one of the two out")
    if settings.check:
        tasks = chosen.select(lockfile.read(out) if settings.tasks is None else settings.tasks)
        if not tasks:
            raise ArtifactError(f"{out}: holds no {lockfile.NAME} to check the data against; download them first")
        failed = verify(out, tasks)
    else:
        tasks = chosen.select(settings.tasks)
        with files.lock(out):
            failed = download(out, tasks, update=settings.update)
    sys.stdout.write(f"{len(tasks) - len(failed)} of {len(tasks)} tasks are in {out}\n")
    reasons = "; ".join(f"{key}: {reason}" for key, reason in failed.items())
    if failed and settings.check:
        raise ArtifactError(f"{len(failed)} tasks differ, the command without check=true mends them: {reasons}")
    if failed:
        raise InfraError(f"{len(failed)} tasks failed, the same command goes on with them: {reasons}")


if __name__ == "__main__":
    cli.main(command)
