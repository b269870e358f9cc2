"""The page and the record of a report, of made pools and runs."""

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from metadata_pool import write_file
from pool_folders import sample, uid_of, write_tar
from scipy import stats
from synthetic import run, world

from harness import duplicates, executor, uid
from harness.errors import ArtifactError, ConfigError, HarnessError
from harness.eval import predictions
from harness.eval import suite as suites
from harness.pool.seal import seal
from harness.records import Record, digest_of, read_record
from harness.report import bins
from harness.report.__main__ import command, open_pool
from harness.report.analysis import Request, analyse
from harness.subset import Subset

HOSTILE = "<script>document.title='ran'</script> a cat & {{ 7 * 7 }}"
WIDTH = 4


def columns_of(names: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    rng = np.random.default_rng(len(names))
    return {
        "uid": list(names), "text": list(texts),
        "original_width": pa.array([100 + 10 * row for row in range(len(names))], pa.int64()),
        "original_height": pa.array([100] * len(names), pa.int64()),
        "clip_l14_similarity_score": rng.permutation(len(names)).astype(np.float32) / len(names),
    }  # fmt: skip


def embeddings(path: Path, rows: int) -> None:
    rng = np.random.default_rng(rows)
    np.savez(path, **{f"l14_{part}": rng.normal(size=(rows, WIDTH)).astype(np.float16) for part in ("img", "txt")})


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """48 pairs in two tars and two metadata files, sealed; the last metadata row could not be downloaded."""
    folder = tmp_path / "pool"
    for shard in range(2):
        members = [sample(number, shard=shard) for number in range(24)]
        write_tar(folder / "shards" / f"{shard:08d}.tar", members)
        names = [uid_of((shard, number)) for number in range(24)] + ([uid_of("gone")] if shard else [])
        texts = [HOSTILE if number % 6 == 0 else f"a dog and car {number}" for number in range(len(names))]
        path = write_file(folder / "metadata" / f"{shard}.parquet", columns_of(names, texts))
        embeddings(path.with_suffix(".npz"), len(names))
    seal(str(folder), executor=executor.local(1))
    return folder


def save(path: Path, names: Sequence[object], times: int = 1) -> Path:
    uids = uid.from_hex([uid_of(name) for name in names])
    Subset.of(uids, np.full(len(uids), times, dtype=np.int64)).save(path)
    return path


def analysed(pool: Path, subset: Path, **more: Any) -> dict[str, Any]:
    """The payload alone."""
    request: dict[str, Any] = {
        "others": {}, "suite": suites.load("v1"), "data_dir": None, "run_dir": None, "sample": 32, "clusters": 2,
        "pictures": 0, "seed": 0, **more,
    }  # fmt: skip
    opened = open_pool(str(pool), None, executor.local(1))
    found = analyse(Request(pool=opened, subset=Subset.load(subset), **request), subset.parent)
    return found.payload()


def report(pool: Path, subset: Path, *more: str) -> tuple[dict[str, Any], str, Record]:
    """Payload, page and record."""
    out = subset.parent / "out"
    command([f"pool.path={pool}", f"subset={subset}", f"out={out}", "sample=32", "clusters=2", *more])
    record = read_record(out / "report.json", "report")
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "report.json"]
    return record.payload, (out / "index.html").read_text(), record


def test_report_of_a_pool_with_everything(pool: Path, tmp_path: Path) -> None:
    subset = save(tmp_path / "mine.npy", [(0, number) for number in range(12)], times=2)
    other = save(tmp_path / "other.npy", [(0, number) for number in range(8, 16)])
    found, page, record = report(pool, subset, f"against={other}", "pictures=6")
    assert (found["pool_size"], found["size"], found["distinct"], found["repeats"]) == (48, 24, 12, {"2": 12})
    by_key = {prop["key"]: prop for prop in found["properties"]}
    assert set(by_key) == {"clip_l14_similarity_score", "words", "characters", "side", "aspect", "language"}
    words = by_key["words"]  # HOSTILE has 9 words, the others 5
    nine, five = words["labels"].index("8"), words["labels"].index("5")
    assert (words["counts"]["pool"][nine], words["counts"]["pool"][five]) == (8, 40)
    assert (words["counts"]["kept"][nine], words["counts"]["subset"][nine]) == (2, 4)
    assert (words["kept_share"][nine], words["kept_share"][five]) == (0.25, 0.25)
    assert words["distance_to_pool"]["subset"] == pytest.approx(0)
    assert sum(words["counts"]["random"]) == 12
    (captions,) = found["duplicates"]
    assert captions["pairs"] == {"pool": 48, "subset": 12, "random": 12, "other": 8}
    assert captions["repeated"]["pool"] == 48 - 1 - 20  # the other captions stand once in each file
    assert captions["repeated"]["subset"] == 1
    assert found["overlaps"] == [{"name": "other", "size": 8, "shared": 4, "expected": 2.0, "jaccard": 0.25}]
    assert set(found["diversity"]) == {"pool", "subset", "random", "other"}
    sizes = {name: one["pairs"] for name, one in found["diversity"].items()}
    assert sizes == {"pool": 12, "subset": 12, "random": 12, "other": 8}
    assert all(one["schur"] is None for one in found["diversity"].values())
    assert sum(cluster["share"] for cluster in found["clusters"]) == pytest.approx(1)
    assert {name: len(grid) for name, grid in found["grids"].items()} == {"kept": 6, "dropped": 6, "border": 6}
    assert all(picture["kept"] == (name == "kept") for name in ("kept", "dropped") for picture in found["grids"][name])
    assert record.inputs["subset"] == Subset.load(subset).digest
    assert record.inputs["against other"] == Subset.load(other).digest
    assert page.count("data:image/jpeg;base64,") == 18
    again = analysed(pool, subset, others={"other": Subset.load(other)}, pictures=6)
    assert digest_of(again) == digest_of(found)


def test_captions_of_strangers_stay_text(pool: Path, tmp_path: Path) -> None:
    subset = save(tmp_path / "mine.npy", [(shard, number) for shard in (0, 1) for number in (0, 6, 12)])
    found, page, _ = report(pool, subset)
    assert all(picture["caption"] == HOSTILE for picture in found["grids"]["kept"])
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page  # shown as it is, not evaluated
    assert "<script" not in page.lower()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)  # nothing is asked for


def test_pool_without_scores_embeddings_or_seal(tmp_path: Path) -> None:
    names = [uid_of(number) for number in range(20)]
    path = tmp_path / "pool" / "metadata" / "0.parquet"
    write_file(path, {"uid": names, "text": ["a cat", ""] * 10})
    subset = save(tmp_path / "mine.npy", range(5))
    found, page, _ = report(tmp_path / "pool", subset)
    told = " ".join(found["notes"])
    for what in ("Scores", "Image sizes", "Repeated pictures", "Diversity and clusters", "Pictures", "Coverage"):
        assert what in told
    assert all(note in page.replace("&#39;", "'") for note in found["notes"])
    assert [prop["key"] for prop in found["properties"]] == ["words", "characters", "language"]
    assert (found["diversity"], found["clusters"], found["score"]) == ({}, [], None)
    assert set(found["grids"]) == {"kept", "dropped"}
    write_file(path, {"uid": names, "original_width": [10] * 20, "original_height": [0] + [20] * 19})
    found = analysed(tmp_path / "pool", subset)
    by_key = {prop["key"]: prop for prop in found["properties"]}
    assert set(by_key) == {"side", "aspect"}
    assert by_key["side"]["counts"]["pool"] == [19] + [0] * (len(bins.PIXELS) - 1) + [1]
    assert "Captions are left out" in " ".join(found["notes"])
    write_file(path, {"uid": names, "original_width": [0] * 20, "original_height": [20] * 20})
    found = analysed(tmp_path / "pool", subset)
    assert found["properties"] == []
    assert "Width over height is left out: no pair has a value there." in found["notes"]


def test_a_subset_of_pairs_without_scores_and_embeddings(tmp_path: Path) -> None:
    folder, names = tmp_path / "pool", [uid_of(number) for number in range(48)]
    columns = columns_of(names, ["a dog"] * 48)
    columns["clip_l14_similarity_score"] = [None if row < 40 else row / 48 for row in range(48)]
    path = write_file(folder / "metadata" / "0.parquet", columns)
    rows = np.random.default_rng(0).normal(size=(48, WIDTH)).astype(np.float16)
    rows[:40] = 0
    np.savez(path.with_suffix(".npz"), l14_img=rows, l14_txt=rows)
    payload = analysed(folder, save(tmp_path / "s.npy", range(40)), sample=48, pictures=4)
    assert payload["diversity"]["subset"]["images"]["inf"] == 0 < payload["diversity"]["pool"]["images"]["inf"]
    assert payload["border"] is None  # 40 pairs are kept, 8 have a score
    assert any(note.startswith("The border is left out") for note in payload["notes"])


def test_pictures_of_the_subset_are_of_its_own_sample(pool: Path, tmp_path: Path) -> None:
    mine = save(tmp_path / "mine.npy", [(shard, number) for shard in range(2) for number in range(24)])
    payload = analysed(pool, mine, others={"again": Subset.load(mine)}, sample=4, pictures=40)
    assert len(payload["grids"]["kept"]) == 4  # and not those that the pool or another subset was sampled by


def test_a_small_set_beside_it_costs_the_others_nothing(pool: Path, tmp_path: Path) -> None:
    mine = save(tmp_path / "mine.npy", [(0, number) for number in range(20)], times=3)
    one = save(tmp_path / "one.npy", [(0, 0)])
    found, page, _ = report(pool, mine, f"against={one}", "pictures=24")
    sizes = {name: told["pairs"] for name, told in found["diversity"].items()}
    assert sizes == {"pool": 20, "subset": 20, "random": 20, "one": 1}
    assert "Diversity of one is that of fewer than 20 pairs, which have less to differ in." in found["notes"]
    assert "Vendi score" in page
    shown = [picture["uid"] for picture in found["grids"]["kept"]]
    assert len(shown) == len(set(shown))  # however often a pair stands in the subset


def test_embeddings_that_only_some_files_have_are_not_looked_at(pool: Path, tmp_path: Path) -> None:
    first, second = sorted((pool / "metadata").glob("*.npz"))
    for path, names in ((first, ("l14", "b32")), (second, ("b32",))):
        rows = np.load(path)["l14_img"]
        np.savez(path, **{f"{name}_{part}": rows for name in names for part in ("img", "txt")})
    found = analysed(pool, save(tmp_path / "mine.npy", [(0, 1), (0, 2)]))
    assert found["embeddings"] == "b32" and found["clusters"]


def test_counts_do_not_depend_on_the_files(tmp_path: Path) -> None:
    names, texts = [uid_of(number) for number in range(60)], [f"caption {number % 7}" for number in range(60)]
    columns = columns_of(names, texts)
    found = []
    for number, cuts in enumerate(([0, 60], [0, 7, 31, 60])):
        folder = tmp_path / str(number)
        for low, high in itertools.pairwise(cuts):
            part = {name: values[low:high] for name, values in columns.items()}
            write_file(folder / "metadata" / f"{low:03d}.parquet", part)
        found.append(analysed(folder, save(tmp_path / "mine.npy", range(0, 60, 3)), pictures=5))
    assert found[0] == found[1]


def test_repeated_pictures(pool: Path, tmp_path: Path) -> None:
    names = [uid_of((shard, number)) for shard in range(2) for number in range(24)]
    exact, near = list(names), list(names)
    exact[3] = near[3] = names[1]
    near[5] = names[1]
    near[30] = names[1]
    pq.write_table(pa.table({"uid": names, "exact": exact, "near": near}), pool / "duplicates.parquet")
    subset = save(tmp_path / "mine.npy", [(0, number) for number in range(2, 12)])
    found = analysed(pool, subset)
    _, same, alike = found["duplicates"]
    assert (same["repeated"]["pool"], same["repeated"]["subset"]) == (1, 0)  # the first of the two is not in it
    assert (alike["repeated"]["pool"], alike["repeated"]["subset"]) == (3, 1)
    assert found["grids"] == {}
    pq.write_table(pa.table({"uid": names}), pool / "duplicates.parquet")
    refused(ArtifactError, r"duplicates\.parquet: not a table of duplicates .*harness\.duplicates", pool, subset)


def test_a_pool_whose_repeats_were_looked_for(pool: Path, tmp_path: Path) -> None:
    subset = save(tmp_path / "mine.npy", [(0, number) for number in range(12)])
    before = analysed(pool, subset)
    duplicates.command([f"pool.path={pool}"])
    found = analysed(pool, subset)
    assert found["properties"] == before["properties"]  # the columns that it adds are no scores
    assert [one["what"] for one in found["duplicates"]][1:] == ["pictures, the same file", "pictures, nearly the same"]


def refused(kind: type[HarnessError], says: str, pool: Path, subset: Path, *more: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        command([f"pool.path={pool}", f"subset={subset}", f"out={subset.parent / 'refused'}", *more])
    assert "\n" not in str(caught.value)
    assert not list((subset.parent / "refused").glob("*"))


def test_bad_input_is_one_sentence(pool: Path, tmp_path: Path) -> None:
    good = save(tmp_path / "good.npy", [(0, 0), (0, 1)])
    strangers = save(tmp_path / "strangers.npy", [(0, 0), "gone", "nobody"])
    refused(ArtifactError, r"strangers\.npy: 2 of its 3 uids are not in the pool", pool, strangers)
    refused(ArtifactError, r"strangers\.npy: 2 of its 3", pool, good, f"against=[{strangers}]")
    uid.save(tmp_path / "empty.npy", uid.from_hex([]))
    refused(ArtifactError, r"empty\.npy: holds no uid", pool, tmp_path / "empty.npy")
    refused(ArtifactError, r"missing\.npy: no such file", pool, tmp_path / "missing.npy")
    refused(ArtifactError, r"no parquet file", tmp_path, good)
    refused(ConfigError, r"unknown setting 'agianst' \(did you mean 'against'", pool, good, "agianst=x")
    refused(ConfigError, r"unknown suite 'v0'", pool, good, "eval.suite=v0")
    refused(ConfigError, r"setting eval\.data_dir: there is no folder nowhere", pool, good, "eval.data_dir=nowhere")
    for name in ("index.html", "report.json"):
        site = tmp_path / name.replace(".", "-")
        site.mkdir()
        (site / name).write_text("mine")
        with pytest.raises(ConfigError, match=rf"{re.escape(str(site / name))} is there and no report's"):
            command([f"pool.path={pool}", f"subset={good}", f"out={site}"])
        assert [(path.name, path.read_text()) for path in site.iterdir()] == [(name, "mine")]
    write_file(tmp_path / "bare" / "metadata" / "0.parquet", {"text": ["a"]})
    refused(ArtifactError, r"0\.parquet: no column 'uid'", tmp_path / "bare", good)
    (pool / "pool.json").write_text("{}")
    refused(ArtifactError, r"pool\.json", pool, good)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, npt.NDArray[np.void]]:
    """A pool of metadata, a run on a subset of it, and class names of two tasks of suite tiny."""
    tmp_path = tmp_path_factory.mktemp("finished")
    sealed = world(tmp_path / "pool", samples=60)
    names = uid.to_hex(np.asarray(sealed.uids))
    colours = ("red", "green", "blue")
    texts = [f"a {colours[number % 3]} cup" for number in range(60)]
    write_file(tmp_path / "pool" / "metadata" / "0.parquet", {"uid": names, "text": texts})
    chosen = uid.sort(np.asarray(sealed.uids)[:30])
    tasks = suites.load("tiny").tasks
    keys = ("cifar10", "vtab/dtd")
    run_dir = run(tmp_path / "run", sealed, chosen, skill=0.6, drop=tuple(set(tasks) - set(keys)))
    for task in (tasks[key] for key in keys):
        folder = tmp_path / "eval" / task.folder
        folder.mkdir(parents=True)
        classes = ["red", "green cup", "yellow", *(f"thing {number}" for number in range(3, task.classes or 0))]
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    return tmp_path / "pool", run_dir, tmp_path / "eval", chosen


def test_class_frequency_against_accuracy(finished: Any, tmp_path: Path) -> None:
    pool, run_dir, data_dir, _ = finished
    results = [f"run_dir={run_dir}", f"eval.data_dir={data_dir}", "pictures=0"]
    found, page, record = report(pool, run_dir / "uids.npy", *results)
    by_key = {task["key"]: task for task in found["coverage"]}
    assert set(by_key) == {"cifar10", "vtab/dtd"}
    cifar = by_key["cifar10"]
    assert cifar["counts"]["pool"][:4] == [20, 20, 0, 0]
    assert cifar["counts"]["subset"][:4] == [10, 10, 0, 0]
    _, columns = predictions.read(run_dir / "eval" / "predictions" / "cifar10.parquet")
    expected = [float((columns["top"][columns["target"] == label, 0] == label).mean()) for label in range(10)]
    assert cifar["recalls"] == pytest.approx(expected)
    correlation = stats.spearmanr(cifar["counts"]["subset"], expected).statistic
    assert cifar["frequency_accuracy_spearman"] == pytest.approx(float(correlation))
    assert "Frequency against accuracy" in page
    assert "evaluation 0" in record.inputs
    assert "tasks with classes are not in eval.data_dir" in " ".join(found["notes"])


def test_results_of_another_subset_are_refused(finished: Any, tmp_path: Path) -> None:
    pool, run_dir, data_dir, chosen = finished
    other = tmp_path / "other.npy"
    uid.save(other, chosen[:7])
    results = [f"run_dir={run_dir}", f"eval.data_dir={data_dir}"]
    refused(ConfigError, "was trained on another subset than", pool, other, *results)
    for place in ("eval", "seed-1/eval", "seed-1"):  # as in a run, an entry, one seed of it
        folder = tmp_path / "entry" / place
        shutil.copytree(run_dir / "eval", folder if folder.name == "eval" else folder / "eval", dirs_exist_ok=True)
    shutil.copytree(run_dir / "train", tmp_path / "entry" / "train")
    shutil.copytree(run_dir / "train", tmp_path / "entry" / "seed-1" / "train")
    for place in ("", "eval", "seed-1", "seed-1/eval"):
        folder = tmp_path / "entry" / place
        refused(ConfigError, "was trained on another subset than", pool, other, f"run_dir={folder}", results[1])
    refused(ConfigError, "was evaluated on tiny", pool, run_dir / "uids.npy", *results, "eval.suite=v1")
    refused(ArtifactError, r"holds no evaluation\.json", pool, other, f"run_dir={tmp_path}")


def test_diversity_is_that_of_different_pairs_with_embeddings(tmp_path: Path) -> None:
    folder, names = tmp_path / "pool", [uid_of(number) for number in range(200)]
    path = write_file(folder / "metadata" / "0.parquet", columns_of(names, ["a dog"] * 200))
    img, txt = np.random.default_rng(0).normal(size=(2, 200, WIDTH)).astype(np.float16)
    img[:80], txt[40:120] = 0, np.nan
    np.savez(path.with_suffix(".npz"), l14_img=img, l14_txt=txt)
    heavy = np.ones(100, dtype=np.int64)
    heavy[-1] = 5000
    Subset.of(uid.from_hex(names[100:]), heavy).save(tmp_path / "mine.npy")
    found = analysed(folder, tmp_path / "mine.npy", sample=200)
    sizes = {name: one["pairs"] for name, one in found["diversity"].items()}
    assert sizes["pool"] == sizes["subset"] == sizes["random"] <= 80
    assert any(re.match(r"120 of the 200 pairs looked at lack an embedding", note) for note in found["notes"])
    assert found["diversity"]["subset"]["images"]["inf"] > 2  # and not of one pair 5,000 times


def test_the_border_is_the_score_of_the_last_that_is_kept(tmp_path: Path) -> None:
    names = [uid_of(number) for number in range(50)]
    columns = columns_of(names, ["a dog"] * 50) | {"clip_l14_similarity_score": np.arange(50) / 50}
    write_file(tmp_path / "pool" / "metadata" / "0.parquet", columns)
    for size in (1, 7, 49):
        found = analysed(tmp_path / "pool", save(tmp_path / "mine.npy", range(50 - size, 50)), sample=50, pictures=1)
        assert found["border"] == pytest.approx((50 - size) / 50)


def test_rows_of_one_uid_are_told(tmp_path: Path) -> None:
    names = [uid_of(number) for number in range(20)]
    for number in range(2):
        write_file(tmp_path / "pool" / "metadata" / f"{number}.parquet", columns_of(names, ["a dog"] * 20))
    found = analysed(tmp_path / "pool", save(tmp_path / "mine.npy", range(5)))
    assert any(note.startswith("Some uids stand in several rows") for note in found["notes"])


def test_each_set_beside_it_has_a_name_of_its_own(pool: Path, tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("a/x (2).npy", "b/x.npy", "c/x.npy", "d/pool.npy")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        save(path, [(0, place) for place in range(number + 1)])
    found, _, _ = report(pool, save(tmp_path / "mine.npy", [(0, 0)]), f"against=[{','.join(map(str, paths))}]")
    assert [(one["name"], one["size"]) for one in found["overlaps"]] == [
        ("x (2)", 1), ("x", 2), ("x (3)", 3), ("pool (2)", 4)
    ]  # fmt: skip
