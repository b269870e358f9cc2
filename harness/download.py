"""Getting a pool: metadata and features from the hub, pictures from the web.

    python -m harness.download scale=small data_dir=DIR [skip_images=true] [features=true] [part=i/n]
    python -m harness.download scale=small data_dir=DIR retry_failed=true
    python -m harness.download url_list=pairs.parquet data_dir=DIR          # any other image-text set

The revision of the hub's data set is resolved once and kept in `source.json`. Everything resumes: files that are
there are not fetched again, shards that are finished neither. `download.json` is written last.
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
from pydantic import Field

from harness import cli
from harness.crawl import PER_SHARD, ROBOTS, CrawlCounts, CrawlSettings, crawl, read_counts
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.executor import local
from harness.files import atomic_path, list_files, require_space
from harness.pool.seal import patient_lock
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, StrictModel, read_record, write_record

SCALES = ("small", "medium", "large", "xlarge", "datacomp_1b")
BYTES_PER_PAIR = 35_000
"""Of a pool's tars (small: 450 GB for 12.8 million links)."""
FAILED, DONE = "failed.parquet", "done"


class Settings(StrictModel):
    """Download a pool."""

    data_dir: str
    scale: Literal["small", "medium", "large", "xlarge", "datacomp_1b"] | None = None
    metadata_dir: str | None = None
    """Metadata in CommonPool's layout that is already here, instead of a scale's."""
    url_list: str | None = None
    """A parquet or csv file with the columns url and text, of any other set."""
    revision: str | None = None
    skip_images: bool = False
    features: bool = False
    """The embeddings (npz) as well."""
    part: str | None = Field(default=None, pattern=r"^[1-9]\d*/[1-9]\d*$")
    """i/n: only the i-th of n parts of the metadata files, for several machines."""
    retry_failed: bool = False
    """Try the links that failed once more, but not those whose pages refuse."""
    blur: bool = True
    processes: int = Field(default=16, ge=1)
    threads: int = Field(default=128, ge=1)
    distributor: Literal["multiprocessing", "ray", "pyspark"] = "multiprocessing"
    per_shard: int = Field(default=PER_SHARD, ge=1)
    timeout: int = Field(default=10, ge=1)
    """Seconds without a byte after which a try of a link ends."""


def download(settings: Settings) -> Record:
    """Do what `settings` say and return the record download.json.

    Raises ConfigError if the settings do not fit together or with an earlier download in the folder, InfraError if
    the hub, the disk or img2dataset fail.
    """
    sources = [name for name in ("scale", "metadata_dir", "url_list") if getattr(settings, name) is not None]
    if len(sources) != 1:
        raise ConfigError(f"give one of scale, metadata_dir and url_list, not {' and '.join(sources) or 'none'}")
    if settings.url_list is not None and settings.part is not None:
        raise ConfigError("part divides metadata files, and url_list is one: cut it into files, and give metadata_dir")
    started = time.monotonic()
    folder = Path(settings.data_dir)
    with patient_lock(str(folder)):
        if settings.scale is not None:
            files = _from_hub(settings, folder)
        elif settings.metadata_dir is not None:
            files = [_taken(Path(path), folder) for path in _part(_parquets(settings.metadata_dir), settings.part)]
        else:
            files = [_from_list(Path(str(settings.url_list)), folder)]
        counts = None if settings.skip_images else _images(settings, folder, files)
        payload: dict[str, Any] = {"metadata": sorted(path.name for path in files), "part": settings.part}
        if counts is not None:
            payload |= {
                "links": counts.tried,
                "pictures": counts.successes,
                "failures": dict(counts.failures.most_common(50)),
            }
        source = read_record(folder / "source.json", "source") if settings.scale else None
        record = Record(
            kind="download", inputs={"source": source.digest} if source else {}, payload=payload,
            provenance=provenance(seconds=time.monotonic() - started, settings=settings.model_dump()),
        )  # fmt: skip
        write_record(folder / "download.json", record)
    return record


def _from_hub(settings: Settings, folder: Path) -> list[Path]:
    """Fetch a scale's metadata files (xlarge's folders flattened) and, when asked, features."""
    source = _source(settings, folder)
    endings = (".parquet", ".npz") if settings.features else (".parquet",)
    names = [name for name in source.payload["files"] if name.endswith(endings)]
    stems = _part(sorted({Path(name).stem for name in names}), settings.part)
    names = [name for name in names if Path(name).stem in set(stems)]
    metadata = folder / "metadata"
    missing = [name for name in names if not (metadata / Path(name).name).exists()]
    require_space(folder, sum(source.payload["files"][name] for name in missing))
    fetch = partial(_fetch, source.payload["repository"], source.payload["revision"], str(folder))
    local(8).map(fetch, missing, name="metadata", unit="files", threads=True)
    return [metadata / Path(name).name for name in names if name.endswith(".parquet")]


def _source(settings: Settings, folder: Path) -> Record:
    """The data set's revision and files, resolved by the first command and kept."""
    path = folder / "source.json"
    name = "datacomp_1b" if settings.scale == "datacomp_1b" else f"datacomp_{settings.scale}"
    repository = f"mlfoundations/{name}"
    if path.exists():
        source = read_record(path, "source")
        for setting, key, wanted in (("scale", "repository", repository), ("revision", "revision", settings.revision)):
            if wanted is not None and source.payload[key] != wanted:
                raise ConfigError(
                    f"{setting}: {folder} holds {source.payload[key]}, not {wanted}; choose another data_dir"
                )
        return source
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(repository, revision=settings.revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(f"the hub has no data set {repository} at revision {settings.revision or 'main'}") from error
    except Exception as error:
        raise InfraError(f"the hub does not answer for {repository} ({error}); run the same command again") from error
    files = {
        one.rfilename: int(one.size or 0) for one in info.siblings or [] if one.rfilename.endswith((".parquet", ".npz"))
    }
    source = Record(kind="source", payload={"repository": repository, "revision": str(info.sha), "files": files})
    write_record(path, source)
    return source


def _fetch(repository: str, revision: str, folder: str, name: str) -> None:
    from huggingface_hub import hf_hub_download

    incoming = Path(folder, ".incoming")
    try:
        got = hf_hub_download(repository, name, repo_type="dataset", revision=revision, local_dir=incoming)
    except Exception as error:
        raise InfraError(
            f"{repository}/{name}: not fetched from the hub ({error}); run the same command again"
        ) from error
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


def _parquets(folder: str) -> list[str]:
    files = list_files(folder, ".parquet")
    if not files:
        raise ArtifactError(f"{folder}: holds no .parquet with the columns uid, url and text")
    return files


def _taken(path: Path, folder: Path) -> Path:
    """A metadata file in the pool's own folder, copied there if it lies elsewhere."""
    target = folder / "metadata" / path.name
    if not target.exists():
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
    return target


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
    if "uid" not in table.column_names:
        pairs = zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True)
        uids = [hashlib.sha256(f"{url}\n{text or ''}".encode()).hexdigest()[:32] for url, text in pairs]
        table = table.append_column("uid", pa.array(uids))
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary)
    return target


def _images(settings: Settings, folder: Path, files: list[Path]) -> CrawlCounts:
    columns = pq.read_schema(files[0]).names
    for column in ("uid", "url", "text"):
        if column not in columns:
            raise ArtifactError(f"{files[0]}: has no column {column!r}, only {', '.join(columns)}")
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    how = CrawlSettings(blur=settings.blur, processes=settings.processes, threads=settings.threads,
                        distributor=settings.distributor, per_shard=settings.per_shard,
                        timeout=settings.timeout)  # fmt: skip
    name = "" if settings.part is None else f"part_{settings.part.replace('/', '_of_')}"
    urls, out = folder / ".urls" / (name or "all"), folder / "shards" / name
    _links(urls, files)
    if not list_files(out, "_stats.json"):
        require_space(folder, rows * BYTES_PER_PAIR)
    counts = crawl(urls, out, rows=rows, columns=columns, settings=how)
    if settings.retry_failed:
        _retry(folder, out, name, counts, columns, how)
    say(f"{counts.successes:,} of {rows:,} links gave a picture ({counts.successes / max(rows, 1):.1%}), "
        f"{counts.size / 1e9:.2f} GB; seal the pool with `python -m harness.pool seal {folder}`")  # fmt: skip
    return counts


def _links(urls: Path, files: list[Path]) -> None:
    """A folder of links to exactly these files: img2dataset takes all that a folder holds."""
    urls.mkdir(parents=True, exist_ok=True)
    for path in files:
        link = urls / path.name
        if not link.is_symlink():
            link.symlink_to(path.absolute())


def _retry(folder: Path, out: Path, name: str, counts: CrawlCounts, columns: list[str], how: CrawlSettings) -> None:
    """Try the failed links of `out` again, in shards of their own below it; an unfinished retry goes on.

    Adds what all retries so far have brought to `counts`.
    """
    before, number = out, 0
    while True:
        number += 1
        again, urls = out / f"retry_{number}", folder / ".urls" / f"{name or 'all'}_retry_{number}"
        finished = (again / DONE).exists()
        if not (urls / FAILED).exists():
            failed = failed_rows(before, sorted((folder / "metadata").glob("*.parquet")))
            if not len(failed):
                return
            with atomic_path(urls / FAILED) as temporary:
                pq.write_table(failed, temporary)
        rows = pq.read_metadata(urls / FAILED).num_rows
        more = read_counts(again) if finished else crawl(urls, again, rows=rows, columns=columns, settings=how)
        (again / DONE).touch()
        counts.successes += more.successes
        counts.size += more.size
        counts.failures = more.failures
        if not finished:
            return
        before = again


def failed_rows(shards: Path, metadata: list[Path]) -> pa.Table:
    """The metadata rows of the links that failed in `shards` and may be tried again."""
    wanted: set[str] = set()
    for path in list_files(shards, ".parquet"):
        table = pq.read_table(path, columns=["uid", "status", "error_message"])
        for uid, status, message in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if status != "success" and ROBOTS not in (message or ""):
                wanted.add(uid)
    parts = [pq.read_table(path) for path in metadata]
    chosen = [part.filter(pa.array([uid in wanted for uid in part["uid"].to_pylist()])) for part in parts]
    return pa.concat_tables(chosen)


def command(argv: list[str]) -> None:
    """`python -m harness.download`: see the module."""
    download(cli.settings(argv, Settings))


if __name__ == "__main__":
    cli.main(command)
