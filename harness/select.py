"""`python -m harness.select pool.path=DIR method=NAME out=FILE.npy`: choose, and write the uid file and its record.

The overrides are those of harness.run, whose --help lists them; `python -m harness.methods` lists the methods. `out` is
FILE.npy (its record is FILE.json) or a folder.
"""

import os
import sys
from pathlib import Path

from harness import cli, executor, stages
from harness.compose import compose
from harness.errors import ConfigError


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
    own = stages.open_own(config, workers)
    subset = stages.choose(config, out, own, stages.united(config, own, out, workers), method, workers)
    sys.stdout.write(f"{targets[0]}: {len(subset):,} uids, {subset.distinct:,} distinct\n")


if __name__ == "__main__":
    cli.main(command)
