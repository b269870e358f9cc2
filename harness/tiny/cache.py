"""The generated pool and task sets in the user's cache folder, made when first used.

Their folder's name holds a digest of everything they are made from, so that a change of the generator never meets
what an older one has left.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import PIL

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
