"""Getting a pool: metadata and features from the hub, pictures from the web.

    python -m harness.download scale=small data_dir=DIR [skip_images=true] [features=true] [part=i/n]
    python -m harness.download scale=small data_dir=DIR retry_failed=true
    python -m harness.download url_list=pairs.parquet data_dir=DIR          # any other image-text set

The revision of the hub's data set is resolved once and kept in `source.json`. Everything resumes: files that are
there are not fetched again, shards that are finished neither. `download.json` is written last. Parts may share one
folder: each has its own shards and its own `download_part_i_of_n.json`.
"""

import hashlib
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field

from harness import cli, hub
from harness.crawl import BEGUN, BYTES_PER_PAIR, PER_SHARD, CrawlSettings, crawl, read_counts, still_to_come
from harness.errors import ArtifactError, ConfigError, from_os_error
from harness.executor import local
from harness.files import atomic_path, is_remote, list_files, require_space
from harness.pool import scanning
from harness.pool.reading import MetadataFile, Stretch, missing_column, open_parquet
from harness.pool.seal import patient_lock
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, StrictModel, read_record, write_record
from harness.retries import add_retries

BYTES_PER_LINK = 245
"""Of the hub's metadata (small: 26 files of 121 MB for 12.8 million links)."""


class Settings(StrictModel):
    """Download a pool."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    data_dir: str
    """the pool's folder"""
    scale: Literal["small", "medium", "large", "xlarge", "datacomp_1b"] | None = None
    """metadata of this scale, from the hub"""
    metadata_dir: str | None = None
    """metadata in CommonPool's layout that is already here, instead of a scale's"""
    url_list: str | None = None
    """a parquet or csv file with the columns url and text, of any other set"""
    revision: str | None = None
    """of the hub's data set (a commit, branch or tag); default: main; resolved once"""
    skip_images: bool = False
    """metadata only"""
    features: bool = False
    """the embeddings (npz) as well"""
    part: str | None = Field(default=None, pattern=r"^[1-9]\d*/[1-9]\d*$")
    """i/n: only the i-th of n parts of the metadata files, for several machines"""
    retry_failed: bool = False
    """try the links that failed once more, but not those whose pages refuse"""
    blur: bool = True
    """blur the boxes of the column face_bboxes"""
    processes: int = Field(default=16, ge=1)
    """of this machine, each with one shard"""
    threads: int = Field(default=128, ge=1)
    """of each process"""
    distributor: Literal["multiprocessing", "ray", "pyspark"] = "multiprocessing"
    """img2dataset's own; ray and pyspark take as many processes as their cluster has cores"""
    per_shard: int = Field(default=PER_SHARD, ge=1)
    """links of a shard"""
    timeout: int = Field(default=10, ge=1)
    """seconds without a byte after which a try of a link ends"""


def download(settings: Settings) -> Record:
    """Do what `settings` say and return the record download.json.

    Raises ConfigError if the settings do not fit together or with an earlier download in the folder, InfraError if
    the hub, the disk or img2dataset fail.
    """
    sources = [name for name in ("scale", "metadata_dir", "url_list") if getattr(settings, name) is not None]
    if len(sources) != 1:
        raise ConfigError(f"give one of scale, metadata_dir and url_list, not {' and '.join(sources) or 'none'}")
    for name in ("features", "revision"):
        if settings.scale is None and getattr(settings, name):
            raise ConfigError(f"setting {name}: it is of a scale on the hub; leave it out with {sources[0]}")
    if settings.url_list is not None and settings.part is not None:
        raise ConfigError("part divides metadata files, and url_list is one: cut it into files, and give metadata_dir")
    if is_remote(settings.data_dir):
        raise ConfigError(
            f"data_dir={settings.data_dir}: the download writes to a disk; copy it to the store afterwards"
        )
    started = time.monotonic()
    folder = Path(settings.data_dir)
    name = "" if settings.part is None else f"part_{settings.part.replace('/', '_of_')}"
    urls, shards = folder / ".urls" / (name or "all"), folder / "shards" / name
    with patient_lock(str(folder / ".urls")):
        source = _source(settings, folder)
    # Parts work in one folder side by side; nothing seals the pool meanwhile.
    with patient_lock(str(folder), shared=True), patient_lock(str(urls)):
        if settings.scale is not None:
            files = _from_hub(settings, folder, source, shards)
        elif settings.metadata_dir is not None:
            files = _from_folder(settings, folder, shards)
        else:
            files = [_from_list(Path(str(settings.url_list)), folder)]
        if not (folder / "source.json").exists():  # only now: a list with a fault may be mended
            write_record(folder / "source.json", source)
        payload: dict[str, Any] = {"metadata": sorted(path.name for path in files), "part": settings.part}
        path = folder / ("_".join(filter(None, ("download", name))) + ".json")
        if settings.skip_images and path.exists() and "links" in (before := read_record(path, "download")).payload:
            return before  # what it says about the pictures still holds
        if not settings.skip_images:
            payload |= _images(settings, folder, urls, shards, files)
        else:
            say(f"{len(files):,} metadata files in {folder / 'metadata'}; without skip_images the pictures come, too")
        record = Record(
            kind="download", inputs={"source": source.digest}, payload=payload,
            provenance=provenance(seconds=time.monotonic() - started, settings=settings.model_dump()),
        )  # fmt: skip
        write_record(path, record)
    return record


def _from_hub(settings: Settings, folder: Path, source: Record, shards: Path) -> list[Path]:
    """Fetch a scale's metadata files (xlarge's folders flattened) and, when asked, features."""
    endings = (".parquet", ".npz") if settings.features else (".parquet",)
    there = source.payload["files"]
    stems = set(_part(sorted(Path(name).stem for name in there if name.endswith(".parquet")), settings.part))
    names = [name for name in there if name.endswith(endings) and Path(name).stem in stems]
    metadata = folder / "metadata"
    missing = [name for name in names if not (metadata / Path(name).name).exists()]
    if missing:
        links = sum(there[name] for name in names if name.endswith(".parquet")) // BYTES_PER_LINK
        _require_room(settings, folder, shards, sum(there[name] for name in missing), links)
    fetch = partial(_fetch, source.payload["repository"], source.payload["revision"], str(folder))
    local(8).map(fetch, missing, name="metadata", unit="files", threads=True)
    return [metadata / Path(name).name for name in names if name.endswith(".parquet")]


def _source(settings: Settings, folder: Path) -> Record:
    """Where the metadata come from, as the first command in `folder` found it; ConfigError if that was elsewhere."""
    path = folder / "source.json"
    before = read_record(path, "source") if path.exists() else None
    if settings.scale is not None:
        if before is None:
            return _resolved(settings, path)
        _require_same(settings, folder, before)
        return before
    files = [str(settings.url_list)] if settings.url_list is not None else _parquets(str(settings.metadata_dir))
    source = Record(kind="source", payload={"files": {Path(file).name: _size(file) for file in files}})
    if before is not None and before.digest != source.digest:
        setting = "url_list" if settings.url_list is not None else "metadata_dir"
        raise ConfigError(f"{setting}: {folder} holds the pairs of other files ({path}); choose another data_dir")
    return source


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise from_os_error(error, path) from error


def _repository(settings: Settings) -> str:
    return "mlfoundations/" + ("datacomp_1b" if settings.scale == "datacomp_1b" else f"datacomp_{settings.scale}")


def _require_same(settings: Settings, folder: Path, before: Record) -> None:
    """ConfigError if what an earlier command has resolved is not the data set of `settings`."""
    held = before.payload
    for setting, value, same in (
        ("scale", _repository(settings), [held.get("repository", "metadata that are not of the hub")]),
        ("revision", settings.revision, [held.get("revision"), before.provenance.get("asked")]),
    ):
        if value is not None and value not in same:
            raise ConfigError(f"{setting}: {folder} holds {same[0]}, not {value}; choose another data_dir")


def _resolved(settings: Settings, path: Path) -> Record:
    """The data set's revision and files as the hub says, written to `path`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repository, wanted = _repository(settings), settings.revision or "main"
    try:
        info = HfApi().dataset_info(repository, revision=wanted, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(f"revision: the hub has no data set {repository} at {wanted}; choose another") from error
    except Exception as error:
        raise hub.failure(error, f"the hub does not answer for {repository}") from error
    files = {
        one.rfilename: int(one.size or 0) for one in info.siblings or [] if one.rfilename.endswith((".parquet", ".npz"))
    }
    if not any(name.endswith(".parquet") for name in files):
        raise ConfigError(f"{repository} has no parquet file at revision {wanted}; choose another")
    payload = {"repository": repository, "revision": str(info.sha), "files": files}
    source = Record(kind="source", payload=payload, provenance=provenance(asked=wanted))
    write_record(path, source)
    return source


def _fetch(repository: str, revision: str, folder: str, name: str) -> None:
    from huggingface_hub import hf_hub_download

    incoming = Path(folder, ".incoming")
    try:
        got = hf_hub_download(repository, name, repo_type="dataset", revision=revision, local_dir=incoming)
    except Exception as error:
        raise hub.failure(error, f"{repository}/{name}: not fetched") from error
    target = Path(folder, "metadata", Path(name).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(got, target)


def _part(stems: list[str], part: str | None) -> list[str]:
    if part is None:
        return stems
    i, n = map(int, part.split("/"))
    if i > n:
        raise ConfigError(f"part={part}: the parts of {n} are 1/{n} to {n}/{n}")
    if n > len(stems):
        raise ConfigError(f"part={part}: there are {len(stems)} metadata files, so at most as many parts")
    return stems[i - 1 :: n]


def _require_same_parts(shards: Path, part: str | None) -> None:
    """ConfigError if `shards` was begun in another number of parts: links would be downloaded twice."""
    begun = {path.parent.name.rpartition("_of_")[2] for path in shards.glob(f"part_*/{BEGUN}")}
    if (shards / BEGUN).exists():
        begun.add("")
    others = begun - {"" if part is None else part.partition("/")[2]}
    if others:
        how = " and ".join(f"in {n} parts" if n else "as a whole" for n in sorted(others))
        asked = "no part given" if part is None else f"part={part}"
        raise ConfigError(f"{asked}: {shards} was begun {how}; go on so, or choose another data_dir")


def _parquets(folder: str) -> list[str]:
    files = list_files(folder, ".parquet")
    if not files:
        raise ArtifactError(f"{folder}: holds no .parquet with the columns uid, url and text")
    return files


def _from_folder(settings: Settings, folder: Path, shards: Path) -> list[Path]:
    """Metadata files in the pool's own folder, copied there where they are not yet; ArtifactError for a bad uid."""
    paths = [Path(path) for path in _part(_parquets(str(settings.metadata_dir)), settings.part)]
    targets = {path: folder / "metadata" / path.name for path in paths}
    new, links = [path for path in paths if not targets[path].exists()], 0
    for path in new:
        with open_parquet(str(path)) as parquet:
            file = MetadataFile(str(path), parquet.metadata.num_rows)
        links += len(scanning.uids(file, {}))  # or an error names the row: its picture could not be sealed
    if new:
        _require_room(settings, folder, shards, sum(path.stat().st_size for path in new), links)
    for path in new:
        with atomic_path(targets[path]) as temporary:
            shutil.copyfile(path, temporary)
    return list(targets.values())


def _require_room(settings: Settings, folder: Path, shards: Path, size: int, links: int) -> None:
    """InfraError unless the disk holds `size` bytes of metadata and, unless they are skipped, the tars of `links`.

    Other parts that were begun in the same folder are on the same disk, and what they lack needs its room as well.
    """
    pictures = 0 if settings.skip_images else max(links - read_counts(shards).tried, 0)
    if pictures:
        begun = (path.parent for path in (folder / "shards").glob(f"part_*/{BEGUN}"))
        pictures += sum(still_to_come(other) for other in begun if other != shards)
    require_space(folder, size + pictures * BYTES_PER_PAIR)


def _from_list(path: Path, folder: Path) -> Path:
    """Metadata made from a list of links: uids from link and caption where the list has none."""
    target = folder / "metadata" / f"{path.stem}.parquet"
    if target.exists():
        return target
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: neither a parquet nor a csv file: {error}") from error
    for column in ("url", "text"):
        if column not in table.column_names:
            raise ArtifactError(f"{path}: has no column {column!r}, only {', '.join(table.column_names)}")
    if not table.num_rows:
        raise ArtifactError(f"{path}: holds no link; a list has one row a pair")
    if "uid" not in table.column_names:
        pairs = zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True)
        uids = [hashlib.sha256(f"{url}\n{text or ''}".encode()).hexdigest()[:32] for url, text in pairs]
        table = table.append_column("uid", pa.array(uids))
    Stretch(table.select(["uid"]), {}, MetadataFile(str(path), table.num_rows), 0, None).uids()  # or an error names it
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary)
    return target


def _images(settings: Settings, folder: Path, urls: Path, out: Path, files: list[Path]) -> dict[str, Any]:
    """Crawl the links of the metadata `files`; what the record says about it."""
    links, columns = {}, open_parquet(str(files[0])).schema_arrow.names
    blur = settings.blur and "face_bboxes" in columns
    for path in files:
        with open_parquet(str(path)) as parquet:
            there = parquet.schema_arrow.names
            for column in ("uid", "url", "text", *(["face_bboxes"] if blur else [])):
                if column not in there:
                    raise missing_column(str(path), column, there)
            links[path.name] = parquet.metadata.num_rows
    if settings.blur and not blur:
        say(f"{files[0]}: has no column face_bboxes, so faces are not blurred")
    _require_same_parts(folder / "shards", settings.part)
    how = CrawlSettings(blur=blur, processes=settings.processes, threads=settings.threads,
                        distributor=settings.distributor, per_shard=settings.per_shard,
                        timeout=settings.timeout)  # fmt: skip
    rows = sum(links.values())
    _require_room(settings, folder, out, 0, rows)
    _links(urls, files)
    counts = crawl(urls, out, links=links, columns=columns, settings=how)
    add_retries(counts, out, urls, columns, how, again=settings.retry_failed)
    say(f"{counts.successes:,} of {rows:,} links gave a picture ({counts.successes / max(rows, 1):.1%}), "
        f"{counts.size / 1e9:.2f} GB; seal the pool with `python -m harness.pool seal {folder}`")  # fmt: skip
    return {
        "links": counts.tried, "pictures": counts.successes, "failures": dict(counts.failures.most_common(50)),
        "img2dataset": how.pictures(columns),
    }  # fmt: skip


def _links(urls: Path, files: list[Path]) -> None:
    """A folder of links to exactly these files: img2dataset takes all that a folder holds."""
    urls.mkdir(parents=True, exist_ok=True)
    for old in set(list_files(urls, ".parquet")) - {str(urls / path.name) for path in files}:
        os.unlink(old)
    for path in files:
        link = urls / path.name
        if not link.exists():  # a link that a moved folder broke is made anew
            link.unlink(missing_ok=True)
            link.symlink_to(path.absolute())


def command(argv: list[str]) -> None:
    """`python -m harness.download`: see the module."""
    download(cli.settings(argv, Settings))


if __name__ == "__main__":
    cli.main(command)
