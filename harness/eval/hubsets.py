"""Hub data sets that come as a table and a zip of pictures, converted once to the tar layout of harness.eval.data.

The table is one CSV, its lists JSON or Python literals. On the hub:

    Flickr     test_1k_flickr.csv       filename, raw (the captions), …         images_flickr_1k_test.zip
    MSCOCO     test_5k_mscoco_2014.csv  filename, raw, cocoid, …                images_mscoco_2014_5k_test.zip
    WinoGAViL  winogavil_dataset.csv    ID, cue, candidates, associations, …    winogavil_images.zip

WinoGAViL names pictures without their extension. A name of a picture means one file, in whatever folder of the zip.
Pictures are copied byte for byte.
"""

import ast
import csv
import io
import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import ArtifactError
from harness.eval import kinds
from harness.eval.data import IMAGE_EXTENSIONS
from harness.eval.suite import Task
from harness.files import write_bytes

PICTURE = ("filename", "image", "image_name", "file_name")
CAPTIONS = ("raw", "caption", "captions", "sentences")
PER_TAR = 1000
Sample = list[tuple[str, bytes]]


def wanted(names: Sequence[str], source: str) -> list[str]:
    """The table and the zip among a data set's files; ArtifactError unless there is one of each."""
    chosen = [[name for name in names if name.lower().endswith(ending)] for ending in (".csv", ".zip")]
    for found, what in zip(chosen, ("CSV table", "zip of pictures"), strict=True):
        if len(found) != 1:
            raise ArtifactError(f"{source}: holds {len(found)} files that could be its {what}, expected one")
    return [found[0] for found in chosen]


def convert(task: Task, table: Path, pictures: Path, folder: Path) -> None:
    """Write the task's folder from the downloaded table and zip of pictures."""
    for part in kinds.parts(task):
        shutil.rmtree(folder / part.folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(pictures) as archive:
            shown = _Pictures(archive)
            rows = list(_rows(table))
            if task.kind == "retrieval":
                _write(folder / "test", _pairs(rows, shown, table))
            else:
                instances = [_instance(row, table) for row in rows]
                # Names become numbers: a picture's name may hold dots, at which a tar's key would end.
                keys: dict[str, str] = {}
                for one in instances:
                    for name in one["candidates"]:
                        keys.setdefault(name, f"{len(keys):08d}")
                _write(folder / "test", ([("json", _json(_numbered(one, keys)))] for one in instances))
                _write(folder / "images", ([shown.member(name)] for name in keys))
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{table.parent}: not readable as a table and a zip of pictures: {error}") from error


class _Pictures:
    """Pictures of a zip by file name, with or without its extension."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for name in archive.namelist():
            path = PurePosixPath(name)
            if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and not path.name.startswith("._"):
                self._names.setdefault(path.name, []).append(name)
                self._stems.setdefault(path.stem, []).append(name)

    def member(self, name: str) -> tuple[str, bytes]:
        """Extension and content of a picture."""
        short = PurePosixPath(name).name
        places = self._names.get(short) or self._stems.get(short, [])
        if len(places) != 1:
            found = f"{len(places)} pictures" if places else "no picture"
            raise ArtifactError(f"{self._archive.filename}: {found} {name!r}")
        (place,) = places
        return PurePosixPath(place).suffix.lower().lstrip("."), self._archive.read(place)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with open(table, newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _column(row: dict[str, str], names: Sequence[str], table: Path) -> str:
    for name in names:
        if row.get(name):
            return row[name]
    raise ArtifactError(f"{table}: has no column {' or '.join(names)}; its columns are {', '.join(map(str, row))}")


def _list(text: str, table: Path) -> list[str]:
    for read in (json.loads, ast.literal_eval):
        try:
            value: Any = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return value
    raise ArtifactError(f"{table}: {text[:60]!r} is not a list of texts")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()


def _pairs(rows: Iterable[dict[str, str]], pictures: _Pictures, table: Path) -> Iterator[Sample]:
    for row in rows:
        captions = _list(_column(row, CAPTIONS, table), table)
        yield [pictures.member(_column(row, PICTURE, table)), ("json", _json({"captions": captions}))]


def _instance(row: dict[str, str], table: Path) -> dict[str, Any]:
    return {
        "cue": _column(row, ("cue",), table),
        "candidates": _list(_column(row, ("candidates",), table), table),
        "associations": _list(_column(row, ("associations",), table), table),
    }


def _numbered(instance: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    lists = {name: [keys.get(one, one) for one in instance[name]] for name in ("candidates", "associations")}
    return instance | lists


def _write(folder: Path, samples: Iterable[Sample]) -> None:
    """Tars of at most PER_TAR samples, then nshards.txt; equal samples give equal bytes."""
    folder.mkdir(parents=True)
    tar: tarfile.TarFile | None = None
    shards = 0
    for number, sample in enumerate(samples):
        if number % PER_TAR == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(folder / f"{shards}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed below
            shards += 1
        assert tar is not None
        for extension, content in sample:
            member = tarfile.TarInfo(f"{number:08d}.{extension}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if tar is not None:
        tar.close()
    write_bytes(folder / "nshards.txt", f"{shards}\n".encode())
