"""The ledger: what was really fed, batch by batch, so that anyone can recompute it from the uid file.

One lies beside each checkpoint that is kept and goes as far as that; ledger.json is that of the whole run. It is a
record; its payload holds the settings that the order needs, the first 8 hex digits of each batch's digest, and one
digest over all of them whole. No torch here: `harness.audit` reads it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import Field, ValidationError

from harness.config import RunConfig
from harness.errors import ArtifactError
from harness.order import OrderName, chain, protocol
from harness.records import Record, StrictModel, first_problem, read_record, write_record
from harness.weights import WEIGHTS

FILE = "ledger.json"
SHORT = 8


class Stated(StrictModel):
    """The payload of a ledger."""

    seed: int = Field(ge=0)
    order: OrderName
    batch_size: int = Field(gt=0)
    samples_seen: int = Field(gt=0)
    holdout: int = Field(ge=0)
    batches: list[str]
    digest: str


def beside(checkpoint: str) -> str:
    """Name of the ledger that lies beside the checkpoint of this name."""
    return FILE if checkpoint == WEIGHTS else f"{checkpoint.removesuffix('.safetensors')}.json"


def write(path: str | os.PathLike[str], digests: list[str], *, config: RunConfig, inputs: dict[str, str]) -> str:
    """Write the ledger of the batches fed so far; returns the digest over them."""
    digest = chain(digests)
    payload = {
        "seed": config.seed,
        "order": config.train.order,
        "batch_size": config.scale.batch_size,
        "samples_seen": config.scale.samples_seen,
        "holdout": config.pool.holdout,
        "batches": [d[:SHORT] for d in digests],
        "digest": digest,
    }
    write_record(path, Record(kind="ledger", protocol=protocol(config.train.order), inputs=inputs, payload=payload))
    return digest


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The payload of a ledger; ArtifactError if it is missing or damaged."""
    payload = read_record(path, "ledger").payload
    try:
        return Stated.model_validate(payload).model_dump()
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a ledger ({first_problem(error)}); take it from the run again") from error


def differences(payload: dict[str, Any], computed: Sequence[str]) -> Iterator[str]:
    """One sentence for each way in which a ledger differs from the digests of its batches; nothing if it is equal."""
    stated: list[str] = payload["batches"]
    if len(stated) != len(computed):
        yield f"the ledger holds {len(stated):,} batches, the uid file gives {len(computed):,}"
        return
    wrong = [k for k, (a, b) in enumerate(zip(stated, computed, strict=True)) if a != b[:SHORT]]
    if wrong:
        yield f"batch {_numbers(wrong)} differs from what the uid file gives ({len(wrong):,} of {len(computed):,})"
    elif payload["digest"] != chain(computed):
        yield "the digest over all batches differs from what the uid file gives"


def _numbers(values: Iterable[int], shown: int = 5) -> str:
    listed = list(values)
    return ", ".join(map(str, listed[:shown])) + (", …" if len(listed) > shown else "")
