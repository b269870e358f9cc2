import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pool_folders import sample, uid_of, write_pool, write_tar

from harness import Pool, executor, score
from harness import model as models
from harness.errors import ArtifactError
from harness.images import decode
from harness.pool.seal import seal
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


def arguments(pool: Path) -> list[str]:
    files = [f"pool.path={pool}", f"checkpoint={pool / 'weights.safetensors'}"]
    return [*files, f"model={MODEL}", "name=mine", "device=cpu", "batch_size=4"]


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
    first = pq.read_table(pool / "metadata" / "b.parquet")
    score.command(arguments(pool))
    assert pq.read_table(pool / "metadata" / "b.parquet").equals(first)
