"""The baselines against the reference's rules, written out here a row at a time."""

import hashlib
import importlib.util
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow.parquet as pq
import pytest
from metadata_pool import WIDTHS, table_of, write_file, write_metadata

from baselines import _targets, _wordnet, image_based
from harness import Pool, assets, centroids, executor, language, uid
from harness.config import MethodConfig, load_scale
from harness.errors import ArtifactError, ConfigError, MethodError
from harness.pool import view
from harness.records import read_record
from harness.selection import plugins, run

SIZES = (70, 55, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metadata(tmp_path_factory.mktemp("pool"), SIZES)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "metadata").glob("*.parquet")):
        features = np.load(path.with_suffix(".npz"))["l14_img"]
        found += [row | {"l14_img": features[n]} for n, row in enumerate(pq.read_table(path).to_pylist())]
    return found


@pytest.fixture(scope="module")
def english(rows: list[dict[str, Any]]) -> dict[str, bool]:
    model = fasttext.load_model(language.fasttext().model)
    texts = {row["text"] or "" for row in rows}
    return {text: model.predict(text.replace("\n", " "))[0][:1] == ("__label__en",) for text in texts}


def chosen(folder: Path, tmp_path: Path, name: str, **params: Any) -> list[str]:
    config = MethodConfig(name=name, params=params)
    work = executor.local(1)
    pool = Pool.open(folder, executor=work)
    scale = load_scale("tiny")
    out = tmp_path / "out"
    return uid.to_hex(run.select(plugins.resolve(config), config, pool=pool, scale=scale, out=out, executor=work).uids)


def wanted(rows: list[dict[str, Any]], keep: Callable[[dict[str, Any]], bool]) -> list[str]:
    return sorted(row["uid"] for row in rows if keep(row | {"text": row["text"] or ""}))


def test_no_filter(folder: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert chosen(folder, tmp_path, "no_filter") == wanted(rows, lambda row: True)


def test_basic_filter(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], english: dict[str, bool]) -> None:
    def keep(row: dict[str, Any]) -> bool:
        text, width, height = row["text"], row["original_width"], row["original_height"]
        if width is None or not english[text] or len(text.split()) <= 2 or len(text) <= 5:
            return False
        return min(width, height) >= 200 and max(width, height) / min(width, height) <= 3.0

    found = chosen(folder, tmp_path, "basic_filter")
    assert found == wanted(rows, keep) and 0 < len(found) < len(rows) / 2


def test_basic_filter_names_sizes_that_are_no_numbers(tmp_path: Path) -> None:
    write_file(tmp_path / "metadata" / "a.parquet", table_of(0, 40) | {"original_width": ["wide"] * 40})
    with pytest.raises(ArtifactError, match=r"a\.parquet: column 'original_width' has type string, expected numbers"):
        chosen(tmp_path, tmp_path, "basic_filter")


@pytest.mark.parametrize("arch", ["b32", "l14"])
@pytest.mark.parametrize("fraction", [0.01, 0.29, 0.3, 0.5, 0.9])
def test_clip_score_by_fraction(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], arch: str, fraction: float
) -> None:
    column = f"clip_{arch}_similarity_score"
    scores = np.array([row[column] for row in rows], dtype=np.float32)
    border = -np.sort(-scores)[int(len(scores) * fraction)]
    found = chosen(folder, tmp_path, "clip_score", arch=arch, fraction=fraction)
    assert found == wanted(rows, lambda row: np.float32(row[column]) >= border)
    assert len(found) >= int(len(rows) * fraction) + 1


def test_clip_score_by_threshold_and_of_everything(folder: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    # 0.28 in float32 lies above 0.28: scores that hold it pass all the same, as they do in NumPy.
    found = chosen(folder, tmp_path, "clip_score", arch="b32", threshold=0.28)
    column = "clip_b32_similarity_score"
    assert found == wanted(rows, lambda row: np.float32(row[column]) >= np.float32(0.28))
    assert any(row[column] == np.float32(0.28) for row in rows)
    assert chosen(folder, tmp_path, "clip_score", fraction=1) == wanted(rows, lambda row: True)
    with pytest.raises(ConfigError, match="not both"):
        chosen(folder, tmp_path, "clip_score", fraction=0.5, threshold=0.2)


@pytest.mark.parametrize("installed", [False, True])
def test_laion2b(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], english: dict[str, bool], installed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    find = importlib.util.find_spec
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcld3" else find(name))
    elif find("gcld3") is None:
        pytest.skip("extra gcld3")
    else:
        import gcld3

        guess = gcld3.NNetLanguageIdentifier(0, 1000).FindLanguage
        english = {text: guess(text.replace("\n", " ")).language == "en" for text in english}
    column = "clip_b32_similarity_score"
    found = chosen(folder, tmp_path, "laion2b")
    assert found == wanted(rows, lambda row: english[row["text"]] and np.float32(row[column]) >= np.float32(0.28))
    assert found
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert ("language identification: gcld3" in remarks) == installed
    assert any("stands in for gcld3, which is not installed" in remark for remark in remarks) != installed


def test_text_based(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], english: dict[str, bool]) -> None:
    found = chosen(folder, tmp_path, "text_based")
    assert found == wanted(
        rows, lambda row: english[row["text"]] and any(map(_wordnet.shown_in_imagenet, row["text"].split()))
    )
    assert 0 < len(found) < len(rows)


@pytest.fixture
def with_targets(folder: Path, tmp_path: Path) -> tuple[str, set[int], np.ndarray]:
    rng = np.random.default_rng(7)
    points = rng.normal(size=(9, WIDTHS["l14_img"])).astype(np.float32)
    (folder / "targets").mkdir(exist_ok=True)
    targets = rng.normal(size=(4, WIDTHS["l14_img"])).astype(np.float16)
    np.savez(folder / "targets" / "train.npz", l14_img=targets)
    centroids.save(str(tmp_path / "points.npy"), points)
    return str(tmp_path / "points.npy"), {int(np.argmax(points @ t.astype(np.float32))) for t in targets}, points


def passes(row: dict[str, Any], english: dict[str, bool]) -> bool:
    return english[row["text"]] and len(row["text"]) > 5 and language.tokens(row["text"]) > 1


def test_image_based(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], english: dict[str, bool], with_targets: Any
) -> None:
    path, hit, points = with_targets

    def keep(row: dict[str, Any]) -> bool:
        return passes(row, english) and int(np.argmax(points @ row["l14_img"].astype(np.float32))) in hit

    found = chosen(folder, tmp_path, "image_based", centroids=path)
    assert found == wanted(rows, keep) and len(found) > 0
    column = "clip_l14_similarity_score"
    border = -np.sort(-np.array([row[column] for row in rows]))[int(len(rows) * 0.6)]
    both = chosen(folder, tmp_path, "image_based_intersect_clip_score", centroids=path, fraction=0.6)
    assert both == wanted(rows, lambda row: keep(row) and row[column] >= border) and len(both) < len(found)


def test_image_based_makes_centroids_of_its_own(folder: Path, tmp_path: Path, with_targets: Any) -> None:
    found = chosen(folder, tmp_path, "image_based", clusters=5)
    assert 0 < len(found) < sum(SIZES)
    with pytest.raises(ArtifactError, match="too few for 1000 centroids"):
        chosen(folder, tmp_path, "image_based", clusters=1000)


@pytest.mark.parametrize(("scale", "sample"), [("medium", 1.0), ("large", 0.3), ("xlarge", 0.03)])
def test_centroids_of_its_own_are_made_of_the_references_sample(
    folder: Path, tmp_path: Path, with_targets: Any, monkeypatch: pytest.MonkeyPatch, scale: str, sample: float
) -> None:
    asked: list[float] = []

    def of_pool(pool: Pool, *, sample: float, **_: Any) -> Any:
        asked.append(sample)
        return with_targets[2]

    monkeypatch.setattr(centroids, "of_pool", of_pool)
    config = MethodConfig(name="image_based", params={"clusters": 9})
    work = executor.local(1)
    method = plugins.resolve(config)
    run.select(method, config, pool=Pool.open(folder, executor=work), scale=load_scale(scale), out=tmp_path / "out",
               executor=work)  # fmt: skip
    assert asked == [sample]
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert any(f"made of a {sample} of its captions" in remark for remark in remarks) == (sample < 1)


@pytest.mark.parametrize("name", ["image_based", "dp4tl"])
def test_centroids_of_another_width_are_refused(folder: Path, tmp_path: Path, with_targets: Any, name: str) -> None:
    path = str(tmp_path / "wide.npy")
    centroids.save(path, np.ones((3, WIDTHS["l14_img"] + 1), np.float32))
    said = rf"wide\.npy: the centroids are {WIDTHS['l14_img'] + 1} wide, l14_img of .* are {WIDTHS['l14_img']}"
    with pytest.raises(ArtifactError, match=said):
        chosen(folder, tmp_path, name, centroids=path)


def test_image_based_interrupted_after_its_centroids_goes_on(
    folder: Path, tmp_path: Path, with_targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    whole = chosen(folder, tmp_path / "whole", "image_based", clusters=5)
    keep, done = image_based._keep, tmp_path / "done"

    def stopping(*arguments: Any) -> Any:
        if done.exists():
            raise RuntimeError("stopped")
        done.touch()
        return keep(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(image_based, "_keep", stopping)
        with pytest.raises(MethodError, match="stopped"):
            chosen(folder, tmp_path / "cut", "image_based", clusters=5)
    assert chosen(folder, tmp_path / "cut", "image_based", clusters=5) == whole


def test_a_file_of_centroids_is_part_of_the_work(folder: Path, tmp_path: Path, with_targets: Any) -> None:
    path, _, points = with_targets
    before = chosen(folder, tmp_path, "image_based", centroids=path)
    centroids.save(path, -points)
    assert chosen(folder, tmp_path, "image_based", centroids=path) != before
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert f"centroids: a file of sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}" in remarks
    Path(path).write_text("no array")
    with pytest.raises(ArtifactError, match=r"points\.npy: not an npy file"):
        chosen(folder, tmp_path, "image_based", centroids=path)


def test_parts_of_a_combination_do_not_share_files(folder: Path, tmp_path: Path, with_targets: Any) -> None:
    sets = [set(chosen(folder, tmp_path / str(k), "image_based", clusters=k)) for k in (3, 20)]
    parts = [{"name": "image_based", "clusters": k} for k in (3, 20)]
    assert sets[0] != sets[1]
    assert chosen(folder, tmp_path, "intersect", of=parts) == sorted(sets[0] & sets[1])


def test_methods_that_agree_on_nothing_are_told(folder: Path, tmp_path: Path) -> None:
    few: list[dict[str, Any]] = [{"fraction": 0.01, "arch": arch} for arch in ("b32", "l14")]
    assert not set(chosen(folder, tmp_path, "clip_score", **few[0])) & set(
        chosen(folder, tmp_path, "clip_score", **few[1])
    )
    with pytest.raises(MethodError, match="method intersect: no pair is kept by all of its methods"):
        chosen(folder, tmp_path, "intersect", of=[{"name": "clip_score", **params} for params in few])


def test_combinations(folder: Path, tmp_path: Path) -> None:
    parts = ["basic_filter", {"name": "clip_score", "fraction": 0.5}]
    one, two = chosen(folder, tmp_path, "basic_filter"), chosen(folder, tmp_path, "clip_score", fraction=0.5)
    assert chosen(folder, tmp_path, "intersect", of=parts) == sorted(set(one) & set(two))
    assert chosen(folder, tmp_path, "union", of=parts) == sorted(set(one) | set(two))


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (["basic_filter"], "at least 2 items"),
        (["basic_filter", "clip_scor"], "did you mean 'clip_score'"),
        (["basic_filter", {"name": "clip_score", "fracton": 1}], "did you mean 'fraction'"),
        (["basic_filter", {"fraction": 1}], "neither a method's name nor"),
        (["basic_filter", {"name": "clip_score", "target": "mine:select"}], "only method=custom has a target"),
    ],
)
def test_combinations_that_cannot_be_are_refused_before_any_work(tmp_path: Path, of: list[Any], said: str) -> None:
    method = plugins.resolve(MethodConfig(name="intersect"))
    with pytest.raises(ConfigError, match=said):
        plugins.bind(method, {"of": of})


def test_published_files_serve_where_they_can_be_had(
    tmp_path: Path, folder: Path, rows: list[dict[str, Any]], english: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    width = WIDTHS["l14_img"]
    points, targets = rng.normal(size=(6, width)).astype(np.float32), rng.normal(size=(10, width)).astype(np.float16)
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("c/data.pkl", pickle.dumps(points, protocol=4))
    torch = pytest.importorskip("torch")
    for part in range(_targets.PARTS):
        torch.save({"image_features": torch.from_numpy(targets[2 * part : 2 * part + 2])}, tmp_path / f"{part}.pt")
    published = {f"in1k_clip_vit_l14_{part}": tmp_path / f"{part}.pt" for part in range(_targets.PARTS)}
    published["small_centroids"] = tmp_path / "c.pt"
    monkeypatch.setattr(_targets, "WIDTH", width)
    monkeypatch.setattr(assets, "fetch", published.get)
    (folder / "targets" / "train.npz").unlink(missing_ok=True)
    config = MethodConfig(name="image_based")
    work = executor.local(1)
    pool = Pool.open(folder, executor=work)
    method = plugins.resolve(config)
    subset = run.select(method, config, pool=pool, scale=load_scale("small"), out=tmp_path / "out", executor=work)
    hit = {int(np.argmax(points @ target.astype(np.float32))) for target in targets}

    def keep(row: dict[str, Any]) -> bool:
        return passes(row, english) and int(np.argmax(points @ row["l14_img"].astype(np.float32))) in hit

    assert uid.to_hex(subset.uids) == wanted(rows, keep)
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert "centroids: the published small_centroids" in remarks
    assert "targets: the published ImageNet-1k embeddings" in remarks


def test_without_any_targets_the_error_says_what_is_missing_before_centroids_are_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroids, "of_pool", lambda *_, **__: pytest.fail("centroids were made"))
    (folder / "targets" / "train.npz").unlink(missing_ok=True)
    with pytest.raises(ArtifactError, match=r"targets/train\.npz: offers no l14_img, and the published"):
        chosen(folder, tmp_path, "image_based", clusters=2)
