"""`python -m harness.train run_dir=DIR`, or `subset=uids.npy pool.path=DIR out=DIR`: the training stage alone.

With `run_dir=DIR` settings, uid file and output folder are those of that run, whose selection must be complete, and so
are its resharded tars if it has some. What is given beside it says how this machine trains (train.device, train.gpus,
wandb, …); a setting that would make it another run is refused. Without a run folder the settings are those of
harness.run. `out=DIR` and `shards=DIR` (resharded tars to read) go with both. Several nodes run this command through
torchrun (scripts/slurm/).
"""

import os
import sys
from pathlib import Path

from harness import byod, cli, settled
from harness.compose import compose
from harness.config import RunConfig
from harness.errors import ArtifactError, ConfigError
from harness.pool.sealed import SealedPool
from harness.records import read_record
from harness.subset import Subset
from harness.tiny import cache as tiny


def command(argv: list[str]) -> None:
    """Train and print where the checkpoint lies."""
    cli.offer_help(argv, __doc__)
    places, overrides = _split(argv)
    config = compose(overrides)
    run_dir = Path(config.run_dir) if config.run_dir is not None else None
    if run_dir is not None:
        config = settled.resumed(run_dir, overrides)
    elif config.subset is None or "out" not in places:
        raise ConfigError("training alone needs run_dir=DIR of a run that has its uids, or subset=FILE and out=DIR")
    sealed = _sealed(config, run_dir)
    subset = Subset.load(str(config.subset)) if run_dir is None else _chosen(run_dir, sealed)
    out = Path(places["out"]) if run_dir is None or "out" in places else run_dir / "train"
    shards = places.get("shards")
    if shards is None and run_dir is not None and (run_dir / "shards" / "shards.json").exists():
        shards = str(run_dir / "shards")

    from harness.train.run import RECORD, open_tars, train

    train(config, sealed=sealed, subset=subset, resharded=open_tars(shards), out=out)
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{out / RECORD}\n")


def _split(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings that only this command has, and the others."""
    own = {key: value for key, _, value in (a.partition("=") for a in argv) if key in ("out", "shards")}
    return own, [a for a in argv if a.partition("=")[0] not in own]


def _sealed(config: RunConfig, run_dir: Path | None) -> SealedPool:
    """The pool that is trained on; of a byod run, the union that its selection left in the run folder."""
    if config.byod:
        if run_dir is None:
            raise ConfigError(
                "setting run_dir: training alone on byod folders needs the run_dir=DIR of their selection"
            )
        return byod.selected_from(run_dir)
    return SealedPool.open(tiny.find_pool(config.scale.name, config.pool.path, make=False), config.pool.seal_dir)


def _chosen(run_dir: Path, sealed: SealedPool) -> Subset:
    """The uids of the run, which must be those that its selection ended with, from this pool."""
    settled.require_input(run_dir, "pool", sealed.digest)
    record = read_record(run_dir / "subset.json", "subset")
    subset = Subset.load(run_dir / "uids.npy")
    if subset.digest != record.payload["uids"]:
        raise ArtifactError(f"{run_dir / 'uids.npy'}: not the uids of subset.json beside it; select again")
    return subset


if __name__ == "__main__":
    cli.main(command)
