"""`python -m harness.select pool.path=DIR method=NAME out=FILE.npy`: choose, and write the uid file and its record.

The overrides are those of harness.run, whose --help lists them; `python -m harness.methods` lists the methods. `out` is
FILE.npy (its record is FILE.json) or a folder. With `run_dir=DIR` in its place the choice is the first stage of a run:
its settings are kept there, and `harness.train run_dir=DIR` goes on. From a pool without shards, whose pictures are not
downloaded yet, the choice is made by its metadata alone, to `out`; a run needs the pictures.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from harness import cli, executor, files, settled, stages
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
    sys.path.insert(0, os.getcwd())
    config, method = stages.bind(compose([argument for argument in argv if not argument.startswith("out=")]))
    places = {*targets, *filter(None, [config.run_dir])}
    if len(places) != 1 or "" in places:
        raise ConfigError("setting out: give out=FILE.npy once, where the uid file is written, or run_dir=DIR of a run")
    out = Path(places.pop())
    workers = executor.get(config.executor)
    alone = config.run_dir is None and out.suffix == ".npy"
    if config.byod and alone:
        raise ConfigError(f"setting out: a byod run keeps more than a uid file; give out=DIR instead of {out}")
    with nullcontext() if alone else files.lock(out):
        if method is not None and _is_metadata_only(config):
            subset = _from_metadata(config, method, out, workers)
            say(f"{config.pool.path}: holds no pictures; chosen from its metadata alone")
        else:
            subset = _from_sealed(config, method, out, workers)
    sys.stdout.write(f"{out}: {len(subset):,} uids, {subset.distinct:,} distinct\n")


def _from_sealed(config: RunConfig, method: plugins.Method | None, out: Path, workers: executor.Executor) -> Subset:
    own = stages.open_own(config, workers)
    sealed = stages.united(config, own, out, workers)
    if config.run_dir is not None or (out / settled.FILE).exists():
        settled.settle(out, config, sealed, method)
    return stages.choose(config, out, own, sealed, method, workers)


def _is_metadata_only(config: RunConfig) -> bool:
    """True for a pool whose pictures are not there, as `harness.download … skip_images=true` leaves it."""
    path, seal_dir = config.pool.path, config.pool.seal_dir
    if path is None or config.byod or (Path(seal_dir or path) / "pool.json").exists():
        return False
    if files.list_files(files.join(path, "shards"), ""):
        return False
    # Of an address that leads to nothing the view says so, where the seal would ask for a folder of its own.
    return files.is_remote(path) or bool(files.list_files(files.join(path, "metadata"), ".parquet"))


def _from_metadata(config: RunConfig, method: plugins.Method, out: Path, workers: executor.Executor) -> Subset:
    if config.pool.holdout:
        raise ConfigError(f"setting pool.holdout: {config.pool.path} holds no pictures that could be held out")
    if config.run_dir is not None:
        raise ConfigError(
            "setting run_dir: a run needs pictures, and the pool holds none yet; give out=FILE.npy instead"
        )
    if (out / settled.FILE).exists():
        raise ConfigError(f"setting out: {out} is a run's folder; give out=FILE.npy, as the pool holds no pictures yet")
    pool = Pool.open(str(config.pool.path), executor=workers)
    return selecting.select(method, config.method, pool=pool, scale=config.scale, out=out, executor=workers)


if __name__ == "__main__":
    cli.main(command)
