"""Bringing what a verification needs: the pool, and the files that an entry keeps elsewhere."""

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from harness import executor, files
from harness.errors import ArtifactError, HarnessError, InfraError
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.tiny import cache as tiny
from leaderboard.entries import Entry, is_entry_path
from leaderboard.findings import Level

TIMEOUT = 60
NEEDED: dict[Level, tuple[str, ...]] = {
    "claimed": ("uids.npy", "realised.npy", "pool/"),
    "rescored": ("uids.npy", "realised.npy", "pool/", "predictions/", "checkpoint.safetensors"),
    "retrained": ("uids.npy", "realised.npy", "pool/", "predictions/", "checkpoint.safetensors"),
}


def sealed_pool(folder: Path, given: Path | None) -> SealedPool | None:
    """The sealed pool in `given`; for an entry at scale tiny the generated one, which is made on first use."""
    if given is not None:
        return SealedPool.open(str(given))
    try:
        if Entry.load(folder).payload.scale != "tiny":
            return None
    except HarnessError:
        return None  # verify says what is wrong with it
    return seal(tiny.ensure_pool(), executor=executor.local())


def fetch(folder: Path, into: Path, *, level: Level) -> None:
    """Download what `level` needs and the entry keeps elsewhere; only this command of a maintainer opens addresses.

    A file is kept only if it has the size and sha256 that the entry states. Raises ArtifactError if it has not,
    InfraError if it cannot be had.
    """
    entry = Entry.load(folder)
    for path, there in entry.payload.elsewhere.items():
        target = into / path
        if (
            there.url is None
            or not is_entry_path(path)
            or not any(part in path for part in NEEDED[level])
            or target.exists()
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
