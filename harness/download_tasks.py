"""`python -m harness.download_tasks out=DIR [tasks=[key,…]]`: the data of the evaluation tasks from the hub.

Each task becomes a folder as harness.eval.data describes it. `DIR/tasks.lock.json` then holds the revision of every
data set and the size and sha256 of every file: the same command goes on where it was stopped, verifies what is there,
and fetches the locked revisions again elsewhere. Nothing of a hub data set is ever run: the retrieval sets and
WinoGAViL, which need a loading script there, are converted from their files (see harness.eval.hubsets).
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field

from harness import cli, files
from harness.errors import ArtifactError, HarnessError, InfraError, from_os_error
from harness.eval import data, digests, hubsets, kinds, suite
from harness.eval.suite import Task
from harness.progress import Progress, say
from harness.provenance import provenance
from harness.records import Json, Record, StrictModel, read_record, write_record

LOCK = "tasks.lock.json"
AT_ONCE = 8
TRIES = 3


class Settings(StrictModel):
    """Fetch the data of the evaluation tasks."""

    out: str = Field(description="folder of the task data")
    tasks: list[str] | None = Field(default=None, description="only these keys")
    suite: str = Field(default="v1", description="the suite whose tasks are fetched")
    update: bool = Field(default=False, description="newest revisions instead of the locked ones")


class Hub:
    """The data sets of a hub ($HF_ENDPOINT, or the public one)."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import huggingface_hub

        self._hub = huggingface_hub
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._api = huggingface_hub.HfApi(endpoint=self._endpoint)

    def _call(self, what: str, work: Callable[[], Any]) -> Any:
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

        try:
            return work()
        except RepositoryNotFoundError as error:
            raise ArtifactError(f"{what}: the hub has no such data set, or it needs a login") from error
        except OfflineModeIsEnabled as error:
            raise InfraError(f"{what}: HF_HUB_OFFLINE is set; unset it to download") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "no answer"
            raise InfraError(f"{what}: the hub answered {status}; run the same command again") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise from_os_error(error, what) from error
            raise InfraError(
                f"{what}: the transfer failed ({type(error).__name__}); run the same command again"
            ) from error

    def describe(self, source: str, revision: str | None) -> tuple[str, dict[str, Any]]:
        """Revision (commit) and files by name of a data set."""
        info = self._call(source, lambda: self._api.dataset_info(source, revision=revision, files_metadata=True))
        return str(info.sha), {entry.rfilename: entry for entry in info.siblings or ()}

    def fetch(self, source: str, revision: str, entry: Any, folder: Path) -> Path:
        """The file in `folder`, whole and verified against the size and digest that the hub states."""
        name = entry.rfilename
        target = folder / str(name)
        for attempt in range(TRIES):
            if not (target.is_file() and _is_whole(target, entry)):
                self._call(f"{source}/{name}", lambda: self._hub.hf_hub_download(
                    source, name, repo_type="dataset", revision=revision, local_dir=folder, endpoint=self._endpoint,
                    force_download=attempt > 0 or target.exists(),  # noqa: B023 - called at once
                ))  # fmt: skip
            if _is_whole(target, entry):
                return target
            target.unlink(missing_ok=True)
        raise InfraError(
            f"{source}/{name}: arrived {TRIES} times with another digest than the hub states; run it again"
        )


def _is_whole(path: Path, entry: Any) -> bool:
    if entry.size is not None and path.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        return digests.sha256(path) == str(entry.lfs.sha256)
    if entry.blob_id is None:
        return True
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == str(entry.blob_id)


def _wanted(names: list[str], task: Task) -> list[str]:
    """The files of a webdataset folder that the evaluation reads."""
    small = [data.CLASSNAMES, data.TEMPLATES, "test/nshards.txt"]
    missing = sorted(set(small) - set(names))
    if missing:
        raise ArtifactError(f"{task.source}: has no {missing[0]}; it is not the data set of task {task.key}")
    return small + [name for name in names if name.startswith("test/") and name.endswith(".tar")]


def _contents(folder: Path) -> dict[str, Json]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": digests.sha256(p)} for p in paths}


def fetch_task(hub: Hub, task: Task, out: Path, revision: str | None) -> dict[str, Json]:
    """Fetch and check one task; its part of the lock file: source, revision and files."""
    source = str(task.source)
    found, entries = hub.describe(source, revision)
    folder = out / task.folder
    converted = task.kind in ("retrieval", "winogavil")
    names = hubsets.wanted(list(entries), source) if converted else _wanted(list(entries), task)
    raw = out / ".hub" / task.folder if converted else folder
    files.require_space(out, sum(entries[name].size or 0 for name in names) * (2 if converted else 1))
    with (
        Progress(task.slug, total=sum(entries[name].size or 0 for name in names), unit="bytes") as bar,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        for name, path in zip(names, pool.map(lambda n: hub.fetch(source, found, entries[n], raw), names), strict=True):
            bar.advance(path.stat().st_size, note=name)
    if converted:
        hubsets.convert(task, raw, folder)
        shutil.rmtree(raw)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    check(task, out)
    return {"source": source, "revision": found, "files": _contents(folder)}


def check(task: Task, out: Path) -> None:
    """ArtifactError unless the task's folder holds what the task says: tars, class list, number of samples."""
    from harness.eval.source import TaskSource

    source = TaskSource.open(task, out)
    source.take([data.index_shard(path, kinds.parts(task)[part]) for part, path in source.shards])


def _locked(out: Path) -> dict[str, Json]:
    return dict(read_record(out / LOCK, "task-data").payload["tasks"]) if (out / LOCK).exists() else {}


def download(out: Path, tasks: list[Task], *, update: bool = False) -> dict[str, str]:
    """Fetch `tasks` to `out`; why each task that failed did so, by key."""
    hub: Hub | None = None
    failed: dict[str, str] = {}
    locked = _locked(out)
    for task in tasks:
        known = locked.get(task.key)
        try:
            if task.source is None:
                raise ArtifactError(f"task {task.key} is a stand-in; `python -m harness.make_tasks` makes it")
            if known is not None and not update and _contents(out / task.folder) == known["files"]:
                say(f"{task.key:52} verified, revision {known['revision'][:10]}")
                continue
            hub = hub or Hub()
            fetched = fetch_task(hub, task, out, known["revision"] if known is not None and not update else None)
        except (HarnessError, OSError) as error:
            failed[task.key] = str(error)
            say(f"{task.key:52} failed: {error}")
            continue
        if known is not None and not update and fetched["files"] != known["files"]:
            failed[task.key] = f"{out / task.folder}: other files than {LOCK} says for the same revision"
            continue
        locked[task.key] = fetched
        write_record(out / LOCK, Record(kind="task-data", payload={"tasks": locked}, provenance=provenance()))
        say(f"{task.key:52} fetched, revision {fetched['revision'][:10]}, {len(fetched['files'])} files")
    return failed


def command(argv: list[str]) -> None:
    """Fetch, then say what failed."""
    settings = cli.settings(argv, Settings)
    tasks = suite.load(settings.suite).select(settings.tasks)
    with files.lock(settings.out):
        failed = download(Path(settings.out), tasks, update=settings.update)
    sys.stdout.write(f"{len(tasks) - len(failed)} of {len(tasks)} tasks are in {settings.out}\n")
    if failed:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in failed.items())
        raise InfraError(f"{len(failed)} tasks failed, the same command goes on with them: {reasons}")


if __name__ == "__main__":
    cli.main(command)
