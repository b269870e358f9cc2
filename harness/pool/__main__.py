"""Sealing and comparing pools on the command line.

python -m harness.pool seal DIR [--seal-dir DIR] [--uids own|content] [--sha256] [--quarantine] [--workers N]
                                [--executor local|ray]
python -m harness.pool diff A B [--out uids.npy]
"""

import argparse
import sys

from harness import cli
from harness.executor import get, local
from harness.pool.diff import diff
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool, read_pool_record


def command(argv: list[str]) -> None:
    """`python -m harness.pool`: see the module."""
    chosen = _parser().parse_args(argv)
    chosen.run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.pool", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sealing = commands.add_parser("seal", help="verify a pool once and fix which samples it holds")
    sealing.add_argument("pool", metavar="DIR", help="folder (or URL, with --seal-dir) in CommonPool's layout")
    sealing.add_argument("--seal-dir", metavar="DIR", help="where the sealed files go; default: the pool's folder")
    sealing.add_argument("--quarantine", action="store_true", help="rewrite shards without what cannot be used")
    sealing.add_argument("--uids", choices=["own", "content"], help="those of the samples' json, or made from content")
    sealing.add_argument(
        "--sha256", action=argparse.BooleanOptionalAction, default=None,
        help="leave out pictures that are not the original of the metadata's sha256; default: as the last time",
    )  # fmt: skip
    sealing.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")
    sealing.add_argument("--executor", choices=["local", "ray"], default="local")
    sealing.set_defaults(run=_seal)
    comparing = commands.add_parser("diff", help="compare two sealed pools")
    comparing.add_argument("a", metavar="A", help="folder of the sealed files of a pool")
    comparing.add_argument("b", metavar="B")
    comparing.add_argument("--out", metavar="FILE", help="write the uids that both hold to this npy file")
    comparing.set_defaults(run=_diff)
    return parser


def _seal(chosen: argparse.Namespace) -> None:
    executor = local(chosen.workers) if chosen.executor == "local" else get(chosen.executor)
    sealed = seal(
        chosen.pool, seal_dir=chosen.seal_dir, executor=executor, quarantine=chosen.quarantine, uids=chosen.uids,
        sha256=chosen.sha256,
    )  # fmt: skip
    record = read_pool_record(sealed.seal_dir)
    left_out = record.payload["left_out"]["count"] + record.provenance.get("lost", 0)
    sys.stdout.write(
        f"{len(sealed):,} samples in {len(sealed.shards):,} shards, {left_out:,} left out, digest {sealed.digest}\n"
    )


def _diff(chosen: argparse.Namespace) -> None:
    found = diff(SealedPool.open(chosen.a), SealedPool.open(chosen.b), chosen.out)
    sys.stdout.write("\n".join(found.lines()) + "\n")


if __name__ == "__main__":
    cli.main(command)
