"""`python -m harness.select pool.path=DIR method=NAME out=FILE.npy`: choose, and write the uid file and its record.

The overrides are those of harness.run, whose --help lists them; `python -m harness.methods` lists the methods. `out` is
FILE.npy (its record is FILE.json) or a folder. From a pool without shards, whose pictures are not downloaded yet, the
choice is made by its metadata alone; harness.run needs the pictures.
"""

import os
import sys
from pathlib import Path

from harness import cli, executor, files, stages
from harness.compose import compose
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.pool.view import Pool
from harness.progress import say
from harness.selection import plugins
from harness.selection import run as selecting
from harness.subset import Subset


def command(argv: list[str]) -> None:
    """Select with the method that the overrides name."""
    cli.offer_help(argv, __doc__)
    targets = [argument.removeprefix("out=") for argument in argv if argument.startswith("out=")]
    if len(targets) != 1:
        raise ConfigError("setting out: give out=FILE.npy once, where the uid file is written")
    sys.path.insert(0, os.getcwd())
    config, method = stages.bind(compose([argument for argument in argv if not argument.startswith("out=")]))
    workers = executor.get(config.executor)
    if config.byod and targets[0].endswith(".npy"):
        raise ConfigError(f"setting out: a byod run keeps more than a uid file; give out=DIR instead of {targets[0]}")
    out = Path(targets[0])
    if method is not None and _is_metadata_only(config):
        subset = _from_metadata(config, method, out, workers)
        say(f"{config.pool.path}: holds no pictures; chosen from its metadata alone")
        sys.stdout.write(f"{out}: {len(subset):,} uids, {subset.distinct:,} distinct\n")
        return
    own = stages.open_own(config, workers)
    subset = stages.choose(config, out, own, stages.united(config, own, out, workers), method, workers)
    sys.stdout.write(f"{targets[0]}: {len(subset):,} uids, {subset.distinct:,} distinct\n")


def _is_metadata_only(config: RunConfig) -> bool:
    """True for a pool whose pictures are not there, as `harness.download … skip_images=true` leaves it."""
    path, seal_dir = config.pool.path, config.pool.seal_dir
    if path is None or config.byod or (Path(seal_dir or path) / "pool.json").exists():
        return False
    return not files.list_files(files.join(path, "shards"), "") and bool(
        files.list_files(files.join(path, "metadata"), ".parquet")
    )


def _from_metadata(config: RunConfig, method: plugins.Method, out: Path, workers: executor.Executor) -> Subset:
    if config.pool.holdout:
        raise ConfigError(f"setting pool.holdout: {config.pool.path} holds no pictures that could be held out")
    if (out / "config.json").exists():
        raise ConfigError(f"setting out: {out} is a run's folder; give out=FILE.npy, as the pool holds no pictures yet")
    pool = Pool.open(str(config.pool.path), executor=workers)
    return selecting.select(method, config.method, pool=pool, scale=config.scale, out=out, executor=workers)


if __name__ == "__main__":
    cli.main(command)
