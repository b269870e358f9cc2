"""Entries that try to deceive or to break the verifier: each takes an honest entry's folder and spoils it.

Where a forger would mend the digests afterwards, so does the case (`Forger.mend`), so that the check which is meant
to find it has to.
"""

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import uid
from harness.config import Scale
from harness.eval import predictions
from harness.files import sha256_file
from harness.order import chain
from harness.records import Record
from harness.uid import UID_DTYPE
from leaderboard.entries import kind_of

FIRST_TASK = "seed-0/eval/cifar10.json"
FLICKR = "retrieval-flickr_1k_test_image_text_retrieval"
WEIGHTS = "seed-0/train/checkpoint.safetensors"


class Forger:
    """Edits an entry's folder and mends digests as one who knows the format would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str = "entry.json") -> dict[str, Any]:
        """The JSON in a file of the entry."""
        return json.loads((self.folder / path).read_text())

    def write(self, value: Any, path: str = "entry.json") -> None:
        """Write JSON, or text as it is."""
        (self.folder / path).write_text(value if isinstance(value, str) else json.dumps(value))

    def edit(self, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the JSON of a file in place."""
        value = self.read(path)
        change(value)
        self.write(value, path)

    def payload(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the payload of entry.json."""
        self.edit("entry.json", lambda record: change(record["payload"]))

    def mend(self) -> None:
        """State the digests of the files as they are now, results of tasks in evaluation.json included."""
        for evaluation in self.folder.glob("seed-*/eval/evaluation.json"):
            self._mend_evaluation(evaluation)
        entry = self.read()
        for path in entry["inputs"]:
            place = self.folder / path
            if place.is_file() and not place.is_symlink():
                entry["inputs"][path] = self.digest(path)
        self.write(entry)

    def digest(self, path: str) -> str:
        """The digest that entry.json states for a file as it is now."""
        if kind_of(path) is None:
            return sha256_file(self.folder / path)
        return Record.model_validate(self.read(path)).digest

    def _mend_evaluation(self, place: Path) -> None:
        evaluation = json.loads(place.read_text())
        for record in place.parent.glob("*.json"):
            value = json.loads(record.read_text())
            if value.get("kind") == "task" and value["payload"]["key"] in evaluation["payload"]["results"]:
                evaluation["payload"]["results"][value["payload"]["key"]] = Record.model_validate(value).digest
        place.write_text(json.dumps(evaluation))


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile-code-ran",)


def npy(header: str, content: bytes = b"") -> bytes:
    """An npy file of version 1 with any header."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def pickled_npy(forger: Forger) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    (forger.folder / "uids.npy").write_bytes(buffer.getvalue())
    forger.mend()


def pickle_for_npy(forger: Forger) -> None:
    (forger.folder / "bootstrap.npy").write_bytes(pickle.dumps(Bomb()))
    forger.mend()


def giant_header(forger: Forger) -> None:
    descr = "[('f0', '<u8'), ('f1', '<u8')]"
    (forger.folder / "uids.npy").write_bytes(
        npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({1 << 46},), }}")
    )
    forger.mend()


def long_header(forger: Forger) -> None:
    (forger.folder / "uids.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"(" * 100_000)
    forger.mend()


def code_in_header(forger: Forger) -> None:
    header = "__import__('os').system('touch hostile-code-ran') or {}"
    (forger.folder / "uids.npy").write_bytes(npy(header))
    forger.mend()


def deep_json(forger: Forger) -> None:
    forger.write('{"a":' * 100_000 + "1" + "}" * 100_000)


def deep_record(forger: Forger) -> None:
    forger.write("[" * 50_000 + "]" * 50_000, FIRST_TASK)


def nan_score(forger: Forger) -> None:
    text = (forger.folder / FIRST_TASK).read_text()
    score = forger.read(FIRST_TASK)["payload"]["score"]
    forger.write(text.replace(str(score), "NaN"), FIRST_TASK)


def infinite_aggregate(forger: Forger) -> None:
    text = (forger.folder / "entry.json").read_text()
    forger.write(text.replace('"average":', '"average": 1e999, "x":', 1))


def huge_number(forger: Forger) -> None:
    forger.payload(lambda p: p["subset"].update(size=10**30))


def twice_the_same_key(forger: Forger) -> None:
    forger.write((forger.folder / "entry.json").read_text().replace('"kind"', '"kind": "entry", "kind"', 1))


def not_text(forger: Forger) -> None:
    (forger.folder / "entry.json").write_bytes(b"\xff\xfe\x00{")


def unknown_key(forger: Forger) -> None:
    forger.payload(lambda p: p.update(verified="retrained"))


def other_kind(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record.update(kind="verification"))


def newer_format(forger: Forger) -> None:
    forger.payload(lambda p: p.update(format=99))


def path_traversal(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record["inputs"].update({"../../../etc/passwd": "0" * 64}))


def absolute_path(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record["inputs"].update({"/etc/passwd": "0" * 64}))


def traversal_in_suite(forger: Forger) -> None:
    forger.payload(lambda p: p.update(suite="../../../../etc/x"))


def link_out(forger: Forger) -> None:
    (forger.folder / "data-card.md").symlink_to("/etc/passwd")


def linked_folder(forger: Forger) -> None:
    (forger.folder / "seed-9").symlink_to("/etc", target_is_directory=True)


def stowaway(forger: Forger) -> None:
    (forger.folder / "conftest.py").write_text("raise SystemExit('ran')")


def script_in_link(forger: Forger) -> None:
    forger.payload(lambda p: p["about"].update(link="javascript:alert(1)"))


def data_link(forger: Forger) -> None:
    forger.payload(lambda p: p["elsewhere"][WEIGHTS].update(url="file:///etc/passwd"))


def turned_name(forger: Forger) -> None:
    forger.payload(lambda p: p["about"].update(name="no\u202efilter"))


def long_name(forger: Forger) -> None:
    forger.payload(lambda p: p["about"].update(name="x" * 100_000))


def wrong_digest(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record["inputs"].update({"subset.json": "0" * 64}))


def missing_file(forger: Forger) -> None:
    (forger.folder / "seed-0/eval/mnist.json").unlink()


def record_elsewhere(forger: Forger) -> None:
    (forger.folder / FIRST_TASK).unlink()
    forger.payload(lambda p: p["elsewhere"].update({FIRST_TASK: {"bytes": 10, "url": None}}))


def cherry_picked_tasks(forger: Forger) -> None:
    def drop(payload: dict[str, Any]) -> None:
        payload["tasks"] = [task for task in payload["tasks"] if task["key"] != "mnist"]

    forger.payload(drop)


def dropped_result(forger: Forger) -> None:
    """Leave a bad task out everywhere and say that the rest is all."""
    for place in forger.folder.glob("seed-*/eval/mnist.json"):
        place.unlink()
    cherry_picked_tasks(forger)
    forger.edit("entry.json", lambda r: r.update(inputs={k: v for k, v in r["inputs"].items() if "mnist" not in k}))
    for place in forger.folder.glob("seed-*/eval/predictions/mnist.parquet"):
        place.unlink()
    forger.mend()


def hidden_seed(forger: Forger) -> None:
    """Keep the best seed in the mean and say nothing of another whose files are there."""
    forger.payload(lambda p: p["runs"].pop())


def twice_the_same_task(forger: Forger) -> None:
    forger.payload(lambda p: p["tasks"].append(p["tasks"][0]))


def edited_aggregate(forger: Forger) -> None:
    forger.payload(lambda p: p["aggregates"]["average"].update(mean=p["aggregates"]["average"]["mean"] + 0.03))


def edited_evaluation(forger: Forger) -> None:
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["payload"]["aggregates"].update(average=0.9))
    forger.mend()


def edited_score(forger: Forger) -> None:
    """A better score, carried through every record."""

    def better(record: dict[str, Any]) -> None:
        record["payload"]["score"] = record["payload"]["metrics"]["acc1"] = 0.95

    forger.edit(FIRST_TASK, better)
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["payload"]["scores"].update(cifar10=0.95))
    forger.mend()


def score_above_one(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(score=38.0))
    forger.mend()


def fewer_samples(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(samples=10))
    forger.mend()


def other_task_version(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["inputs"].update(task="1" * 64))
    forger.mend()


def wrong_types(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(metrics=[1, 2], counts="many", score="high"))
    forger.mend()


def list_for_payload(forger: Forger) -> None:
    forger.edit("seed-0/train/train.json", lambda r: r.update(payload=[1]))


def unsorted_uids(forger: Forger) -> None:
    found = np.load(forger.folder / "uids.npy")
    uid.save(forger.folder / "uids.npy", found[::-1].copy())
    forger.mend()


def foreign_uids(forger: Forger) -> None:
    found = np.load(forger.folder / "uids.npy").copy()
    found[-1] = np.array((1 << 64) - 1, dtype="u8").repeat(2).view(UID_DTYPE)[0]
    _put_uids(forger, found)


def dropped_uids(forger: Forger) -> None:
    """Another subset than was trained on, every digest mended: only the ledger knows."""
    _put_uids(forger, np.load(forger.folder / "uids.npy")[1:].copy())


def empty_uids(forger: Forger) -> None:
    _put_uids(forger, np.empty(0, dtype=UID_DTYPE))


def other_dtype(forger: Forger) -> None:
    np.save(forger.folder / "uids.npy", np.zeros(10, dtype="f8"))
    forger.mend()


def _put_uids(forger: Forger, uids: Any) -> None:
    uid.save(forger.folder / "uids.npy", uids)
    unique, counts = np.unique(uids, return_counts=True)
    digest, most = uid.digest(uids), int(counts.max()) if len(uids) else 0
    forger.edit(
        "subset.json", lambda r: r["payload"].update(uids=digest, size=len(uids), distinct=len(unique), max_count=most)
    )
    for seed in range(2):
        for name in ("train", "ledger"):
            forger.edit(f"seed-{seed}/train/{name}.json", lambda r: r["inputs"].update(subset=digest))
    repeats = 65536 / max(len(uids), 1)
    forger.payload(
        lambda p: p["subset"].update(
            uids=digest, size=len(uids), distinct=len(unique), max_count=most, mean_repeats=repeats
        )
    )
    forger.mend()


def edited_ledger(forger: Forger) -> None:
    forger.edit("seed-0/train/ledger.json", lambda r: r["payload"]["batches"].__setitem__(3, "0" * 8))
    forger.mend()


def other_ledger_digest(forger: Forger) -> None:
    digest = chain(["0" * 64])
    forger.edit("seed-0/train/ledger.json", lambda r: r["payload"].update(digest=digest))
    forger.edit("seed-0/train/train.json", lambda r: r["payload"].update(ledger=digest))
    forger.payload(lambda p: p["runs"][0].update(ledger=digest))
    forger.mend()


def more_samples(forger: Forger) -> None:
    forger.edit("seed-0/train/train.json", lambda r: r["payload"].update(samples_seen=10**9))
    forger.mend()


def secret_recipe(forger: Forger) -> None:
    """A higher learning rate, and the list of what is unofficial left empty."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(lr=1.0))
    forger.mend()


def same_run_twice(forger: Forger) -> None:
    weights = forger.read()["inputs"][WEIGHTS]
    forger.edit("seed-1/train/train.json", lambda r: r["payload"].update(checkpoint=weights))
    forger.payload(lambda p: p["runs"][1].update(checkpoint=weights))
    forger.mend()


def broken_chain(forger: Forger) -> None:
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["inputs"].update(checkpoint="2" * 64))
    forger.mend()


def other_protocol(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record.update(protocol="v0"))


def certain_replicates(forger: Forger) -> None:
    """Replicates far from what was measured, to look better than one is."""
    np.save(forger.folder / "bootstrap.npy", np.full((2, 5, 1000), 0.9, dtype=np.float32))
    forger.mend()


def fewer_replicates(forger: Forger) -> None:
    """Fewer than everybody else has: a table would have to be cut to them."""
    np.save(forger.folder / "bootstrap.npy", np.load(forger.folder / "bootstrap.npy")[:, :, :100])
    forger.mend()


def replicates_of_nan(forger: Forger) -> None:
    np.save(forger.folder / "bootstrap.npy", np.full((2, 5, 1000), np.nan, dtype=np.float32))
    forger.mend()


def half_a_pair(forger: Forger) -> None:
    """Half of a surrogate pair, where no digest reaches: no page could be written with it."""
    forger.edit("entry.json", lambda record: record["provenance"].update(machine="\ud800"))


def list_for_parameters(forger: Forger) -> None:
    def change(record: dict[str, Any]) -> None:
        record["payload"]["method"] = {"name": "m", "params": [1]}

    forger.edit("entry.json", change)
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", change)
    forger.mend()


def size_as_text(forger: Forger) -> None:
    forger.payload(lambda p: p["subset"].update(size=str(p["subset"]["size"])))


def truth_for_number(forger: Forger) -> None:
    forger.payload(lambda p: p["subset"].update(max_count=True))


def invisible_name(forger: Forger) -> None:
    forger.payload(lambda p: p["about"].update(name="\u3164 \u3164"))


def name_of_two_lines(forger: Forger) -> None:
    forger.payload(lambda p: p["about"].update(name="filter\n 1  retrained"))


def terminal_codes(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(samples="\x1b[2J\u202e"))
    forger.mend()


def linked_entry(forger: Forger) -> None:
    (forger.folder / "entry.json").rename(forger.folder.parent / "entry-elsewhere.json")
    (forger.folder / "entry.json").symlink_to("../entry-elsewhere.json")


def entry_without_end(forger: Forger) -> None:
    (forger.folder / "entry.json").unlink()
    os.mkfifo(forger.folder / "entry.json")


def too_many_records(forger: Forger) -> None:
    (forger.folder / "more.json").touch()
    os.truncate(forger.folder / "more.json", 65 << 20)


def too_many_bytes(forger: Forger) -> None:
    for i in range(5):
        (forger.folder / f"{i}.npy").touch()
        os.truncate(forger.folder / f"{i}.npy", 1 << 30)


def endless_checkpoints(forger: Forger) -> None:
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(checkpoints=10**12))
    forger.mend()


def _put_recipe(forger: Forger, *, batches: int, **values: int) -> None:
    """Another recipe, in every record that states it, and a ledger of as many batches as it gives."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(values))
        forger.edit(f"seed-{seed}/train/train.json", lambda r: r["payload"].update(values))
        forger.edit(
            f"seed-{seed}/train/ledger.json", lambda r: r["payload"].update(values, batches=["00000000"] * batches)
        )
    forger.mend()


def endless_samples(forger: Forger) -> None:
    """One batch that passes over the subset for ever."""
    _put_recipe(forger, batches=1, samples_seen=10**15, batch_size=10**15)


def endless_batches(forger: Forger) -> None:
    """Batches that each fit, and are more than anybody computes."""
    _put_recipe(forger, batches=20_000, samples_seen=20_000 << 20, batch_size=1 << 20)


def endless_holdout(forger: Forger) -> None:
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"].update(holdout=10**12))
    forger.mend()


def endless_epochs(forger: Forger) -> None:
    """The locked recipe on a subset of one pair: every sample is an epoch, and every epoch looks at the pool."""
    _put_uids(forger, np.load(forger.folder / "uids.npy")[:1].copy())


def _put_model(forger: Forger, name: str) -> None:
    """An entry of another model, unofficial and consistent in every record."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(model=name))
        digest = Scale(**forger.read(f"seed-{seed}/config.json")["payload"]["scale"]).digest
        forger.edit(f"seed-{seed}/train/train.json", lambda r, digest=digest: r["payload"].update(scale=digest))
        for record in (forger.folder / f"seed-{seed}/eval").glob("*.json"):
            forger.edit(record.relative_to(forger.folder).as_posix(), lambda r: r["payload"].update(model=name))
    forger.payload(lambda p: p.update(unofficial=["scale.model"]))
    forger.mend()


def model_of_the_hub(forger: Forger) -> None:
    """A name that open_clip would download a stranger's repository for."""
    _put_model(forger, "hf-hub:stranger/model")


def model_of_a_folder(forger: Forger) -> None:
    _put_model(forger, f"local-dir:{forger.folder}")


def model_of_no_kind(forger: Forger) -> None:
    _put_model(forger, "ViT-B-33")


def results_exchanged(forger: Forger) -> None:
    """The record of one task under the name of another, on every seed."""
    for seed in range(2):
        a, b = f"seed-{seed}/eval/cifar10.json", f"seed-{seed}/eval/mnist.json"
        first, second = forger.read(a), forger.read(b)
        forger.write(second, a)
        forger.write(first, b)
    forger.mend()


CASES: dict[Callable[[Forger], None], str] = {
    pickled_npy: "dtype",
    pickle_for_npy: "not an npy file",
    giant_header: "the npy header describes",
    long_header: "npy header of",
    code_in_header: "not a literal",
    deep_json: "nested more than",
    deep_record: "nested more than",
    nan_score: "NaN",
    infinite_aggregate: "entry.json",
    huge_number: "subset.size",
    twice_the_same_key: "stands twice",
    not_text: "not valid JSON",
    unknown_key: "verified",
    other_kind: "kind 'verification'",
    newer_format: "format 99",
    path_traversal: "not a file that an entry has",
    absolute_path: "not a file that an entry has",
    traversal_in_suite: "suite",
    link_out: "is a link",
    linked_folder: "is a link",
    stowaway: "not named in entry.json",
    script_in_link: "about.link",
    data_link: "url",
    turned_name: "control characters",
    long_name: "about.name",
    wrong_digest: "subset.json: digest",
    missing_file: "not in the folder",
    record_elsewhere: "must stand in the folder",
    cherry_picked_tasks: "task mnist is neither",
    dropped_result: "task mnist is neither",
    hidden_seed: "no seed may be left out",
    twice_the_same_task: "stands 2 times",
    edited_aggregate: "average",
    edited_evaluation: "average 0.9000 stated",
    edited_score: "task cifar10: scores by seed",
    score_above_one: "not a fraction",
    fewer_samples: "samples is 10",
    other_task_version: "another version of the task",
    wrong_types: "not an object",
    list_for_payload: "payload",
    unsorted_uids: "not sorted",
    foreign_uids: "not in the sealed pool",
    dropped_uids: "differs from what the uid file gives",
    empty_uids: "holds no uid",
    other_dtype: "dtype",
    edited_ledger: "batch 3 differs",
    other_ledger_digest: "digest over all batches",
    more_samples: "samples_seen",
    secret_recipe: "scale.lr",
    same_run_twice: "same checkpoint",
    broken_chain: "the chain of digests is broken",
    other_protocol: "protocol 'v0'",
    certain_replicates: "do not lie around",
    fewer_replicates: "shape (2, 5, 100), expected (2, 5, 1000)",
    replicates_of_nan: "not fractions",
    half_a_pair: "surrogates not allowed",
    list_for_parameters: "method",
    size_as_text: "subset.size",
    truth_for_number: "subset.max_count",
    invisible_name: "about.name",
    name_of_two_lines: "about.name",
    terminal_codes: "samples is \\x1b[2J\\u202e",
    linked_entry: "not a plain file",
    entry_without_end: "not a plain file",
    too_many_records: "records of",
    too_many_bytes: "files of",
    endless_checkpoints: "checkpoints",
    endless_samples: "samples_seen is 1e+15, more than 655,360",
    endless_batches: "samples_seen is 2.097e+10",
    endless_holdout: "holdout is 1e+12, more than 1,048,576",
    endless_epochs: "the number of epochs is 6.554e+04, more than 1,000",
    model_of_the_hub: "model 'hf-hub:stranger/model' is neither one of open_clip's own",
    model_of_a_folder: "is neither one of open_clip's own",
    model_of_no_kind: "model 'ViT-B-33' is neither one of open_clip's own",
    results_exchanged: "key is mnist",
}
"""Each case and a part of the reason that must be given."""


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


def _put_column(forger: Forger, name: str, values: Any, *, task: str = "cifar10") -> None:
    """Another column in the predictions of a task, with the digest that they have now."""
    place = forger.folder / f"seed-0/eval/predictions/{task}.parquet"
    table = pq.read_table(place)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), place, compression="zstd")
    digest = predictions.digest(*predictions.read(place))
    forger.edit(f"seed-0/eval/{task}.json", lambda r: r["payload"].update(predictions=digest))
    forger.mend()


def _put_first(forger: Forger, name: str, values: Any, *, task: str) -> None:
    """Another first row of a column in the predictions of a task."""
    found = predictions.read(forger.folder / f"seed-0/eval/predictions/{task}.parquet")[1][name].copy()
    found[0] = values
    flat = pa.array(found.reshape(-1))
    column = flat if found.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, found.shape[1])
    _put_column(forger, name, column, task=task)


def one_long_key(forger: Forger) -> None:
    """A key that stands in the file once and in memory as often as there are rows."""
    _put_column(forger, "key", pa.array(["x" * 100_000] * 400))


def class_without_end(forger: Forger) -> None:
    """A class so large that counting by class would take all memory."""
    _put_column(forger, "target", pa.array([1 << 40] * 400))


def class_of_another_task(forger: Forger) -> None:
    """No large number, but replicates by class would take gigabytes."""
    _put_first(forger, "target", 1 << 20, task="vtab-pets")


def groups_that_multiply(forger: Forger) -> None:
    """Groups are counted by race and gender, so that memory goes by the product of the two."""
    _put_first(forger, "metadata", [30, 1 << 24, 1 << 24, 1], task="fairness-utkface")


def image_of_no_row(forger: Forger) -> None:
    """The image of a caption, by which samples are drawn."""
    queries = predictions.read(forger.folder / "seed-0/eval/predictions" / f"{FLICKR}.parquet")[1]["first"].copy()
    queries[-1] = 1 << 24
    _put_column(forger, "first", pa.array(queries), task=FLICKR)


def candidate_of_no_instance(forger: Forger) -> None:
    _put_first(forger, "chosen", [0, 99, *[-1] * 10], task="misc-winogavil")


def column_too_many(forger: Forger) -> None:
    place = forger.folder / "seed-0/eval/predictions/cifar10.parquet"
    table = pq.read_table(place)
    pq.write_table(table.append_column("secret", pa.array([0] * len(table))), place)
    _put_first(forger, "target", 0, task="cifar10")


def class_below_zero(forger: Forger) -> None:
    _put_column(forger, "target", pa.array([-5] * 400))


def class_of_no_kind(forger: Forger) -> None:
    _put_column(forger, "target", pa.array([0.5] * 400))


def wide_answers(forger: Forger) -> None:
    flat = pa.array(np.zeros(400 * 1000, dtype=np.int64))
    _put_column(forger, "top", pa.FixedSizeListArray.from_arrays(flat, 1000))


RESCORED: dict[Callable[[Forger], None], str] = {
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
"""Cases that pass `claimed` and are found by recomputing."""
