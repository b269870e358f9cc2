"""The board's data filtering network: a CLIP trained on trusted pairs scores the generated pool (Fang et al., 2023).

    python scripts/dfn.py [samples_seen=65536] [fraction=0.3] [folder=runs/dfn]

Trains scale tiny's CLIP on the pool's trusted pairs, scores a copy of the pool's metadata with it, and writes the best
to leaderboard/dfn.npy, which the board's entry trains on. What is done is not done again.
"""

import shutil
from pathlib import Path

import board
import rounds
from pydantic import Field

from harness import cli, executor, files, score, select
from harness.config import load_scale
from harness.pool.seal import seal
from harness.records import StrictModel
from harness.tiny import cache
from harness.train.__main__ import command as train

SCALE = load_scale("tiny")


class Settings(StrictModel):
    """Train the board's data filtering network and write what it chooses."""

    samples_seen: int = Field(default=SCALE.samples_seen, ge=1, description="pairs fed to the filter")
    fraction: float = Field(default=0.3, gt=0, le=1, description="of the pool, the best by the filter's score")
    folder: Path = Field(
        default=rounds.RUNS / "dfn", description="folder of the filter and of the pool as it scores it"
    )
    out: Path = Field(default=board.LIST.with_name("dfn.npy"), description="the uid file")


def command(argv: list[str]) -> None:
    """See the module."""
    chosen = cli.settings(argv, Settings)
    folder, whole = chosen.folder, Path(cache.ensure_pool())
    right, network, pool = folder / "right.npy", folder / "filter", folder / "pool"
    # Of these pairs alone, sealed here: nothing is written into the cached pool.
    trusted = [f"pool.path={whole / 'targets' / 'trusted'}", f"pool.seal_dir={folder / 'trusted'}"]
    select.command(["scale=tiny", *trusted, "method=no_filter", f"out={right}"])
    train(["scale=tiny", f"scale.samples_seen={chosen.samples_seen}", *trusted, f"subset={right}", f"out={network}"])
    if not pool.exists():
        with files.atomic_folder(pool) as draft:
            shutil.copytree(whole / "metadata", draft / "metadata")
            (draft / "shards").symlink_to((whole / "shards").absolute())
    seal(str(pool), executor=executor.get("local"))
    weights = network / "checkpoint.safetensors"
    score.command([f"pool.path={pool}", f"model={SCALE.model}", f"checkpoint={weights}", "name=dfn"])
    best = folder / "best.npy"
    select.command(["scale=tiny", f"pool.path={pool}", "method=clip_score", "method.arch=dfn",
                    f"method.fraction={chosen.fraction}", f"out={best}"])  # fmt: skip
    with files.atomic_path(chosen.out) as temporary:
        shutil.copyfile(best, temporary)


if __name__ == "__main__":
    cli.main(command)
