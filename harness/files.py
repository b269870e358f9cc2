"""Files: read anywhere (fsspec), write atomically, hash, lock, and find what ships with the package."""

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError, from_os_error

CHUNK = 1 << 20
# These log the traceback of each failure of Google's store, which comes out as an error of ours all the same.
for _name in ("gcsfs", "fsspec"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}
"""Protocol of a URL to the extra of this package that opens it."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """True if `path` is a URL that fsspec opens (s3://, gs://, hf://, http://), False for a local path."""
    return "://" in str(path) and not str(path).startswith("file://")


def join(folder: str | os.PathLike[str], *names: str) -> str:
    """`folder/name/…` for local paths and URLs alike."""
    return "/".join([str(folder).rstrip("/"), *names]) if is_remote(folder) else os.path.join(folder, *names)


@contextlib.contextmanager
def answering(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a file system or a store fails with, as an error of ours: InfraError where a store does not answer."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and type(error.__cause__).__module__.startswith("huggingface_hub"):
            raise ArtifactError(
                f"{path}: the hub has no such repository or revision, or none that you may read; a data set's address "
                "is hf://datasets/OWNER/NAME/FOLDER, and a private one needs `hf auth login`"
            ) from error
        if isinstance(error, OSError) and (not is_remote(path) or _is_missing(error)):
            raise from_os_error(error, path) from error
        if not is_remote(path):
            raise
        if isinstance(error, ImportError):
            name = _EXTRAS.get(str(path).partition(":")[0])
            extra = f"; pip install 'datacomp-harness[{name}]'" if name else ""
            raise ConfigError(f"{path}: {error}{extra}") from error
        if isinstance(error, ValueError):  # of fsspec: no such protocol, or a server without byte ranges
            raise ConfigError(f"{path}: {error}") from error
        # Most errors of stores' libraries are no OSErrors; importing them here to name them would be slow.
        # What the hub and Google say has several lines.
        shown = " ".join(str(error.__cause__ or error).split()).rstrip(".") or type(error).__name__
        raise InfraError(f"{path}: the store did not answer ({shown}); run the same command again") from error


def _is_missing(error: OSError) -> bool:
    # fsspec says the same of a server that it cannot reach, with the reason as cause.
    cause = error.__cause__
    known = cause is None or isinstance(cause, FileNotFoundError) or _status(cause) == 404
    return isinstance(error, FileNotFoundError) and known


def _status(error: BaseException) -> object:
    """The HTTP status of an answer, where aiohttp and botocore keep it."""
    answer = getattr(error, "response", None)
    told = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return told.get("HTTPStatusCode", getattr(error, "status", None))


class _RemoteFile(io.RawIOBase):
    """A file of a store, whose failures while it is read are errors of ours."""

    def __init__(self, path: str, file: Any) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def read(self, size: int | None = -1) -> bytes:
        with answering(self._path):
            return bytes(self._file.read(-1 if size is None else size))

    def close(self) -> None:
        self._file.close()
        super().close()


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a local path or a URL for reading bytes; its errors come out as those of `answering`."""
    with answering(path):
        if is_remote(path):
            return cast("IO[bytes]", _RemoteFile(str(path), fsspec.open(str(path), "rb").open()))
        return open(path, "rb")


def list_files(folder: str | os.PathLike[str], suffix: str) -> list[str]:
    """Sorted paths of the files directly in `folder` whose names end in `suffix`; empty if there is no such folder."""
    with answering(folder):
        if is_remote(folder):
            system, root = fsspec.core.url_to_fs(str(folder))
            try:
                names = system.ls(root, detail=False)
            except FileNotFoundError as error:  # `exists` of some stores says no where they did not answer
                if not _is_missing(error):
                    raise
                return []
            return sorted(str(system.unstrip_protocol(name)) for name in names if name.endswith(suffix))
        if not os.path.isdir(folder):
            return []
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(suffix))


def stamp(path: str | os.PathLike[str]) -> str:
    """What changes with a local file or URL, without reading it: its size and time, or what else its store tells."""
    with answering(path):
        if not is_remote(path):
            state = os.stat(path)
            return f"{state.st_size} {state.st_mtime_ns}"
        system, name = fsspec.core.url_to_fs(str(path))
        return str(system.ukey(name))


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, removed when it does not.

    The content is synced to disk before the rename, so a file that exists under its own name is whole.
    Raises InfraError if the disk is full or the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise from_os_error(error, target) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise from_os_error(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty temporary folder that takes the place of `path`, and of all that is there, when the block ends well.

    Raises InfraError if the disk is full or the folder cannot be written, ArtifactError if `path` is a file.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise from_os_error(error, target) from error
    new, old = workplace / "new", workplace / "old"
    try:
        new.mkdir()
        yield new
        if target.is_dir():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise from_os_error(error, target) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to the local `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """sha256 (hex) of the content of a local path or URL."""
    state = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str], *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the operating system frees it when the process ends, however it ends.

    With wait=False a folder that another process holds is an InfraError, with wait=True its end is awaited. Several
    processes can hold a folder together if all of them ask for it `shared`.
    """
    path = Path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 - closed below, after the lock is released
    except OSError as error:
        raise from_os_error(error, folder) from error
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InfraError(
                f"{folder}: another command works in this folder; wait for it or choose another"
            ) from error
        yield


def require_writable(path: str | os.PathLike[str]) -> None:
    """The error that `atomic_path` would end in where the file `path` cannot be written: asked before long work."""
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder stands where the file is to be; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise from_os_error(error, target) from error


def require_space(folder: str | os.PathLike[str], needed: int) -> None:
    """InfraError if the disk of `folder` has fewer than `needed` bytes free."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InfraError(
            f"{folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; make room or choose another"
        )


def cache_dir() -> Path:
    """The user's cache folder of this project: $DATACOMP_HARNESS_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("DATACOMP_HARNESS_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "datacomp-harness"


def data_dir(name: str) -> Path:
    """The folder `configs` or `tasks` or `assets`: inside the installed package, or at the root of the checkout."""
    installed = Path(__file__).parent / "data" / name
    return installed if installed.is_dir() else checkout() / name


def checkout() -> Path:
    """The folder that holds the package: the root of the project where it runs from a checkout."""
    return Path(__file__).parent.parent


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files and folders that killed commands left below `folder`; its lock must be held."""
    for path in list(Path(folder).rglob(".*.tmp")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
