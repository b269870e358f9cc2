"""What subsets of a generated pool keep of each kind of pair: to understand a method, never to select (RULES.md).

python scripts/kept_by_fault.py faults.tsv SUBSET.npy [SUBSET.npy …]

`faults.tsv` is what `python -m harness.make_pool out=DIR samples=… seed=… faults=faults.tsv` writes for that pool.
Prints a line of a Markdown table for each subset: size, share of right pairs among its own, and for each fault the
share of the pool's pairs with it that are kept.
"""

import sys
from pathlib import Path

import numpy as np

from harness import Subset, uid


def main() -> None:
    path, *subsets = sys.argv[1:]
    lines = [line.split("\t") for line in Path(path).read_text().splitlines()]
    uids, faults = uid.from_hex([name for name, _ in lines]), np.array([fault for _, fault in lines])
    order = uid.argsort(uids)
    uids, faults = uids[order], faults[order]
    kinds = sorted(set(faults), key=lambda kind: (kind != "none", kind))
    print("| subset | size | right pairs in it |", " | ".join(kinds), "|")
    print("|" + "---|" * (3 + len(kinds)))
    for name in subsets:
        subset = Subset.load(name)
        places = uid.find(uids, np.unique(subset.uids))
        if strangers := np.count_nonzero(places < 0):
            sys.exit(f"error: {name}: {strangers} of its uids are not in {path}; give the faults of the same pool")
        kept = faults[places]
        shares = [f"{(kept == kind).sum() / (faults == kind).sum():.2f}" for kind in kinds]
        print(f"| {Path(name).stem} | {len(subset):,} | {(kept == 'none').mean():.3f} |", " | ".join(shares), "|")


if __name__ == "__main__":
    main()
