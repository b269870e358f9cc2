"""The data of a task: its folder, the index of its tars, and samples read, decoded and checked. No torch.

A task's folder holds one or more parts, each a folder with nshards.txt and 0.tar … (n-1).tar:

    classification, wilds, fairness   test/    KEY.(webp|png|jpg|jpeg), KEY.cls, KEY.npy
    retrieval                         test/    KEY.jpg, KEY.json {"captions": […]}
    winogavil                         test/    KEY.json {"cue", "candidates", "associations"};  images/  KEY.jpg

and, where there are classes, classnames.txt and zeroshot_classification_templates.txt. What does not fit is an
ArtifactError for that task alone.
"""

import io
import json
import string
import tokenize
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import tars
from harness.errors import ArtifactError, InfraError, from_os_error
from harness.eval import digests
from harness.eval.pictures import BrokenPictureError, square
from harness.eval.suite import Task

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
"""In the order in which the reference looks for them."""
MOST_DIGITS = 6
"""Of the number of tars; a damaged file states one that is not worth counting to."""
_FIELDS = ((None, None, None), ("c", "", None))
"""Name, format and conversion of nothing and of `{c}`, as string.Formatter tells them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A folder of tars in a task's folder, and what each sample in it holds."""

    folder: str
    needs: tuple[str, ...]
    """Of image, cls, npy, json."""
    rgb_first: bool = True
    """See pictures.square."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Adjacent samples of a tar and where they lie in it; columns, so that a million of them weigh little."""

    keys: list[str]
    places: npt.NDArray[np.int64]
    """(N, needs of the part, 2): offset and size in bytes of each member's content."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, which: slice) -> "Samples":
        return Samples(self.keys[which], self.places[which])


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """What a tar holds."""

    sha256: str
    samples: Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Some adjacent samples of a tar, decoded."""

    keys: list[str]
    images: npt.NDArray[np.uint8] | None = None
    """(N, S, S, 3)"""
    labels: npt.NDArray[np.int64] | None = None
    """(N,)"""
    metadata: npt.NDArray[np.int64] | None = None
    """(N, F)"""
    documents: list[dict[str, Any]] = field(default_factory=list)
    """Of the json members."""

    def __len__(self) -> int:
        return len(self.keys)

    def without_pictures(self) -> "Chunk":
        """The rest, once the pictures are embedded."""
        return replace(self, images=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Class names and prompt templates of a task; the line number is the class."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self) -> list[list[str]]:
        """The texts of each class: every template with the class name at `{c}`."""
        return [[template.format(c=name) for template in self.templates] for name in self.classnames]

    def of_objective(self, objective: str) -> "Words":
        """Those of the lines `objective:text`, split at the first colon (the face tasks)."""
        return Words(classnames=_of(objective, self.classnames), templates=_of(objective, self.templates))


def _of(objective: str, lines: Sequence[str]) -> tuple[str, ...]:
    pairs = [line.partition(":") for line in lines]
    chosen = tuple(text for name, _, text in pairs if name == objective)
    if not chosen:
        raise ArtifactError(f"{CLASSNAMES} or {TEMPLATES}: no line begins with '{objective}:'")
    return chosen


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What reading `path`, a task's file or folder, fails with, as an ArtifactError: that task alone fails."""
    try:
        yield
    except InfraError as error:
        raise ArtifactError(str(error)) from error
    except OSError as error:
        raise ArtifactError(str(from_os_error(error, error.filename or path))) from error
    except MemoryError as error:
        raise ArtifactError(f"{path}: reading it takes more memory than there is; download the task again") from error


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file, stripped; blank lines count."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; download the task again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not readable as UTF-8 text: {error}") from error


def read_words(folder: Path, task: Task) -> Words:
    """Class names and templates; ArtifactError if the task has more or fewer classes, or what is no template."""
    words = Words(classnames=read_lines(folder / CLASSNAMES), templates=read_lines(folder / TEMPLATES))
    if task.classes is not None and len(words.classnames) != task.classes:
        raise ArtifactError(
            f"{folder / CLASSNAMES}: {len(words.classnames)} lines, but task {task.key} has {task.classes} classes"
        )
    if not words.templates:
        raise ArtifactError(f"{folder / TEMPLATES}: empty")
    wrong = next((template for template in words.templates if not _takes_a_class(template)), None)
    if wrong is not None:
        raise ArtifactError(f"{folder / TEMPLATES}: {wrong!r} is no template; what stands in braces must be {{c}}")
    return words


def _takes_a_class(template: str) -> bool:
    """Whether `{c}` is all that is filled in."""
    try:
        return all(tuple(field) in _FIELDS for _, *field in string.Formatter().parse(template))
    except ValueError:
        return False


def shards(where: Path) -> list[Path]:
    """Paths of a part's tars in order; ArtifactError if nshards.txt is missing, no number, or does not fit."""
    count = where / "nshards.txt"
    if not where.is_dir():
        raise ArtifactError(f"{where}: no such folder; `python -m harness.download_tasks` fetches the task")
    text = "".join(read_lines(count))
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        raise ArtifactError(f"{count}: {text!r} is not a number of tars")
    paths = [where / f"{index}.tar" for index in range(int(text))]
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such tar, but {count} says {text}")
    extra = sum(path.stem.isdecimal() for path in where.glob("*.tar")) - len(paths)
    if extra:
        raise ArtifactError(f"{where}: {extra} more tars than {count} says; one of the two is wrong")
    return paths


def index_shard(path: Path, part: Part) -> ShardIndex:
    """The samples of a tar and its sha256; ArtifactError if it is cut short or a sample lacks a member."""
    keys: dict[str, None] = {}
    places = array("q")  # a sample at a time: the objects of all would weigh a kilobyte each
    lacking: ArtifactError | None = None
    try:
        with reading(path), tars.Reader(path) as reader:
            for key, named in groupby(_named(reader), key=itemgetter(0)):
                if key in keys:
                    raise ArtifactError(f"{path}: key {key!r} stands twice")
                keys[key] = None
                found: dict[str, tuple[int, int]] = {}
                for _, extension, member in named:
                    if extension in found:
                        raise ArtifactError(f"{path}: member {member.name!r} stands twice")
                    found[extension] = (member.content, member.size)
                try:
                    for place in _needed(path, key, found, part):
                        places.extend(place)
                except ArtifactError as error:
                    lacking = lacking or error  # the rest may tell better what is wrong
    except tars.BrokenTarError as error:
        raise ArtifactError(f"{path}: {error}; download it again") from error
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{path}: key {error.object!r} is not UTF-8") from error
    if lacking is not None:
        raise lacking
    samples = Samples(list(keys), np.array(places, dtype=np.int64).reshape(-1, len(part.needs), 2))
    with reading(path):
        return ShardIndex(sha256=digests.sha256(path), samples=samples)


def _named(reader: tars.Reader) -> Iterator[tuple[str, str, tars.Member]]:
    """Key, extension and place of each member that belongs to a sample."""
    for member in tars.members(reader):
        key, extension = tars.split_name(member.name)
        if extension and not key.rpartition("/")[2].startswith("__"):
            key.encode()
            yield key, extension, member


def _needed(path: Path, key: str, found: Mapping[str, tuple[int, int]], part: Part) -> list[tuple[int, int]]:
    members: list[tuple[int, int]] = []
    for need in part.needs:
        names = IMAGE_EXTENSIONS if need == "image" else (need,)
        place = next((found[name] for name in names if name in found), None)
        if place is None:
            raise ArtifactError(f"{path}: sample {key!r} has no {need} member")
        if place[1] > tars.MAX_MEMBER:
            raise ArtifactError(f"{path}: sample {key!r}: {need} member of more than {tars.MAX_MEMBER >> 20} MB")
        members.append(place)
    return members


def load_chunk(path: Path, part: Part, samples: Samples, size: int) -> Chunk:
    """Read and decode `samples` of a tar, pictures to `size` pixels; ArtifactError names the sample that does not."""
    images = np.empty((len(samples), size, size, 3), dtype=np.uint8) if "image" in part.needs else None
    labels = np.empty(len(samples), dtype=np.int64) if "cls" in part.needs else None
    metadata: list[npt.NDArray[np.int64]] = []
    documents: list[dict[str, Any]] = []
    with reading(path), tars.Reader(path) as reader:
        for row, places in enumerate(samples.places.tolist()):
            content = {need: reader.exactly(*place) for need, place in zip(part.needs, places, strict=True)}
            try:
                if images is not None:
                    images[row] = square(content["image"], size, rgb_first=part.rgb_first)
                if labels is not None:
                    labels[row] = int(content["cls"])
                if "npy" in content:
                    metadata.append(_vector(content["npy"]))
                if "json" in content:
                    documents.append(_document(content["json"]))
            except (BrokenPictureError, ValueError, OverflowError, RecursionError) as error:
                raise ArtifactError(f"{path}: sample {samples.keys[row]!r}: {error}") from error
    if len({len(vector) for vector in metadata}) > 1:
        raise ArtifactError(f"{path}: npy members of different lengths")
    return Chunk(
        keys=samples.keys, images=images, labels=labels,
        metadata=np.stack(metadata) if metadata else None, documents=documents,
    )  # fmt: skip


def _vector(content: bytes) -> npt.NDArray[np.int64]:
    # Not np.load, which takes other formats for its own, nor read_array, which makes room for whatever is stated.
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("npy member is not of version 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"npy member has a broken header: {error}") from error
    if len(shape) != 1 or dtype.kind not in "iu":
        raise ValueError(f"npy member of shape {shape} and dtype {dtype}, expected a vector of integers")
    stated = file.read(max(shape[0], 0) * dtype.itemsize)
    if len(stated) != shape[0] * dtype.itemsize:
        raise ValueError(f"npy member of shape {shape} is cut short")
    return np.frombuffer(stated, dtype=dtype).astype(np.int64)


def _document(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("json member is not an object")
    return value


def check_range(values: npt.NDArray[np.int64], size: int, what: str, keys: Sequence[str]) -> None:
    """ArtifactError that names the first sample whose value (N,) is not in 0 … size - 1."""
    wrong = np.flatnonzero((values < 0) | (values >= size))
    if len(wrong):
        raise ArtifactError(
            f"sample {keys[wrong[0]]!r}: {what} is {values[wrong[0]]}, allowed is 0 to {size - 1} ({len(wrong)} such)"
        )


def text_files(folder: Path, parts: Sequence[Part]) -> list[Path]:
    """The small files of a task's folder whose digests belong to its data."""
    named = [folder / CLASSNAMES, folder / TEMPLATES, *(folder / part.folder / "nshards.txt" for part in parts)]
    return [path for path in named if path.exists()]
