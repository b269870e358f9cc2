import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from metadata_pool import table_of, uid_hex, write_file, write_metadata

from harness import Pool, Subset, executor, uid
from harness.config import MethodConfig, load_scale
from harness.errors import ArtifactError, ConfigError, InfraError, MethodError
from harness.pool.sealed import SealedPool
from harness.records import read_record
from harness.select import command
from harness.selection import plugins, run
from harness.selection.plugins import Method

SIZES = (30, 20)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.open(write_metadata(tmp_path / "pool", SIZES, features=False))


def method_of(function: Any) -> Method:
    return Method(
        name="mine:select",
        module="mine",
        function=function,
        parameters=plugins._parameters("mine", function),
        source_digest="0" * 64,
    )


def select(function: Any, pool: Pool, out: Path, *, seed: int = 0, **params: Any) -> Subset:
    config = MethodConfig(name="custom", target="mine:select", seed=seed, params=params)
    return run.select(
        method_of(function), config, pool=pool, scale=load_scale("tiny"), out=out, executor=executor.local(1)
    )


def test_the_record_says_what_was_chosen_from_what(pool: Pool, tmp_path: Path) -> None:
    def some(pool: Pool, /, *, ctx: Any, n: int = 7) -> Any:
        ctx.remark("with a remark")
        assert ctx.scratch.is_dir() and ctx.samples_seen == ctx.scale.samples_seen == 65536
        return pool.sample(n, rng=ctx.rng)

    subset = select(some, pool, tmp_path / "out")
    record = read_record(tmp_path / "out" / "subset.json", "subset")
    assert record.inputs == {"pool": pool.digest}
    assert record.payload == {
        "uids": subset.digest, "size": 7, "distinct": 7, "max_count": 1,
        "remarks": [run.METADATA_ONLY, "with a remark"],
        "method": {"name": "custom", "target": "mine:select", "seed": 0, "params": {"n": 7}},
    }  # fmt: skip
    assert uid.digest(np.load(tmp_path / "out" / "uids.npy")) == subset.digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subset.json", "uids.npy"]
    assert select(some, pool, tmp_path / "other", seed=1).digest != subset.digest
    assert select(some, pool, tmp_path / "again").digest == subset.digest


def test_a_choice_can_be_made_before_the_pictures_are_there(
    run_in: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = write_metadata(run_in / "pool", SIZES, features=False)
    command([f"pool.path={folder}", "method=clip_score", "method.fraction=0.5", "out=mine.npy"])
    said = capsys.readouterr()
    pool = Pool.open(folder)
    border = pool.threshold("clip_l14_similarity_score", keep=0.5)
    wanted = pool.filter(within={"clip_l14_similarity_score": (border, None)})
    assert "holds no pictures; chosen from its metadata alone" in said.err
    assert said.out == f"mine.npy: {len(wanted)} uids, {len(wanted)} distinct\n" and 0 < len(wanted) < len(pool)
    assert uid.digest(np.load("mine.npy")) == uid.digest(wanted)
    assert read_record("mine.json", "subset").payload["remarks"] == [run.METADATA_ONLY]
    assert not (folder / "pool.json").exists()
    with pytest.raises(ConfigError, match="holds no pictures that could be held out"):
        command([f"pool.path={folder}", "method=clip_score", "pool.holdout=5", "out=mine.npy"])
    (folder / "shards").mkdir()
    (folder / "shards" / "half.txt").touch()
    with pytest.raises(ArtifactError, match=r"holds no \.tar"):
        command([f"pool.path={folder}", "method=clip_score", "out=mine.npy"])


def test_work_that_is_done_is_not_done_again(pool: Pool, tmp_path: Path) -> None:
    calls = []

    def some(pool: Pool, /, *, ctx: Any, n: int = 7) -> Any:
        calls.append(n)
        return pool.sample(n, rng=ctx.rng)

    first = select(some, pool, tmp_path / "out")
    assert select(some, pool, tmp_path / "out").digest == first.digest and calls == [7]
    select(some, pool, tmp_path / "out", n=8)
    assert calls == [7, 8]
    uid.save(tmp_path / "out" / "uids.npy", first.uids)
    select(some, pool, tmp_path / "out", n=8)
    assert calls == [7, 8, 8]


def test_work_is_done_again_where_the_pool_is_another(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "pool", SIZES, features=False)

    def high(pool: Pool, /, *, ctx: Any) -> Any:
        return pool.filter(within={"clip_l14_similarity_score": (0.25, None)})

    first = select(high, Pool.open(folder), tmp_path / "out")
    path = sorted((folder / "metadata").iterdir())[0]
    write_file(path, table_of(0, SIZES[0]) | {"clip_l14_similarity_score": np.full(SIZES[0], 0.5, np.float32)})
    second = select(high, Pool.open(folder), tmp_path / "out")
    assert second.digest != first.digest and len(second) >= SIZES[0]
    sealed = SealedPool(path=str(folder), seal_dir=str(folder), digest="0" * 64, uids=np.array(second.uids),
                        borders=np.array([0, len(second)]), shards=("0.tar",))  # fmt: skip
    assert len(select(high, Pool.open(folder, sealed=sealed), tmp_path / "out")) == len(second)
    assert len(select(high, Pool.open(folder, sealed=sealed, holdout=5), tmp_path / "out")) == len(second) - 5


def test_work_is_done_again_where_files_given_or_offered_have_changed(pool: Pool, tmp_path: Path) -> None:
    calls = []

    def some(pool: Pool, /, *, ctx: Any, of: Any, trusted: str) -> Any:
        calls.append(1)
        return pool.uids()

    def again() -> int:
        select(some, Pool.open(pool.path), tmp_path / "out", of=["clip", {"file": str(file)}], trusted=str(right))
        return len(calls)

    file, right = tmp_path / "file.txt", write_metadata(tmp_path / "right", (5,))
    file.write_text("a")
    assert [again(), again()] == [1, 1]
    file.write_text("ab")
    assert [again(), again()] == [2, 2]
    write_metadata(right, (6,))
    assert [again(), again()] == [3, 3]
    targets = Path(pool.path) / "targets"
    targets.mkdir()
    (targets / "texts.txt").write_text("a dog")
    assert [again(), again()] == [4, 4]
    write_metadata(targets / "trusted", (5,))
    assert [again(), again()] == [5, 5]


def test_work_is_done_again_where_a_remote_file_given_has_changed(pool: Pool, tmp_path: Path) -> None:
    calls = []

    def some(pool: Pool, /, *, ctx: Any, words: str, other: str = "nowhere://a") -> Any:
        calls.append(1)
        return pool.uids()

    store = fsspec.filesystem("memory")
    for content in (b"cat", b"cat and dog"):
        store.pipe("/words.txt", content)
        for _ in range(2):
            select(some, pool, tmp_path / "out", words="memory://words.txt")
    assert len(calls) == 2


def test_counts_and_any_order_are_accepted(pool: Pool, tmp_path: Path) -> None:
    def twice(pool: Pool, /, *, ctx: Any) -> Any:
        uids = pool.uids()[:3][::-1]
        return uids, np.array([0, 1, 4])

    subset = select(twice, pool, tmp_path / "out")
    assert subset.uids.tolist() == [pool.uids()[0].item()] * 4 + [pool.uids()[1].item()]
    record = read_record(tmp_path / "out" / "subset.json", "subset")
    assert (record.payload["size"], record.payload["distinct"], record.payload["max_count"]) == (5, 2, 4)


STRANGER = uid_hex("stranger")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda pool: None, "returned None"),
        (lambda pool: [1, 2], "returned a list"),
        (lambda pool: uid.to_hex(pool.uids()), "returned a list"),
        (lambda pool: np.arange(3), "dtype int64 and shape"),
        (lambda pool: pool.uids().reshape(5, 10), r"shape \(5, 10\)"),
        (lambda pool: pool.uids()[:0], "chose nothing"),
        (lambda pool: (pool.uids(), np.zeros(50, int)), "chose nothing"),
        (lambda pool: (pool.uids(), np.ones(3, int)), "one whole number for each of the 50"),
        (lambda pool: (pool.uids(), np.ones(50)), "dtype float64"),
        (lambda pool: (pool.uids(), -np.ones(50, int)), r"negative count \(-1\) in row 0"),
        (lambda pool: (pool.uids(), np.zeros(50, np.uint64) - np.uint64(1)), r"add up to 9\.22e\+20, the largest"),
        (lambda pool: (pool.uids(), np.full(50, 1 << 60)), r"add up to 5\.76e\+19"),
        (lambda pool: np.concatenate([pool.uids(), uid.from_hex([STRANGER, STRANGER])]),
         f"returned 2 uids that are not in the pool.*{STRANGER}"),
    ],
)  # fmt: skip
def test_nonsense_is_told_in_one_sentence(pool: Pool, tmp_path: Path, answer: Any, said: str) -> None:
    def nonsense(pool: Pool, /, *, ctx: Any) -> Any:
        return answer(pool)

    with pytest.raises(MethodError, match=said) as caught:
        select(nonsense, pool, tmp_path / "out")
    assert str(caught.value).startswith("method mine:select ")
    assert not (tmp_path / "out" / "subset.json").exists()


def test_an_exception_of_the_method_keeps_its_traceback(pool: Pool, tmp_path: Path) -> None:
    def deep_in_the_method() -> None:
        raise KeyError("x")

    def broken(pool: Pool, /, *, ctx: Any) -> Any:
        deep_in_the_method()

    with pytest.raises(MethodError, match="method mine:select: raised KeyError: 'x'") as caught:
        select(broken, pool, tmp_path / "out")
    assert "in deep_in_the_method" in "".join(caught.value.__notes__)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("name", ["out", "mine.npy"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_failed_leaves_its_scratch_folder_only_with_something_in_it(
    pool: Pool, tmp_path: Path, name: str, begun: bool
) -> None:
    def broken(pool: Pool, /, *, ctx: Any) -> Any:
        (ctx.scratch / "half").touch() if begun else None
        raise KeyError("x")

    with pytest.raises(MethodError, match="raised KeyError"):
        select(broken, pool, tmp_path / name)
    assert len(list(tmp_path.rglob("*scratch"))) == begun == len(list(tmp_path.rglob("half")))


@pytest.mark.parametrize("on_a_file", [False, True])
def test_a_method_that_exits_does_not_end_the_command(pool: Pool, tmp_path: Path, on_a_file: bool) -> None:
    def leaving(pool: Pool, /, *, ctx: Any) -> Any:
        return pool.map(lambda table: sys.exit(0)) if on_a_file else sys.exit(0)

    with pytest.raises(MethodError, match=r"method mine:select.* raised SystemExit: 0"):
        select(leaving, pool, tmp_path / "out")


def full_disk(pool: Pool, /, *, ctx: Any) -> Any:
    with open("/dev/full", "wb") as file:
        np.zeros(1 << 20).tofile(file)


def no_memory(pool: Pool, /, *, ctx: Any) -> Any:
    np.zeros(1 << 50)


def unwritable(pool: Pool, /, *, ctx: Any) -> Any:
    Path("/sys/mine").mkdir()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (full_disk, "{where}: the disk is full"),
        (no_memory, "{where}: the memory is used up; use fewer workers"),
        (unwritable, "/sys/mine: (permission denied|the file system is read-only)"),
    ],
)
@pytest.mark.parametrize("on_a_file", [False, True])
def test_a_full_disk_or_memory_is_not_held_against_the_method(
    pool: Pool, tmp_path: Path, on_a_file: bool, work: Any, said: str
) -> None:
    def plain(pool: Pool, /, *, ctx: Any) -> Any:
        return pool.map(lambda table: work(None, ctx=None)) if on_a_file else work(pool, ctx=ctx)

    said = said.format(where=r"the function on .*0\.parquet" if on_a_file else f"{tmp_path}/out/scratch/.*")
    with pytest.raises(InfraError, match=f"^{said}") as caught:
        select(plain, pool, tmp_path / "out")
    assert f"in {work.__name__}" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("name", ["out", "mine.npy"])
def test_two_selections_for_one_place_do_not_work_at_once(pool: Pool, tmp_path: Path, name: str) -> None:
    def again(inner: Pool, /, *, ctx: Any, first: bool = False) -> Any:
        (ctx.scratch / "kept").touch()
        if first:
            with pytest.raises(InfraError, match="another command works in this folder"):
                select(again, pool, tmp_path / name)
        assert (ctx.scratch / "kept").exists()
        return inner.uids()

    assert len(select(again, pool, tmp_path / name, first=True)) == len(pool)
    assert not list(tmp_path.rglob("*scratch*"))


def test_the_uid_file_of_a_run_is_no_place_for_another_choice(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match=r"uids\.npy is the uid file of the run in .*; choose another file"):
        select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "uids.npy")
    assert len(select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "mine.npy")) == len(pool)


def test_a_file_where_the_record_goes_is_left_alone(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_text('{"hours": "of work"}')
    with pytest.raises(ConfigError, match=r"setting out: .*runs\.json, where the record of runs\.npy goes, is there"):
        select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "runs.npy")
    assert [path.name for path in tmp_path.glob("runs*")] == ["runs.json"]
    assert (tmp_path / "runs.json").read_text() == '{"hours": "of work"}'
    for seed in (0, 1):  # its own record it may write again
        select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "mine.npy", seed=seed)


def test_a_file_of_something_else_is_no_place_for_a_choice(pool: Pool, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
    before = (tmp_path / "rows.npy").read_bytes()
    with pytest.raises(ConfigError, match=r"setting out: .*rows\.npy is there and no uid file; choose another name"):
        select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "rows.npy")
    assert (tmp_path / "rows.npy").read_bytes() == before
    uid.save(tmp_path / "mine.npy", pool.uids()[:3])
    select(lambda pool, /, *, ctx: pool.uids(), pool, tmp_path / "mine.npy")
    record = (tmp_path / "mine.json").read_bytes()
    with pytest.raises(ConfigError, match=r"setting subset: .*mine\.npy is where the result goes, too"):
        run.adopt(str(tmp_path / "mine.npy"), pool=pool, out=tmp_path / "mine.npy")
    assert (tmp_path / "mine.json").read_bytes() == record


def test_an_exception_on_a_file_names_method_and_file(pool: Pool, tmp_path: Path) -> None:
    def broken(pool: Pool, /, *, ctx: Any) -> Any:
        return pool.filter(lambda table: table["no"], columns=["text"])

    with pytest.raises(MethodError, match=r"method mine:select: .*0\.parquet: the function raised KeyError"):
        select(broken, pool, tmp_path / "out")


def test_parameters_are_bound_before_any_work(pool: Pool, tmp_path: Path) -> None:
    def never(pool: Pool, /, *, ctx: Any, keep: float = 1.0) -> Any:
        raise AssertionError

    with pytest.raises(ConfigError, match="did you mean 'keep'"):
        select(never, pool, tmp_path / "out", kep=1)
    assert not (tmp_path / "out").exists()


def test_a_ready_file_is_adopted(pool: Pool, tmp_path: Path) -> None:
    uid.save(tmp_path / "mine.npy", pool.uids()[3:9])
    subset = run.adopt(str(tmp_path / "mine.npy"), pool=pool, out=tmp_path / "out")
    assert len(subset) == 6
    record = read_record(tmp_path / "out" / "subset.json", "subset")
    assert (record.payload["method"], record.provenance["seconds"]) == (None, None)
    uid.save(tmp_path / "bad.npy", uid.sort(uid.from_hex([STRANGER, *uid.to_hex(pool.uids())])))
    with pytest.raises(ArtifactError, match=f"1 of 51 uids are not in the pool .* the first is {STRANGER}"):
        run.adopt(str(tmp_path / "bad.npy"), pool=pool, out=tmp_path / "out2")


def test_a_file_of_another_pool_is_intersected_when_asked(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uid, "SORT_BLOCK", 4)  # the repeats of one uid stand in two pieces
    there = pool.uids()[3:6]
    uids = np.concatenate([there, uid.from_hex([STRANGER, "f" * 32])])
    given = Subset.of(uids, np.array([1, 5, 2, 3, 1]))
    given.save(tmp_path / "mine.npy")
    with pytest.raises(ArtifactError, match=r"4 of 12 uids are not in the pool .*; with intersect=true they are"):
        run.adopt(str(tmp_path / "mine.npy"), pool=pool, out=tmp_path / "out")
    kept = run.adopt(str(tmp_path / "mine.npy"), pool=pool, out=tmp_path / "out", intersect=True)
    assert kept.uids.tolist() == Subset.of(there, np.array([1, 5, 2])).uids.tolist()
    assert "requested 12 uids (5 distinct), kept 8 (3), lost 4 (2)" in capsys.readouterr().err
    payload = read_record(tmp_path / "out" / "subset.json", "subset").payload
    assert (payload["size"], payload["distinct"]) == (8, 3)
    assert payload["intersected"] == {
        "subset": given.digest, "requested": {"size": 12, "distinct": 5}, "lost": {"size": 4, "distinct": 2},
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="4 of 12 uids"):  # asked for once is not asked for always
        run.adopt(str(tmp_path / "mine.npy"), pool=pool, out=tmp_path / "out")
    Subset.of(uids[3:]).save(tmp_path / "none.npy")
    with pytest.raises(ArtifactError, match="2 of 2 uids are not in the pool"):
        run.adopt(str(tmp_path / "none.npy"), pool=pool, out=tmp_path / "out2", intersect=True)


def test_a_pool_of_nothing_is_refused_for_any_method(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "pool", (0, 0), features=False)
    config = MethodConfig(name="no_filter")
    with pytest.raises(ArtifactError, match="pool: there is no pair to choose from"):
        run.select(plugins.resolve(config), config, pool=Pool.open(folder), scale=load_scale("tiny"),
                   out=tmp_path / "out", executor=executor.local(1))  # fmt: skip
    assert not (tmp_path / "out").exists()
