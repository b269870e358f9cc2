"""Entries that pass `claimed` and are found by recomputing from their predictions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile.forger import FIRST_TASK, Forger, put_column, put_first

from harness.eval import predictions

FLICKR = "retrieval-flickr_1k_test_image_text_retrieval"


def swapped_predictions(forger: Forger) -> None:
    """Predictions of one task put in the place of another's."""
    place = forger.folder / "seed-0/eval/predictions"
    (place / "cifar10.parquet").write_bytes((place / "mnist.parquet").read_bytes())
    forger.mend()


def garbage_predictions(forger: Forger) -> None:
    (forger.folder / "seed-0/eval/predictions/cifar10.parquet").write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    forger.mend()


def better_than_predictions(forger: Forger) -> None:
    """A better score, consistent in every record, that the stored predictions do not give."""

    def better(record: dict[str, Any]) -> None:
        record["payload"]["metrics"]["acc5"] = 0.999

    forger.edit(FIRST_TASK, better)
    forger.mend()


def replicates_of_others(forger: Forger) -> None:
    found = np.load(forger.folder / "bootstrap.npy")
    np.save(forger.folder / "bootstrap.npy", np.clip(found + 0.01, 0, 1).astype(np.float32))
    forger.mend()


def one_long_key(forger: Forger) -> None:
    """A key that stands in the file once and in memory as often as there are rows."""
    put_column(forger, "key", pa.array(["x" * 100_000] * 400))


def class_without_end(forger: Forger) -> None:
    """A class so large that counting by class would take all memory."""
    put_column(forger, "target", pa.array([1 << 40] * 400))


def class_of_another_task(forger: Forger) -> None:
    """No large number, but replicates by class would take gigabytes."""
    put_first(forger, "target", 1 << 20, task="vtab-pets")


def groups_that_multiply(forger: Forger) -> None:
    """Groups are counted by race and gender, so that memory goes by the product of the two."""
    put_first(forger, "metadata", [30, 1 << 24, 1 << 24, 1], task="fairness-utkface")


def image_of_no_row(forger: Forger) -> None:
    """The image of a caption, by which samples are drawn."""
    queries = predictions.read(forger.folder / "seed-0/eval/predictions" / f"{FLICKR}.parquet")[1]["first"].copy()
    queries[-1] = 1 << 24
    put_column(forger, "first", pa.array(queries), task=FLICKR)


def candidate_of_no_instance(forger: Forger) -> None:
    put_first(forger, "chosen", [0, 99, *[-1] * 10], task="misc-winogavil")


def column_too_many(forger: Forger) -> None:
    place = forger.folder / "seed-0/eval/predictions/cifar10.parquet"
    table = pq.read_table(place)
    pq.write_table(table.append_column("secret", pa.array([0] * len(table))), place)
    put_first(forger, "target", 0, task="cifar10")


def class_below_zero(forger: Forger) -> None:
    put_column(forger, "target", pa.array([-5] * 400))


def class_of_no_kind(forger: Forger) -> None:
    put_column(forger, "target", pa.array([0.5] * 400))


def wide_answers(forger: Forger) -> None:
    flat = pa.array(np.zeros(400 * 1000, dtype=np.int64))
    put_column(forger, "top", pa.FixedSizeListArray.from_arrays(flat, 1000))


CASES: dict[Callable[[Forger], None], str] = {
    swapped_predictions: "predictions were swapped",
    garbage_predictions: "not a readable table",
    better_than_predictions: "acc5 0.999 stated",
    replicates_of_others: "not what the stored predictions give",
    one_long_key: "a key of 100,000 bytes",
    class_without_end: "other than whole numbers",
    class_of_another_task: "column target holds other than whole numbers from 0 to 29",
    groups_that_multiply: "column metadata holds other than whole numbers from -1 to 1,",
    image_of_no_row: "column first holds other than whole numbers from 0 to 5,000",
    candidate_of_no_instance: "column chosen holds other than whole numbers from -1 to 11",
    column_too_many: "holds the columns target, top, secret",
    class_below_zero: "other than whole numbers",
    class_of_no_kind: "is of type double",
    wide_answers: "is of type fixed_size_list",
}
"""Each case and a part of the reason that must be given."""
