"""Embedders: one model on devices or in workers, texts in short batches, all as the plain way has it."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import KEYS, MODEL, evaluate
from PIL import Image
from waiting import LONG

from harness import executor as executors
from harness import model as models
from harness.errors import ArtifactError
from harness.eval import data, embedders, predictions, results, run
from harness.eval.data import Words
from harness.eval.encoder import Encoder
from harness.eval.source import Job, TaskSource
from harness.eval.texts import Texts
from harness.records import read_record


@pytest.fixture
def encoder(made):
    return Encoder(MODEL, made[0] / "0.safetensors", device="cpu", precision="fp32")


def test_scores_are_those_of_the_plain_way(made, encoder):
    """The reference's order of work: one class a text forward, the whole context, one picture transform at a time."""
    base, small = made
    task = small.tasks["cifar10"]
    _, columns = predictions.read(results.predictions_place(base / "out", task))
    source = TaskSource.open(task, base / "data")
    model, tokenizer = models.load(MODEL, base / "0.safetensors"), models.tokenizer(MODEL)
    with torch.no_grad():
        rows = []
        for prompts in source.words.prompts():
            embeddings = torch.nn.functional.normalize(model.encode_text(tokenizer(prompts)), dim=-1).mean(dim=0)
            rows.append(embeddings / embeddings.norm())
        weights = torch.stack(rows, dim=1)
        transform = models.eval_transform(MODEL)
        logits, target = [], []
        for part, path in source.shards:
            places = data.index_shard(path, source.parts[part]).samples.places.tolist()
            for (start, size), label in places:
                content = path.read_bytes()
                picture = transform(Image.open(io.BytesIO(content[start : start + size])))
                features = torch.nn.functional.normalize(model.encode_image(picture[None]), dim=-1)
                logits.append((100 * features @ weights)[0].numpy())
                start, size = label
                target.append(int(content[start : start + size]))
    assert columns["target"].tolist() == target
    assert columns["top"].tolist() == np.argsort(-np.array(logits), axis=1)[:, :5].tolist()


def test_short_text_batches_equal_the_whole_context(encoder):
    texts = ["a", "a photo of a dog", "word " * 60, "a photo of a dog", "ünï"]
    tokenizer = models.tokenizer(MODEL)
    ways = Texts(tokenizer, lambda batches: map(encoder.tokens, batches))
    ours = ways.embed(texts)
    with torch.no_grad():
        whole = encoder.model.encode_text(tokenizer(texts), normalize=True).numpy()
    assert np.abs(ours - whole).max() < 1e-6
    assert np.array_equal(ours[1], ours[3])
    lists = [Words(classnames=("dog", "cat", "dog"), templates=("a {c}", "{c}", "a {c}")),
             Words(classnames=("cat",), templates=("{c}", "a {c}"))]  # fmt: skip
    first, second = ways.classifiers(lists)
    mean = ways.embed(["a dog", "dog", "a dog"]).mean(axis=0)
    assert np.allclose(first[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.array_equal(first[0], first[2])
    assert second.shape == (1, 128)


def test_twins_share_the_weights_and_may_answer_at_once(encoder):
    twin = encoder.twin()
    weights = {name: tensor.data_ptr() for name, tensor in encoder.model.state_dict().items()}
    assert weights == {name: tensor.data_ptr() for name, tensor in twin.model.state_dict().items()}
    tokenizer = models.tokenizer(MODEL)
    batches = [tokenizer(["word " * n])[:, : n + 2] for n in (3, 9, 27)] * 20
    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(lambda one: [one.tokens(batch).tobytes() for batch in batches], (encoder, twin))
    assert ours == theirs == ours[:3] * 20


def test_workers_and_devices_change_nothing(made, tmp_path):
    base, small = made
    keys = ["cifar10", "misc/winogavil"]
    alone = evaluate(base, small, tmp_path / "one", tasks=keys)
    assert evaluate(base, small, tmp_path / "two", tasks=keys, workers=2).digest == alone.digest
    assert evaluate(base, small, tmp_path / "devices", tasks=keys, device="cpu,cpu,cpu").digest == alone.digest


def test_an_evaluation_leaves_the_threads_of_torch_as_they_were(made, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        evaluate(*made, tmp_path / "out")
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_workers_of_an_executor_give_the_same(made, tmp_path):
    base, small = made
    whole = read_record(base / "out/evaluation.json", "evaluation")
    again = evaluate(base, small, tmp_path / "out", executor=executors.local(1))
    assert again.digest == whole.digest
    with pytest.raises(ArtifactError, match=r"none\.safetensors"):
        evaluate(base, small, tmp_path / "out", checkpoint=base / "none.safetensors", executor=executors.local(1))


DEADLY = """
import os, signal, sys
from pathlib import Path

data, checkpoint, out, kind = sys.argv[1:5]
sys.path.insert(0, {here!r})
from task_folders import small_suite
from harness import executor
from harness.eval.run import evaluate

mark = Path(out + ".died")
if kind == "ray":
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
base = {{"ray": executor.RayExecutor, "local": lambda: executor.local(2)}}[kind]()
plain = base._results

def results(fn, items, name, threads):
    def once(item):
        if name == "eval" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fn(item)
    return plain(once, items, name, threads)

base._results = results
if __name__ == "__main__":
    record = evaluate(model={model!r}, checkpoint=checkpoint, suite=small_suite({keys!r}), data_dir=data, out=out,
                      executor=base)
    base.close()
    Path(out + ".digest").write_text(record.digest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_killed_worker_changes_nothing(made, tmp_path, kind):
    if kind == "ray":
        pytest.importorskip("ray")
    base, _ = made
    script = tmp_path / "script.py"
    script.write_text(DEADLY.format(here=str(Path(__file__).parent), model=MODEL, keys=KEYS))
    there = [str(base / "data"), str(base / "0.safetensors"), str(tmp_path / "out"), kind]
    here = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[2])}
    done = subprocess.run([sys.executable, script, *there], capture_output=True, text=True, timeout=LONG, env=here)
    whole = read_record(base / "out/evaluation.json", "evaluation")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.died").exists()
    assert (tmp_path / "out.digest").read_text() == whole.digest


def job(number, samples, content):
    return Job(str(number), 0, len, samples, content)


def test_pieces_cost_about_the_same_and_keep_the_order():
    jobs = [job(n, 1 + n % 9, 10_000 * (n % 5) ** 3) for n in range(1000)]
    pieces = embedders.packed(jobs, 16)
    assert [one for piece in pieces for one in piece] == jobs
    costs = [sum(map(embedders.cost, piece)) for piece in pieces]
    assert max(costs) <= sum(costs) / 16 + max(map(embedders.cost, jobs))
    assert min(costs[:-1]) >= sum(costs) / 16
    assert len(pieces) <= 16
    assert max(map(len, embedders.packed(jobs, 1))) == embedders.MOST_JOBS
    assert embedders.packed([], 4) == []


def test_a_task_is_split_and_small_ones_share_a_piece():
    jobs = [job("large", 100, 1 << 20)] * 12 + [job(n, 1, 10) for n in range(50)]
    pieces = embedders.packed(jobs, 4)
    assert [len(piece) for piece in pieces[:3]] == [4, 4, 4]
    assert {one.task for one in pieces[0]} == {"large"} and len(pieces[3]) == 50
