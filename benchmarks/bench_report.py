"""A whole report on a pool as large as `small`: wall and processor time, and memory.

    python benchmarks/bench_report.py folder=DIR [rows=12800000] [executor=ray]

The subset is 30 % at random. Classes of the tasks, as many as suite v1 has, are nouns that ImageNet-21k shows. The
embeddings that bench_methods.py may have left in the same folder take part. One `python -m harness.report`, start-up
included.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from pools import make_pool
from whole import run

from baselines import _wordnet
from harness import Pool, executor, uid
from harness.eval import data, suite


def classes(folder: Path) -> int:
    """Class names of every task of suite v1 that has them; how many in all."""
    nouns = np.array([noun.replace("_", " ") for noun in _wordnet.nouns(shown=True)])
    rng = np.random.default_rng(4)
    tasks = [task for task in suite.load("v1").tasks.values() if task.classes is not None]
    for task in tasks:
        (folder / task.folder).mkdir(parents=True)
        names = rng.choice(nouns, task.classes, replace=False)
        (folder / task.folder / data.CLASSNAMES).write_text("".join(f"{name}\n" for name in names))
        (folder / task.folder / data.TEMPLATES).write_text("{c}\n")
    return sum(task.classes for task in tasks)


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if wrong := given.keys() - {"folder", "rows", "executor"}:
        sys.exit(f"unknown setting {min(wrong)}")
    folder = make_pool(Path(given["folder"]), rows=int(given.get("rows", 12_800_000)))
    with tempfile.TemporaryDirectory() as scratch:
        pool = Pool.open(str(folder), executor=executor.local())
        size = len(pool)
        uid.save(Path(scratch, "subset.npy"), pool.sample(3 * size // 10, rng=np.random.default_rng(5)))
        del pool
        number = classes(Path(scratch, "tasks"))
        command = [sys.executable, "-m", "harness.report", f"pool.path={folder}", f"subset={scratch}/subset.npy",
                   f"eval.data_dir={scratch}/tasks", f"executor={given.get('executor', 'local')}",
                   f"out={scratch}/report"]  # fmt: skip
        code, took = run(command)
    if code:
        sys.exit(code)
    print(f"report on {size:,} pairs, {number:,} classes: {took}")


if __name__ == "__main__":
    main()
