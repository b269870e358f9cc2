"""The generated pool and task sets in the user's cache folder, made when first used.

Their folder's name holds a digest of everything they are made from, so that a change of the generator never meets
what an older one has left.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import PIL

from harness.errors import ConfigError
from harness.files import cache_dir, data_dir
from harness.progress import say
from harness.tiny.pool import SAMPLES, make_pool
from harness.tiny.tasks import make_tasks


@cache
def version() -> str:
    """12 hex characters over the generator's source, the assets and the libraries that pixels come from."""
    state = hashlib.sha256(f"{np.__version__} {PIL.__version__}".encode())
    assets = (data_dir("assets") / name for name in ("clip_b32.safetensors", "clip_l14.safetensors", "scores.npy"))
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *assets]:
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()[:12]


def pool_dir() -> Path:
    """Where the default pool lies, or will."""
    return cache_dir() / "tiny" / version() / "pool"


def tasks_dir() -> Path:
    """Where the task sets lie, or will."""
    return cache_dir() / "tiny" / version() / "eval"


def ensure_pool() -> str:
    """The default pool's folder; the pool is made if it is not there yet."""
    if not pool_dir().exists():
        say(f"pool: {SAMPLES:,} generated pairs, made once, in {pool_dir()}")
        make_pool(pool_dir())
    return str(pool_dir())


def ensure_tasks() -> Path:
    """The folder of the 40 stand-in task sets; they are made if they are not there yet."""
    if not tasks_dir().exists():
        say(f"eval: 40 stand-in task sets, made once, in {tasks_dir()}")
        make_tasks(tasks_dir())
    return tasks_dir()


def find_pool(scale: str, path: str | None, *, make: bool = True) -> str:
    """The folder of the pool: `path`, or at scale tiny the generated pool in the cache, made now if `make`.

    Raises ConfigError if another scale names none.
    """
    if path is not None:
        return path
    if scale != "tiny":
        raise ConfigError(f"setting pool.path: scale {scale} needs pool.path=DIR, a downloaded pool")
    return ensure_pool() if make else str(pool_dir())


def find_tasks(suite: str, data_dir: str | None, *, make: bool = True) -> Path:
    """The folder of the task sets of `suite`: `data_dir`, or for tiny's stand-ins the cache, made now if `make`.

    Raises ConfigError if there is no such folder.
    """
    if data_dir is None and suite == "tiny":
        return ensure_tasks() if make else tasks_dir()
    if data_dir is None or not Path(data_dir).is_dir():
        lacks = f"suite {suite} needs eval.data_dir=DIR" if data_dir is None else f"there is no folder {data_dir}"
        fetch = f"python -m harness.download_tasks out={data_dir or 'DIR'}"
        raise ConfigError(f"setting eval.data_dir: {lacks}; `{fetch}` fetches the task sets")
    return Path(data_dir)
