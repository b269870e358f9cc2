import hashlib
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from pool_folders import sample, uid_of, write_pool, write_tar
from waiting import LONG, until

from harness import Pool, executor, files, score
from harness import model as models
from harness.errors import ArtifactError, ConfigError, InfraError, StageError
from harness.images import decode
from harness.pool import seal as seal_module
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.tars import Reader, read_sample

MODEL = "clip-tiny"
COLUMN = "clip_mine_similarity_score"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two shards of six pairs; the metadata mixes them and knows one pair more than could be downloaded."""
    folder = write_pool(tmp_path / "pool", shards=2, samples=6)
    every = [uid_of((shard, number)) for number in range(6) for shard in range(2)]
    (folder / "metadata").mkdir()
    for name, texts in {"a": [uid_of("gone"), *every[:5]], "b": every[5:]}.items():
        table = pa.table({"uid": texts, "text": [f"caption {text}" for text in texts]})
        pq.write_table(table, folder / "metadata" / f"{name}.parquet")
    np.savez(folder / "metadata" / "a.npz", other=np.ones(3))
    seal(str(folder), executor=executor.local(1))
    models.save_safetensors(folder / "weights.safetensors", models.create(MODEL, seed=1).state_dict())
    return folder


def arguments(pool: Path, device: str = "cpu") -> list[str]:
    files = [f"pool.path={pool}", f"checkpoint={pool / 'weights.safetensors'}"]
    return [*files, f"model={MODEL}", "name=mine", f"device={device}", "batch_size=4"]


def test_scores_are_those_of_the_model_and_every_method_can_use_them(pool: Path) -> None:
    score.command(arguments(pool))
    sealed = seal(str(pool), executor=executor.local(1))
    model, transform = models.load(MODEL, pool / "weights.safetensors"), models.eval_transform(MODEL)
    wanted = {}
    for shard in range(2):
        with Reader(sealed.shards[shard]) as reader, torch.inference_mode():
            for number, entry in enumerate(sealed.index(shard)):
                image, caption = read_sample(reader, entry)
                found = (
                    model.encode_image(transform(decode(image))[None], normalize=True)[0],
                    model.encode_text(models.tokenizer(MODEL)([caption]), normalize=True)[0],
                )
                wanted[uid_of((shard, number))] = (*found, float(found[0] @ found[1]))
    for name in "ab":
        table = pq.read_table(pool / "metadata" / f"{name}.parquet").to_pydict()
        assert [text.split()[1] for text in table["text"]] == table["uid"]
        with np.load(pool / "metadata" / f"{name}.npz") as arrays:
            for row, (text, value) in enumerate(zip(table["uid"], table["clip_mine_similarity_score"], strict=True)):
                if text == uid_of("gone"):
                    assert np.isnan(value) and not arrays["mine_img"][row].any()
                    continue
                image, caption, product = wanted[text]
                np.testing.assert_allclose(arrays["mine_img"][row], image, atol=1e-3)
                np.testing.assert_allclose(arrays["mine_txt"][row], caption, atol=1e-3)
                assert value == pytest.approx(product, abs=2e-3)
            assert ("other" in arrays.files) == (name == "a")
    view = Pool.open(pool, sealed=sealed)
    assert len(view.filter(within={"clip_mine_similarity_score": (-1, None)})) == len(view) == 12
    assert not (pool / "scored").exists() or not list((pool / "scored").iterdir())


def test_what_could_not_be_downloaded_at_all_has_no_score(pool: Path) -> None:
    """A metadata file of links that all failed, one without rows, and a shard without a usable pair."""
    for name, uids in {"c": [uid_of("gone too")], "d": []}.items():
        pq.write_table(pa.table({"uid": pa.array(uids, pa.string()), "text": pa.array(uids, pa.string())}),
                       pool / "metadata" / f"{name}.parquet")  # fmt: skip
    write_tar(pool / "shards" / "00000002.tar", [sample(0, shard=2, image=b"no picture")])
    assert len(seal(str(pool), executor=executor.local(1)).shards) == 3
    score.command(arguments(pool))
    scores = {name: pq.read_table(pool / "metadata" / f"{name}.parquet")[COLUMN].to_pylist() for name in "abcd"}
    assert np.isnan(scores["c"]).tolist() == [True] and scores["d"] == [] and np.isfinite(scores["b"]).all()
    with np.load(pool / "metadata" / "c.npz") as arrays:
        assert arrays["mine_img"].shape[0] == 1 and not arrays["mine_img"].any()


def test_metadata_that_do_not_fit_are_told_before_any_work(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_embedded", None)
    for path in (pool / "metadata").glob("*.parquet"):
        pq.write_table(pa.table({"uid": [uid_of(path.name)]}), path)
    with pytest.raises(ArtifactError, match="no row has the uid of a pair in the tars"):
        score.command(arguments(pool))
    shutil.rmtree(pool / "metadata")
    with pytest.raises(ArtifactError, match="no parquet file"):
        score.command(arguments(pool))


@pytest.mark.parametrize(
    ("device", "said"),
    [("foo", "'foo' is no device"), ("cuda", "this machine has no cuda:0; use device=cpu"), ("meta", "runs on meta")],
)
def test_a_device_that_is_not_there_leaves_nothing_behind(
    pool: Path, monkeypatch: pytest.MonkeyPatch, device: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=f"setting device: .*{said}"):
        score.command(arguments(pool, device))
    assert not (pool / "scored").exists()


def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(pool: Path) -> None:
    models.save_safetensors(pool / "weights.safetensors", {"other": torch.ones(1)})
    with pytest.raises(ArtifactError, match="do not fit model"):
        score.command(arguments(pool))
    assert not (pool / "scored").exists()


def test_weights_that_are_no_numbers_give_no_scores(pool: Path) -> None:
    weights = {name: torch.full_like(tensor, np.nan) for name, tensor in models.create(MODEL).state_dict().items()}
    models.save_safetensors(pool / "weights.safetensors", weights)
    with pytest.raises(StageError, match=r"weights\.safetensors: .* not finite"):
        score.command(arguments(pool))
    assert COLUMN not in pq.read_schema(pool / "metadata" / "a.parquet").names
    with pytest.raises(StageError, match=r"weights\.safetensors: .* not finite"):
        score.embed_pictures(
            [Image.new("RGB", (8, 8))], model=MODEL, checkpoint=str(pool / "weights.safetensors"), device="cpu"
        )


def test_shards_that_are_done_are_not_done_again(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    embedded = score._embedded

    def failing(sealed, shard, *rest):  # type: ignore[no-untyped-def]
        done.append(shard)
        if done == [0, 1]:
            raise ArtifactError("stopped")
        return embedded(sealed, shard, *rest)

    monkeypatch.setattr(score, "_embedded", failing)
    before = (pool / "metadata" / "a.parquet").read_bytes()
    with pytest.raises(ArtifactError, match="stopped"):
        score.command(arguments(pool))
    assert (pool / "metadata" / "a.parquet").read_bytes() == before
    score.command(arguments(pool))
    assert done == [0, 1, 1]
    score.command(arguments(pool))
    assert done == [0, 1, 1]


def test_a_finished_scoring_is_done_again_only_where_it_is_missing(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = [pool / "metadata" / name for name in ("a.parquet", "a.npz", "b.parquet", "b.npz")]
    plain = metadata[2].read_bytes()
    score.command(arguments(pool))
    first = [path.read_bytes() for path in metadata]
    with monkeypatch.context() as patch:
        patch.setattr(score, "_embedded", None)
        score.command(arguments(pool))
    assert [path.read_bytes() for path in metadata] == first
    metadata[2].write_bytes(plain)
    metadata[3].unlink()
    score.command(arguments(pool))
    assert pq.read_table(metadata[2])[COLUMN].null_count == 0 and metadata[3].exists()
    # Other weights or another precision are other scores.
    models.save_safetensors(pool / "weights.safetensors", models.create(MODEL, seed=2).state_dict())
    score.command(arguments(pool))
    second = [path.read_bytes() for path in metadata]
    assert not set(second) & set(first)
    score.command([*arguments(pool), "precision=amp_bfloat16"])
    assert not {path.read_bytes() for path in metadata} & set(second)


def test_a_column_says_what_made_it(pool: Path) -> None:
    score.command(arguments(pool))
    made = json.loads(pq.read_schema(pool / "metadata" / "a.parquet").field(COLUMN).metadata[b"harness.score"])
    assert made == {
        "pool": seal(str(pool), executor=executor.local(1)).digest,
        "model": MODEL,
        "checkpoint": hashlib.sha256((pool / "weights.safetensors").read_bytes()).hexdigest(),
        "device": "cpu",
        "precision": "fp32",
    }


def test_the_pictures_of_a_tag_are_normalised_as_it_says(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    weights = str(pool / "weights.safetensors")
    monkeypatch.setitem(_PRETRAINED, MODEL, {"own": {"file": weights}, "other": {"file": weights, **other}})
    found = {}
    for tag in ("own", "other"):
        score.command([one for one in arguments(pool) if not one.startswith("checkpoint")] + [f"checkpoint={tag}"])
        field = pq.read_schema(pool / "metadata" / "b.parquet").field(COLUMN)
        assert json.loads(field.metadata[b"harness.score"]).get("normalisation") == {"other": other}.get(tag)
        with np.load(pool / "metadata" / "b.npz") as arrays:
            found[tag] = arrays["mine_img"]
    sealed = SealedPool.open(pool)
    transform = open_clip.image_transform(models.image_size(MODEL), is_train=False, **other)
    rows = pq.read_table(pool / "metadata" / "b.parquet")["uid"].to_pylist()
    clip, wanted = models.load(MODEL, weights), {}
    for shard in range(2):
        with Reader(sealed.shards[shard]) as reader, torch.inference_mode():
            for number, entry in enumerate(sealed.index(shard)):
                picture = transform(decode(read_sample(reader, entry)[0]))
                wanted[uid_of((shard, number))] = clip.encode_image(picture[None], normalize=True)[0].numpy()
    np.testing.assert_allclose(found["other"], np.stack([wanted[row] for row in rows]), atol=1e-3)
    assert np.abs(found["other"] - found["own"]).max() > 0.01


@pytest.mark.parametrize("what", ["column", "arrays"])
def test_what_others_wrote_is_replaced_on_request_only(pool: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = pool / "metadata" / "b.parquet"
    if what == "column":
        table = pq.read_table(path)
        pq.write_table(table.append_column(COLUMN, pa.array(np.full(len(table), 2, np.float32))), path)
    else:
        np.savez(path.with_suffix(".npz"), mine_img=np.ones((7, 3), np.float16))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(score, "_embedded", None)
        with pytest.raises(ConfigError, match=r"setting name: .*b\.parquet holds .*mine.* overwrite=true"):
            score.command(arguments(pool))
    assert path.read_bytes() == before and not (pool / "scored").exists()
    score.command([*arguments(pool), "overwrite=true"])
    assert max(pq.read_table(path)[COLUMN].to_pylist()) <= 1
    score.command(arguments(pool))  # now they are its own


def test_a_column_that_another_command_writes_meanwhile_is_kept(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = pool / "metadata" / "a.parquet", threading.Event()
    monkeypatch.setattr(seal_module, "say", lambda text: told.set())
    with ThreadPoolExecutor(1) as thread:
        with files.lock(pool):
            scoring = thread.submit(score.command, arguments(pool))
            until(lambda: told.is_set() or scoring.done())
            assert not scoring.done() and COLUMN not in pq.read_schema(path).names
            table = pq.read_table(path)
            pq.write_table(table.append_column("theirs", pa.array(range(len(table)))), path)
        scoring.result()
    assert {"theirs", COLUMN} <= set(pq.read_schema(path).names)


def test_a_pool_that_another_command_seals_meanwhile_is_not_scored(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, before = threading.Event(), (pool / "metadata" / "a.parquet").read_bytes()
    monkeypatch.setattr(seal_module, "say", lambda text: told.set())
    write_pool(pool / "new", shards=2, samples=5)
    with ThreadPoolExecutor(1) as thread:
        with files.lock(pool):
            scoring = thread.submit(score.command, arguments(pool))
            until(lambda: told.is_set() or scoring.done())
            seal(str(pool / "new"), executor=executor.local(1))
            for path in (pool / "new").glob("*.*"):
                shutil.copy(path, pool)
        with pytest.raises(InfraError, match=f"^{pool}: sealed anew while this waited for it; run the same command"):
            scoring.result()
    assert (pool / "metadata" / "a.parquet").read_bytes() == before and not (pool / "scored").exists()


def test_what_another_command_scores_meanwhile_is_not_scored_again(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(pool, tmp_path / "other")
    score.command(arguments(pool))
    told = threading.Event()
    monkeypatch.setattr(seal_module, "say", lambda text: told.set())
    monkeypatch.setattr(score, "_embedded", None)
    with ThreadPoolExecutor(1) as thread:
        with files.lock(other):
            scoring = thread.submit(score.command, arguments(other))
            until(lambda: told.is_set() or scoring.done())
            shutil.copytree(pool / "metadata", other / "metadata", dirs_exist_ok=True)
        scoring.result()
    assert COLUMN in pq.read_schema(other / "metadata" / "a.parquet").names


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_others_are_copied_undecoded(pool: Path, save: Callable[..., None]) -> None:
    path = pool / "metadata" / "a.npz"
    save(path, objects=np.array([{"a": 1}, None], dtype=object), half=np.arange(3, dtype=np.float16))

    def foreign() -> dict[str, tuple[bytes, int]]:
        with zipfile.ZipFile(path) as archive:
            return {
                one.filename: (archive.read(one), one.compress_type)
                for one in archive.infolist()
                if "mine" not in one.filename
            }

    before = foreign()
    score.command(arguments(pool))
    assert foreign() == before and len(before) == 2
    models.save_safetensors(pool / "weights.safetensors", models.create(MODEL, seed=2).state_dict())
    score.command(arguments(pool))
    with np.load(path) as arrays:
        assert foreign() == before and arrays.files == ["objects", "half", "mine_img", "mine_txt"]


def test_a_broken_npz_is_told_before_any_work(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_embedded", None)
    (pool / "metadata" / "a.npz").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ArtifactError, match=r"a\.npz: not a readable npz file"):
        score.command(arguments(pool))


@pytest.mark.slow
def test_scores_by_ray_are_the_same(pool: Path, tmp_path: Path) -> None:
    other = shutil.copytree(pool, tmp_path / "other")
    score.command(arguments(pool))
    command = [sys.executable, "-m", "harness.score", *arguments(other), "executor=ray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        ours, theirs = (pq.read_table(folder / "metadata" / f"{name}.parquet") for folder in (pool, other))
        assert ours.schema.equals(theirs.schema, check_metadata=True)
        np.testing.assert_array_equal(ours[COLUMN], theirs[COLUMN])
