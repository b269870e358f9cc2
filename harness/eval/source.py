"""A task's data as the evaluation takes them: opened, checked against the task, and cut into pieces. No torch."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.errors import ArtifactError
from harness.eval import data, kinds, lockfile
from harness.eval.suite import Task
from harness.files import sha256_file
from harness.records import Json, digest_of

Result = TypeVar("Result")


@dataclass(kw_only=True)
class TaskSource:
    """The data of one task, opened."""

    task: Task
    folder: Path
    parts: tuple[data.Part, ...]
    shards: list[tuple[int, Path]]
    """Part and path of each tar, in order."""
    words: data.Words | None
    lists: list[data.Words]
    """The class lists that the task is answered with."""
    locked: Mapping[str, Json] | None = None
    """What the lock file says of the task's data; None if nothing."""
    digest: str = ""
    """Of all files of the task's data."""
    samples: list[data.Samples] = field(default_factory=list)
    """Of each tar."""

    @classmethod
    def open(cls, task: Task, data_dir: Path, locked: Mapping[str, Json] | None = None) -> "TaskSource":
        """The task's folder, checked as far as its small files and names of tars go."""
        folder = data_dir / task.folder
        parts = kinds.parts(task)
        with data.reading(folder):
            shards = [(number, path) for number, part in enumerate(parts) for path in data.shards(folder / part.folder)]
            words = data.read_words(folder, task) if task.kind not in ("retrieval", "winogavil") else None
        try:
            lists = kinds.objectives(task, words)
        except ArtifactError as error:
            raise ArtifactError(f"{folder}: {error}") from error
        return cls(task=task, folder=folder, parts=parts, shards=shards, words=words, lists=lists, locked=locked)

    def data_digest(self, shards: Sequence[str]) -> str:
        """sha256 over the task's small files and tars, by name; ArtifactError if the lock file says otherwise."""
        with data.reading(self.folder):
            texts = data.text_files(self.folder, self.parts)
            small = {str(path.relative_to(self.folder)): sha256_file(path) for path in texts}
        names = [str(path.relative_to(self.folder)) for _, path in self.shards]
        found = small | dict(zip(names, shards, strict=True))
        if self.locked is not None:
            said = {name: entry["sha256"] for name, entry in lockfile.files(self.task, self.locked).items()}
            complaint = lockfile.complaint(self.folder, {name for name, _ in found.items() ^ said.items()})
            if complaint is not None:
                raise ArtifactError(f"{complaint}; `python -m harness.download_tasks` mends it")
        return digest_of(found)

    def take(self, indices: Sequence[data.ShardIndex]) -> None:
        """What the tars hold; ArtifactError if it is not what the task says."""
        self.digest = self.data_digest([index.sha256 for index in indices])
        self.samples = [index.samples for index in indices]
        for number, part in enumerate(self.parts):
            of_part = [index for (of, _), index in zip(self.shards, indices, strict=True) if of == number]
            keys = [key for index in of_part for key in index.samples.keys]
            if not keys:
                raise ArtifactError(f"{self.folder / part.folder}: its tars hold no sample; download it again")
            if len(set(keys)) < len(keys):
                twice = next(key for key, count in Counter(keys).items() if count > 1)
                raise ArtifactError(f"{self.folder / part.folder}: key {twice!r} stands in two tars")
            if number == 0 and len(keys) != self.task.samples:
                raise ArtifactError(
                    f"{self.folder / part.folder}: {len(keys)} samples, but task {self.task.key} has "
                    f"{self.task.samples}; download it again"
                )

    def jobs(self, size: int, most: int) -> Iterator["Job"]:
        """The pieces of work that workers read and decode: up to `most` adjacent samples of a tar."""
        for (number, path), samples in zip(self.shards, self.samples, strict=True):
            for start in range(0, len(samples), most):
                piece = samples[start : start + most]
                load = partial(data.load_chunk, path, self.parts[number], piece, size)
                yield Job(self.task.key, number, load, len(piece), int(piece.places[..., 1].sum()))


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of a task's data to be read and decoded."""

    task: str
    part: int
    load: Callable[[], data.Chunk]
    samples: int
    bytes: int
    """Of the members that are read."""


def attempt(work: Callable[[], Result]) -> Result | ArtifactError:
    """What `work` gives, or the ArtifactError that it raises: one bad file ends one task, not the stream."""
    try:
        return work()
    except ArtifactError as error:
        return error


def load_job(job: Job) -> data.Chunk | ArtifactError:
    """The chunk of a job, or what is wrong with it."""
    return attempt(job.load)
