"""Verifying a small-scale entry: `python benchmarks/bench_verify.py [UIDS] [POOL]` prints one line a figure.

Makes a sealed pool of random uids (default 12.8 million in 1,280 shards) and an entry of a random subset of it
(default 3.8 million), with predictions on the full task sets, then verifies `claimed` in a process of its own whose
time and peak memory are those printed.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import synthetic

from harness import uid
from harness.entry import write_entry
from harness.pool.sealed import SealedPool

WATCHED = """
import sys
from leaderboard.__main__ import command
code = command(sys.argv[1:])
print(next(line.strip() for line in open("/proc/self/status") if line.startswith("VmHWM")), "peak")
sys.exit(code)
"""
# The peak is read in the process itself: what the parent would be told includes its own memory before the exec.


def main(uids: int, pool: int) -> None:
    """Print the time and memory of `verify --level claimed`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sealed = synthetic.world(root / "pool", samples=pool, shards=max(pool // 10_000, 1))
        chosen = synthetic.subset_of(sealed, keep=uids / pool)
        started = time.monotonic()
        run = synthetic.run(root / "run", sealed, chosen, scale="small")
        print(f"made a run of {len(chosen):,} uids out of {pool:,} in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        uid.save(root / "list.npy", sealed.sorted_uids())
        write_entry([run], root / "entry", pool=sealed.seal_dir, pool_list=root / "list.npy")
        print(f"pack: {time.monotonic() - started:.1f} s")
        _files(root, run, sealed)
        command = [sys.executable, "-c", WATCHED, "verify", str(root / "entry"), "--pool", sealed.seal_dir,
                   "--files", str(root / "files"), "--pool-list", str(root / "list.npy")]  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout.rstrip() or done.stderr.rstrip())
        print(f"verify claimed: {time.monotonic() - started:.1f} s with start-up; peak memory in the line above")


def _files(root: Path, run: Path, sealed: SealedPool) -> None:
    """The uid file where --files looks for what an entry keeps elsewhere."""
    (root / "files").mkdir()
    (root / "files" / "uids.npy").symlink_to(run / "uids.npy")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [3_800_000, 12_800_000][len(numbers) :]))
