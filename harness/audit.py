"""`python -m harness.audit run_dir=DIR`: was the model fed what the uid file and the pool say?

Recomputes the ledgers from run_dir's uid file and the pool's uid list with its shard borders alone; no tar is read.
It finds faults, not cheats: those are found by evaluating and training again.
"""

import os
import sys
from pathlib import Path

from harness import byod, cli
from harness.errors import ArtifactError
from harness.order import Order
from harness.records import StrictModel, read_record
from harness.subset import Subset
from harness.train import ledger


class Audit(StrictModel):
    """Compare what a training run was fed with what its uid file gives."""

    run_dir: str
    """The folder of the run, holding uids.npy and train/."""
    pool: str | None = None
    """Folder of the sealed files; None: the one that the run names."""


def audit(run_dir: str | os.PathLike[str], *, pool: str | None = None) -> list[str]:
    """Findings, one sentence each; empty if the ledgers equal what the uid file gives.

    Raises ArtifactError if the run is not complete or the pool is not there.
    """
    folder = Path(run_dir)
    record = read_record(folder / "train" / "train.json", "train")
    if lacks := [
        *({"pool", "subset"} - record.inputs.keys()),
        *({"ledger", "checkpoints", "seed", "samples_seen"} - record.payload.keys()),
    ]:
        raise ArtifactError(f"{folder / 'train' / 'train.json'}: lacks {', '.join(lacks)}; take it from the run again")
    payload = ledger.read(folder / "train" / ledger.FILE)
    sealed = byod.trained_on(folder, record.provenance, pool)
    subset = Subset.load(folder / "uids.npy")
    findings = [
        f"the {name} is not the one of the run (digest {given[:12]}, the run had {record.inputs[name][:12]})"
        for name, given in (("pool", sealed.digest), ("subset", subset.digest))
        if record.inputs[name] != given
    ]
    if record.payload["ledger"] != payload["digest"]:
        findings.append("ledger.json is not the ledger that train.json names")
    findings += [
        f"ledger.json states {name} {payload[name]}, train.json {record.payload[name]}"
        for name in ("seed", "samples_seen")
        if payload[name] != record.payload[name]
    ]
    if findings:
        return findings
    order = Order(
        sealed.uids, sealed.borders, subset.uids, seed=payload["seed"], batch_size=payload["batch_size"],
        samples_seen=payload["samples_seen"], order=payload["order"], exclude=sealed.holdout(payload["holdout"]),
    )  # fmt: skip
    if order.batches != len(payload["batches"]):  # which may be more than anyone would wait for
        return [f"the ledger holds {len(payload['batches']):,} batches, the uid file gives {order.batches:,}"]
    computed = list(order.ledger())
    findings = list(ledger.differences(payload, computed))
    for kept in record.payload["checkpoints"][:-1]:  # the last one's is that of the run
        path = folder / "train" / ledger.beside(kept["file"])
        if path.exists():
            differences = list(ledger.differences(ledger.read(path), computed[: kept["step"]]))
        else:
            differences = ["no such file"]
        findings += [f"{path.relative_to(folder)}: {difference}" for difference in differences]
    return findings


def command(argv: list[str]) -> int:
    """Print the findings; 1 if there are any."""
    chosen = cli.settings(argv, Audit)
    findings = audit(chosen.run_dir, pool=chosen.pool)
    for finding in findings:
        sys.stdout.write(f"differs: {finding}\n")
    if not findings:
        sys.stdout.write("equal: every batch is what the uid file and the pool give\n")
    return 1 if findings else 0


if __name__ == "__main__":
    cli.main(command)
