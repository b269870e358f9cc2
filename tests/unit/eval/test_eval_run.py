"""A whole evaluation on a small suite with a real model: resume, caches, failures, recomputation, conversion."""

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from task_folders import small_suite, write_task

from harness import compare, convert, holdout, rescore
from harness import executor as executors
from harness import model as models
from harness.errors import ArtifactError, ConfigError, StageError
from harness.eval import embedders, predictions, report, results, run, suite
from harness.eval.data import Words
from harness.eval.encoder import Encoder, devices
from harness.eval.source import Job
from harness.eval.texts import Texts
from harness.records import Record, read_record, write_record

KEYS = (
    "cifar10", "vtab/pcam", "retrieval/flickr_1k_test_image_text_retrieval", "misc/winogavil", "wilds/iwildcam",
    "wilds/camelyon17", "wilds/fmow", "fairness/dollar_street", "fairness/geode", "fairness/utkface",
)  # fmt: skip
MODEL = "clip-tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, two checkpoints and one finished evaluation."""
    base = tmp_path_factory.mktemp("evaluation")
    small = small_suite(KEYS)
    for task in small.tasks.values():
        write_task(base / "data", task)
    for seed in (0, 1):
        models.save_safetensors(base / f"{seed}.safetensors", models.create(MODEL, seed=seed).state_dict())
    evaluate(base, small, base / "out")
    return base, small


def evaluate(base, small, out, **more):
    how = {"model": MODEL, "checkpoint": base / "0.safetensors", "data_dir": base / "data", "workers": 1, **more}
    return run.evaluate(suite=small, out=out, **how)


@pytest.fixture
def encoder(made):
    return Encoder(MODEL, made[0] / "0.safetensors", device="cpu", precision="fp32")


def test_every_task_has_a_record_and_predictions(made):
    base, small = made
    evaluation, records = results.read(base / "out")
    assert set(records) == set(KEYS)
    assert evaluation.payload["complete"] and not evaluation.payload["missing"]
    assert not list((base / "out").glob(".classifiers*"))
    for key, record in records.items():
        payload, task = record.payload, small.tasks[key]
        assert payload["samples"] == task.samples
        assert (payload["score"] is None) == (not task.scored)
        if task.scored:
            low, high = payload["interval"]
            assert 0 <= low <= payload["score"] <= high <= 1
            assert payload["metrics"][task.main_metric] == payload["score"]
        assert not any(name.startswith("count") for name in payload["metrics"])
    assert records["vtab/pcam"].payload["metrics"]["acc5"] is None


def test_scores_are_those_of_the_plain_way(made, encoder):
    """The reference's order of work: one class a text forward, the whole context, one picture transform at a time."""
    base, small = made
    task = small.tasks["cifar10"]
    _, columns = predictions.read(results.predictions_place(base / "out", task))
    from harness.eval import data
    from harness.eval.source import TaskSource

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
                import io

                from PIL import Image

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


def test_a_second_run_does_nothing_and_says_the_same(made, monkeypatch):
    base, small = made
    monkeypatch.setattr(embedders, "Encoder", lambda *a, **k: pytest.fail("the model was loaded"))
    before = {path: path.stat().st_mtime_ns for path in (base / "out").glob("*.json")}
    again = evaluate(base, small, base / "out")
    assert again.digest == read_record(base / "out/evaluation.json", "evaluation").digest
    assert before == {path: path.stat().st_mtime_ns for path in (base / "out").glob("*.json")}


def test_what_was_lost_is_made_again_and_equal(made, tmp_path):
    base, small = made
    out = shutil.copytree(base / "out", tmp_path / "out")
    whole = read_record(out / "evaluation.json", "evaluation").digest
    (out / "evaluation.json").unlink()
    (out / "cifar10.json").unlink()
    (out / "misc-winogavil.json").write_text("{}")
    (out / "predictions/wilds-fmow.parquet").write_bytes(b"PAR1 cut short")
    keys, columns = predictions.read(out / "predictions/fairness-geode.parquet")
    columns["top"] = columns["top"] ^ 1
    predictions.write(out / "predictions/fairness-geode.parquet", keys, columns)
    assert evaluate(base, small, out).digest == whole


def test_another_checkpoint_or_precision_is_evaluated_anew(made, tmp_path):
    base, small = made
    out = shutil.copytree(base / "out", tmp_path / "out")
    first = evaluate(base, small, out, tasks=["cifar10"])
    assert first.payload["complete"]
    other = evaluate(base, small, out, checkpoint=base / "1.safetensors", tasks=["cifar10"])
    assert not other.payload["complete"]
    assert list(other.payload["scores"]) == ["cifar10"]
    half = evaluate(base, small, out, precision="amp_bfloat16", tasks=["cifar10"])
    assert half.payload["precision"] == "amp_bfloat16"
    assert half.payload["results"]["cifar10"] != first.payload["results"]["cifar10"]


def test_changed_data_or_task_are_evaluated_anew(made, tmp_path):
    base, small = made
    out, data = shutil.copytree(base / "out", tmp_path / "out"), shutil.copytree(base / "data", tmp_path / "data")
    before = read_record(out / "cifar10.json", "task")
    place = data / small.tasks["cifar10"].folder / "classnames.txt"
    place.write_text(place.read_text().replace("thing 0", "thing zero"))
    record = evaluate(base, small, out, data_dir=data)
    after = read_record(out / "cifar10.json", "task")
    assert after.inputs["data"] != before.inputs["data"]
    assert record.payload["results"]["cifar10"] == after.digest


def test_one_bad_task_fails_alone(made, tmp_path, capfd):
    base, small = made
    data = shutil.copytree(base / "data", tmp_path / "data")
    (data / small.tasks["wilds/fmow"].folder / "test/nshards.txt").unlink()
    tar = data / small.tasks["cifar10"].folder / "test/1.tar"
    tar.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(StageError, match=r"2 of 10 tasks failed.*incomplete") as caught:
        evaluate(base, small, tmp_path / "out", data_dir=data)
    assert "wilds/fmow" in str(caught.value) and "nshards.txt" in str(caught.value)
    evaluation, records = results.read(tmp_path / "out")
    assert evaluation.payload["complete"] is False
    assert evaluation.payload["missing"] == ["cifar10", "wilds/fmow"]
    assert len(records) == 8
    assert evaluation.payload["aggregates"]["average"] is None
    assert "incomplete: no result of cifar10" in report.table(tmp_path / "out", small)


def test_a_part_of_the_suite_grows_into_the_whole(made, tmp_path):
    base, small = made
    part = evaluate(base, small, tmp_path / "out", tasks=["misc/winogavil"])
    assert part.payload["complete"] is False
    assert len(part.payload["missing"]) == 9
    assert evaluate(base, small, tmp_path / "out").payload["complete"]
    with pytest.raises(ConfigError, match="misc/winogavil"):
        evaluate(base, small, tmp_path / "out", tasks=["misc/winogavill"])
    with pytest.raises(ArtifactError, match=r"none\.safetensors"):
        evaluate(base, small, tmp_path / "out", checkpoint=base / "none.safetensors")


def test_embeddings_that_are_no_numbers_are_no_answer(made, tmp_path):
    # Their order would be one, and the score of a task with two classes that of chance.
    base, small = made
    for part in ("visual.proj", "text_projection"):
        state = models.create(MODEL, seed=0).state_dict()
        state[part][0, 0] = float("nan")
        models.save_safetensors(tmp_path / "broken.safetensors", state)
        with pytest.raises(StageError, match=r"broken\.safetensors: .* not finite"):
            evaluate(base, small, tmp_path / "out", checkpoint=tmp_path / "broken.safetensors", tasks=["vtab/pcam"])
        assert not list((tmp_path / "out").glob("*.json"))


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
    done = subprocess.run([sys.executable, script, *there], capture_output=True, text=True, timeout=600, env=here)
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


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices("auto") == devices("all") == ["cpu"]
    assert devices("cpu, cpu") == ["cpu", "cpu"]
    for name, said in (("gpu", "'gpu' is no device"), ("cuda", "no cuda"), ("cpu,cuda:1", "no cuda:1")):
        with pytest.raises(ConfigError, match=said):
            devices(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices("all") == ["cuda:0", "cuda:1"] and devices("auto") == ["cuda"]
    with pytest.raises(ConfigError, match="no cuda:2"):
        devices("cuda:2")


@pytest.fixture
def known_suite(made, monkeypatch):
    """The small suite under a name that the commands find."""
    for module in (suite, holdout):
        monkeypatch.setattr(module, "load", lambda name: made[1])


def test_rescore_recomputes_everything_without_the_model(made, tmp_path, known_suite, capsys):
    base, _ = made
    assert rescore.command([f"run_dir={base / 'out'}"]) == 0
    assert "all equal" in capsys.readouterr().out
    out = shutil.copytree(base / "out", tmp_path / "run/eval")
    keys, columns = predictions.read(out / "predictions/wilds-camelyon17.parquet")
    columns["top"] = np.repeat(columns["target"][:, None], 5, axis=1)
    predictions.write(out / "predictions/wilds-camelyon17.parquet", keys, columns)
    assert rescore.command([f"run_dir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().out
    assert "wilds/camelyon17" in next(line for line in said.splitlines() if "DIFFERS" in line)
    assert "1.000000 recomputed" in said
    (out / "predictions/wilds-camelyon17.parquet").unlink()
    with pytest.raises(ArtifactError, match="camelyon17"):
        rescore.rescore(out)


def test_the_reference_s_file_goes_both_ways(made, tmp_path, known_suite, capsys):
    base, small = made
    place = tmp_path / "eval_results.jsonl"
    convert.command([f"run_dir={base / 'out'}", f"out={place}"])
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["key"] for line in lines] == list(KEYS)
    assert lines[5]["metrics"]["count_slide:0"] == 0.0
    assert lines[5]["metrics"]["acc5"] is None and math.isnan(lines[5]["metrics"]["acc_slide:0"])
    read = convert.from_reference(place, small)
    _, records = results.read(base / "out")
    for key, record in records.items():
        assert read[key].pop("main_metric") == record.payload["score"]
        assert read[key] == record.payload["metrics"] | record.payload["counts"]
    convert.command([f"results={place}"])
    assert "average" in capsys.readouterr().out
    with pytest.raises(ConfigError):
        convert.command([])


def test_what_an_incomplete_evaluation_lacks_is_said(made, tmp_path, known_suite, capsys):
    base, _ = made
    shutil.copytree(base / "out", tmp_path / "out")
    place = tmp_path / "out" / results.EVALUATION
    record = read_record(place, "evaluation")
    there = {key: digest for key, digest in record.payload["results"].items() if key not in ("cifar10", "vtab/pcam")}
    write_record(place, record.model_copy(update={"payload": record.payload | {"results": there}}))
    convert.command([f"run_dir={tmp_path / 'out'}", f"out={tmp_path / 'eval_results.jsonl'}"])
    assert "holds 8 of 10 tasks" in (said := capsys.readouterr().err)
    assert "missing: cifar10, vtab/pcam" in said
    keys = [json.loads(line)["key"] for line in (tmp_path / "eval_results.jsonl").read_text().splitlines()]
    assert keys == [key for key in KEYS if key in there]


def test_held_out_pairs_are_no_results_of_the_reference(tmp_path):
    payload = {"suite": holdout.KEY, "results": {}}
    write_record(tmp_path / results.EVALUATION, Record(kind="evaluation", payload=payload))
    with pytest.raises(ConfigError, match=r"held-out pairs.*give an evaluation of tasks"):
        convert.command([f"run_dir={tmp_path}", f"out={tmp_path / 'eval_results.jsonl'}"])
    assert not (tmp_path / "eval_results.jsonl").exists()


@pytest.mark.parametrize("line", [
    "{", "[]", '{"key": "cifar10"}', '{"key": "cifar99", "metrics": {"main_metric": 0.5}}',
    '{"key": "cifar10", "metrics": {"main_metric": 1.5}}', '{"key": "cifar10", "metrics": {"main_metric": null}}',
    '{"key": "cifar10", "metrics": {"main_metric": "x"}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5, "acc1": 0.4}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5}}\n{"key": "cifar10", "metrics": {"main_metric": 0.5}}',
    '{"key": "fairness/utkface", "metrics": {"main_metric": 0.5}}', '{"key": "cifar10", "metrics": []}',
    '{"key": [], "metrics": {}}', '{"key": {}, "metrics": {"main_metric": 0.5}}', '{"key": null, "metrics": {}}',
    '{"key": "cifar10", "metrics": {"main_metric": 0.5, "acc1": 1' + "0" * 400 + "}}",
])  # fmt: skip
def test_a_stranger_s_results_are_not_trusted(tmp_path, line):
    place = tmp_path / "eval_results.jsonl"
    place.write_text(line + "\n")
    with pytest.raises(ArtifactError, match="line"):
        convert.from_reference(place, suite.load("v1"))


def test_nan_of_the_reference_reads_as_none(tmp_path):
    place = tmp_path / "eval_results.jsonl"
    place.write_text(
        '{"key": "cifar10", "dataset": "CIFAR-10", "metrics": {"main_metric": 0.5, "acc1": 0.5, "x": NaN}}\n'
    )
    assert convert.from_reference(place, suite.load("v1"))["cifar10"]["x"] is None


def test_compare_shows_two_runs(made, tmp_path, known_suite, capsys):
    base, small = made
    other = tmp_path / "other" / "eval"
    evaluate(base, small, other, checkpoint=base / "1.safetensors")
    chart = tmp_path / "chart.png"
    compare.command([str(base / "out"), str(tmp_path / "other"), f"out={chart}"])
    said = capsys.readouterr().out
    assert "cifar10" in said and "±" in said
    assert chart.read_bytes().startswith(b"\x89PNG")
    compare.command([str(base / "out"), "task=cifar10", f"eval.data_dir={base / 'data'}"])
    assert "worst" in capsys.readouterr().out
    half = tmp_path / "half"
    evaluate(base, small, half, precision="amp_bfloat16", tasks=["cifar10"])
    with pytest.raises(ConfigError, match="precision amp_bfloat16, others fp32; not comparable"):
        compare.command([str(base / "out"), str(half)])
    with pytest.raises(ConfigError, match="colour"):
        compare.command([str(base / "out"), "colour=red"])
    with pytest.raises(ArtifactError, match=r"evaluation\.json"):
        compare.command([str(tmp_path)])
