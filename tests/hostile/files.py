"""Entries whose files are not what they should be: code, bombs, paths and links, broken JSON, hidden characters."""

import io
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile.forger import FIRST_TASK, WEIGHTS, Forger


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


def device_by_path(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record["inputs"].update({"/dev/zero": "0" * 64}))


def endless_link(forger: Forger) -> None:
    (forger.folder / "uids.npy").unlink()
    (forger.folder / "uids.npy").symlink_to("/dev/zero")


def record_link(forger: Forger) -> None:
    (forger.folder / "subset.json").unlink()
    (forger.folder / "subset.json").symlink_to("/dev/zero")


def pipe(forger: Forger) -> None:
    (forger.folder / "subset.json").unlink()
    os.mkfifo(forger.folder / "subset.json")


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


def wrong_types(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(metrics=[1, 2], counts="many", score="high"))
    forger.mend()


def list_for_payload(forger: Forger) -> None:
    forger.edit("seed-0/train/train.json", lambda r: r.update(payload=[1]))


def other_dtype(forger: Forger) -> None:
    np.save(forger.folder / "uids.npy", np.zeros(10, dtype="f8"))
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
    device_by_path: "not a file that an entry has",
    endless_link: "is a link",
    record_link: "is a link",
    pipe: "is a link or a device",
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
    wrong_types: "not an object",
    list_for_payload: "payload",
    other_dtype: "dtype",
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
}
"""Each case and a part of the reason that must be given."""
