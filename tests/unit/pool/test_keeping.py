"""What a pass over the pool keeps, for a run that is resumed and beyond memory."""

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from metadata_pool import (
    every,
    uid_hex,
)

from harness import Pool, executor, uid
from harness.errors import MethodError
from harness.pool import keeping, view
from harness.uid import to_hex as hexes


def test_an_interrupted_pass_goes_on_with_the_files_that_are_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    read, stopped = tmp_path / "read", tmp_path / "stopped"

    def keep(table: Any) -> npt.NDArray[np.bool_]:
        with open(read, "a") as file:
            file.write(table["uid"][0].as_py() + "\n")
        if table["uid"][0].as_py() == uid_hex((2, 0)) and not stopped.exists():
            stopped.touch()
            raise RuntimeError("stopped")
        return np.ones(table.num_rows, dtype=bool)

    scratch = tmp_path / "scratch"
    pool = Pool.open(folder, executor=executor.local(1))
    with pytest.raises(MethodError, match="stopped"):
        pool.resuming(scratch).filter(keep, columns=["uid"])
    found = pool.resuming(scratch).filter(keep, columns=["uid"])
    assert hexes(found) == sorted(every())
    firsts = [line for line in read.read_text().split() if line in {uid_hex((n, 0)) for n in range(3)}]
    assert firsts == [uid_hex((0, 0)), uid_hex((1, 0)), uid_hex((2, 0)), uid_hex((2, 0))]


def test_a_pass_never_takes_what_another_pass_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(more: int, table: Any) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) + more for text in table["text"].to_pylist()])

    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    pool = Pool.open(folder, executor=executor.local(1))
    first = pool.resuming(tmp_path / "scratch")
    zero, one = (np.concatenate(first.map(partial(words, more), columns=["text"])) for more in (0, 1))
    assert (one == zero + 1).all()
    # The later run leaves out its first pass, as a method may that finds the outcome in its scratch folder.
    again = np.concatenate(pool.resuming(tmp_path / "scratch").map(partial(words, 1), columns=["text"]))
    np.testing.assert_array_equal(again, one)
    assert len(list((tmp_path / "scratch").iterdir())) == 2


IDENTITIES = """
from functools import partial
import numpy as np
from harness.pool.keeping import identity

def made(k):
    table = np.arange(k)
    def inner(text):
        return text in {"one", "two", "three", "four"}
    def outer(text):
        return inner(text) or outer(table[0])
    return partial(outer, columns=("text",))

print(identity(made(3)), identity(made(4)), identity(lambda text: text), identity(partial(print, 3)))
print(identity(partial(print, (x for x in "ab"))))
"""


def test_the_identity_of_a_function_is_the_same_in_another_process() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", IDENTITIES],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert found[0].stdout == found[1].stdout, found[0].stderr
    same, unpicklable = (line.split() for line in found[0].stdout.splitlines())
    assert len(set(same)) == 4 and unpicklable == ["None"]


def test_more_uids_than_memory_wait_in_files(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SPILL_ROWS", 30)
    plain = pool.uids()
    spilt = pool.resuming(tmp_path / "scratch").uids()
    assert hexes(plain) == hexes(spilt) == sorted(every())
    assert isinstance(spilt, np.memmap)


def test_arrays_in_files_stay_when_more_are_made(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SPILL_ROWS", 10)
    view_of_it = pool.resuming(tmp_path / "scratch")
    found = [view_of_it.uids(), *(view_of_it.sample(30, rng=np.random.default_rng(seed)) for seed in (0, 1))]
    assert hexes(found[0]) == sorted(every())
    for seed in (0, 1):
        assert hexes(found[1 + seed]) == hexes(pool.sample(30, rng=np.random.default_rng(seed)))


def test_few_files_are_open_however_many_uids_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SPILL_ROWS", 3)
    uids = uid.from_hex(sorted(every()))
    parts = [uids[start::50] for start in range(50)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, hard))
    try:
        found = keeping.gathered(parts, tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found, uids) and not found.flags.writeable
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["merged.npy"]
    assert np.array_equal(keeping.gathered(parts, None), uids)
