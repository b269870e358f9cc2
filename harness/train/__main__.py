"""`python -m harness.train scale=small pool.path=DIR subset=uids.npy out=DIR`: the training stage alone.

Takes the settings of harness.run, and `out=DIR` and `shards=DIR` (resharded tars to read). With `run_dir=DIR` the uid
file, the shards and the output folder are those of that run, whose selection must be complete. Several nodes run this
command through torchrun (scripts/slurm/).
"""

import os
import sys
from pathlib import Path

from harness import byod, cli
from harness.compose import compose
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.pool.sealed import SealedPool
from harness.subset import Subset


def command(argv: list[str]) -> None:
    """Train and print where the checkpoint lies."""
    cli.offer_help(argv, __doc__)
    from harness.train.run import RECORD, train

    places, overrides = _split(argv)
    config = compose(overrides)
    out, uids, shards = _where(config, places)
    sealed = _sealed(config)
    resharded = None
    if shards is not None:
        from harness.reshard import ReshardedPool

        resharded = ReshardedPool.open(shards)
    train(
        config, sealed=sealed, subset=Subset.load(uids), resharded=resharded, out=out,
        exclude=sealed.holdout(config.pool.holdout),
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{out / RECORD}\n")


def _split(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings that only this command has, and the others."""
    own = {key: value for key, _, value in (a.partition("=") for a in argv) if key in ("out", "shards")}
    return own, [a for a in argv if a.partition("=")[0] not in own]


def _sealed(config: RunConfig) -> SealedPool:
    """The pool that is trained on; of a byod run, the union that its selection left in the run folder."""
    if config.byod:
        if config.run_dir is None:
            raise ConfigError(
                "setting run_dir: training alone on byod folders needs the run_dir=DIR of their selection"
            )
        return SealedPool.open(os.path.join(config.run_dir, byod.FOLDER))
    if config.pool.path is None:
        raise ConfigError("setting pool.path: training alone needs pool.path=DIR, a sealed pool")
    return SealedPool.open(config.pool.path, config.pool.seal_dir)


def _where(config: RunConfig, places: dict[str, str]) -> tuple[Path, str, str | None]:
    """Output folder, uid file and folder of resharded tars."""
    run_dir = Path(config.run_dir) if config.run_dir else None
    out = places.get("out") or (str(run_dir / "train") if run_dir else None)
    uids = config.subset or (str(run_dir / "uids.npy") if run_dir else None)
    if out is None or uids is None:
        raise ConfigError("training alone needs subset=FILE and out=DIR, or the run_dir=DIR of a run that has its uids")
    shards = places.get("shards")
    if shards is None and run_dir and (run_dir / "shards" / "shards.json").exists():
        shards = str(run_dir / "shards")
    return Path(out), uids, shards


if __name__ == "__main__":
    cli.main(command)
