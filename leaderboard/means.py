"""Bringing what a verification needs: the pool, and the files that an entry keeps elsewhere."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness import files, uid
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError
from harness.pool.sealed import SealedPool
from harness.uid import Uids
from leaderboard.entries import Entry, is_entry_path
from leaderboard.findings import Level

Found = TypeVar("Found")
TIMEOUT = 60
NEEDED: dict[Level, tuple[str, ...]] = {
    "claimed": ("uids.npy", "realised.npy", "pool/"),
    "rescored": ("uids.npy", "realised.npy", "pool/", "predictions/", "checkpoint.safetensors"),
    "retrained": ("uids.npy", "realised.npy", "pool/", "predictions/", "checkpoint.safetensors"),
}


def brought(flag: str, given: Path | None, look: Callable[[Path], Found]) -> Found | None:
    """What `look` finds in `given`; a maintainer's slip is a ConfigError, and never held against an entry."""
    try:
        return None if given is None else look(given)
    except ArtifactError as problem:
        raise ConfigError(f"{flag}: {problem}") from problem


def sealed(path: Path) -> SealedPool:
    """The sealed pool in the folder `path`; ArtifactError if there is none."""
    return SealedPool.open(str(path))


def uid_list(path: Path) -> Uids:
    """The sorted uids in the file `path`, memory-mapped; ArtifactError if it is not such a file."""
    found = uid.load(path)
    if not uid.is_sorted(found):
        raise ArtifactError(f"{path}: is not sorted; `python -m harness.subset convert` sorts it")
    return found


def weights(path: Path) -> Path:
    """`path`, if it is a safetensors file; ArtifactError for any other: reading such weights runs no code."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise ArtifactError(
            f"{path}: is no safetensors file here; what an entry keeps at an address comes by --files DIR --fetch"
        )
    return path


def existing(path: Path) -> Path:
    """`path`, if it is a folder; ArtifactError if not."""
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such folder")
    return path


def generated_pool(folder: Path) -> SealedPool | None:
    """For an entry at scale tiny the generated pool, which is made on first use; None for any other."""
    try:
        if Entry.load(folder).payload.scale != "tiny":
            return None
    except HarnessError:
        return None  # verify says what is wrong with it
    from harness import executor
    from harness.pool.seal import seal
    from harness.tiny import cache as tiny

    return seal(tiny.ensure_pool(), executor=executor.local())


def fetch(folder: Path, into: Path, *, level: Level) -> None:
    """Download what `level` needs and the entry keeps elsewhere; only this command of a maintainer opens addresses.

    A file is kept only if it has the size and sha256 that the entry states; one that is there and has not, another
    entry's perhaps, is replaced. Raises ArtifactError if what came is not what the entry states, InfraError if nothing
    came.
    """
    entry = Entry.load(folder)
    for path, there in entry.payload.elsewhere.items():
        target = into / path
        if (
            there.url is None
            or not is_entry_path(path)
            or not any(part in path for part in NEEDED[level])
            or (target.exists() and files.sha256_file(target) == entry.record.inputs.get(path))
        ):
            continue
        files.require_space(into, there.bytes)
        with files.atomic_path(target) as temporary:
            _download(there.url, temporary, limit=there.bytes)
            found = files.sha256_file(temporary)
            if found != entry.record.inputs.get(path):
                raise ArtifactError(f"{path}: {there.url} has sha256 {found[:12]}…, not what the entry states")


def _download(url: str, to: Path, *, limit: int) -> None:
    """Write what `url` answers to `to`; ArtifactError as soon as it is longer than `limit` bytes."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as source, open(to, "wb") as target:
            left = limit
            while part := source.read(files.CHUNK):
                left -= len(part)
                if left < 0:
                    raise ArtifactError(f"{url}: longer than the {limit:,} bytes that the entry states")
                target.write(part)
    except ValueError as error:
        raise ArtifactError(f"{url}: is not an address ({error})") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise InfraError(f"{url}: cannot be downloaded ({error}); try again") from error
