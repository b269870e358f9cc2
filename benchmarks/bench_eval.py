"""Evaluation against the reference's order of work.

    python benchmarks/bench_eval.py tiny data=DIR          # clip-tiny on the 40 stand-in sets, scores compared
    python benchmarks/bench_eval.py large                  # ViT-B-32 at 224 pixels against bare decode and forward
    python benchmarks/bench_eval.py memory [samples=N,M]   # peak memory against the size of a task

The reference's way, re-created: for every task the model is loaded anew; one class a text forward; batches of 64 in
fp32; tars read by webdataset in a DataLoader of 4 workers, a second time for metadata; WinoGAViL one instance at a
time, its pictures decoded again for each.
"""

import io
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.nn.functional import normalize

from harness import model as models
from harness.eval import data, metrics
from harness.eval.encoder import Encoder
from harness.eval.kinds.winogavil import prompt
from harness.eval.metrics import padded
from harness.eval.run import evaluate
from harness.eval.source import TaskSource, load_job
from harness.eval.suite import Suite, Task, load
from harness.eval.texts import Texts
from harness.executor import local

BATCH, WORKERS = 64, 4
IMAGE = ["webp", "png", "jpg", "jpeg"]


def classifier(model, tokenizer, words):
    rows = []
    for prompts in words.prompts():
        row = normalize(model.encode_text(tokenizer(prompts)), dim=-1).mean(dim=0)
        rows.append(row / row.norm())
    return torch.stack(rows, dim=1)


def loader(shards, *fields, decode=True):
    dataset = wds.WebDataset([str(path) for path in shards], shardshuffle=False, nodesplitter=lambda source: source)
    if decode:
        dataset = dataset.decode(wds.autodecode.ImageHandler("pilrgb", extensions=IMAGE))
    return dataset.to_tuple(*fields)


def batches(dataset):
    return torch.utils.data.DataLoader(dataset.batched(BATCH), batch_size=None, num_workers=WORKERS)


def classification(task, folder, model, transform, tokenizer):
    source = TaskSource.open(task, folder.parent)
    shards = [path for _, path in source.shards]
    faces = task.metrics == "fairness_faces"
    lists = [source.words.of_objective(o) for o in metrics.OBJECTIVES] if faces else [source.words]
    weights = [classifier(model, tokenizer, words) for words in lists]
    logits, labels = [[] for _ in weights], []
    for pictures, label in batches(loader(shards, IMAGE, "npy" if faces else "cls").map_tuple(transform, None)):
        features = normalize(model.encode_image(pictures), dim=-1)
        for found, weight in zip(logits, weights, strict=True):
            found.append((100.0 * features @ weight).numpy())
        labels.append(np.asarray(label))
    tops = [metrics.best(np.concatenate(found), metrics.TOP_CLASSES) for found in logits]
    if faces:
        return {"predicted": np.stack([top[:, 0] for top in tops], 1), "metadata": np.concatenate(labels)}
    columns = {"top": tops[0], "target": np.concatenate(labels)}
    if task.metadata:
        columns["metadata"] = np.concatenate([np.asarray(m) for _, m in batches(loader(shards, "cls", "npy"))])
    return columns


def members(folder):
    for path in sorted(folder.glob("*.tar"), key=lambda path: int(path.stem)):
        with tarfile.open(path) as tar:
            for member in tar:
                yield member.name, tar.extractfile(member).read()


def retrieval(task, folder, model, transform, tokenizer):
    pictures, captions, index = [], [], []
    for name, content in members(folder / "test"):
        if name.endswith(".json"):
            texts = json.loads(content)["captions"]
            index += [len(pictures) - 1] * len(texts)
            captions += texts
        else:
            pictures.append(content)
    images = [
        normalize(
            model.encode_image(torch.stack([transform(Image.open(io.BytesIO(c))) for c in pictures[i : i + BATCH]])),
            dim=-1,
        )
        for i in range(0, len(pictures), BATCH)
    ]
    step = BATCH * 5
    texts = [
        normalize(model.encode_text(tokenizer(captions[i : i + step])), dim=-1) for i in range(0, len(captions), step)
    ]
    return metrics.retrieval_columns(torch.cat(images).numpy(), torch.cat(texts).numpy(), np.array(index))


def winogavil(task, folder, model, transform, tokenizer):
    pictures = {name.partition(".")[0]: content for name, content in members(folder / "images")}
    chosen, wanted, candidates = [], [], []
    for _, content in members(folder / "test"):
        one = json.loads(content)
        shown = torch.stack([transform(Image.open(io.BytesIO(pictures[name]))) for name in one["candidates"]])
        scores = (normalize(model.encode_text(tokenizer([prompt(one["cue"])])), dim=-1)
                  @ normalize(model.encode_image(shown), dim=-1).T)[0].numpy()  # fmt: skip
        wanted.append(np.flatnonzero(np.isin(one["candidates"], one["associations"])))
        chosen.append(metrics.chosen(scores, len(wanted[-1])))
        candidates.append(len(shown))
    width = metrics.MAX_CANDIDATES
    return {"chosen": padded(chosen, width), "associated": padded(wanted, width), "candidates": np.array(candidates)}


@torch.no_grad()
def reference(suite, folder, name, checkpoint):
    """Main metric of each task and the seconds each took, the reference's way."""
    scores, seconds = {}, {}
    ways = {"retrieval": retrieval, "winogavil": winogavil}
    for key, task in suite.tasks.items():
        started = time.perf_counter()
        model, tokenizer = models.load(name, checkpoint), models.tokenizer(name)
        transform = models.eval_transform(name, rgb_first=False)  # pictures of webdataset tasks come as RGB
        columns = ways.get(task.kind, classification)(task, folder / task.folder, model, transform, tokenizer)
        values, _ = metrics.evaluate(task.metrics, columns)
        scores[key] = None if task.main_metric is None else values[task.main_metric]
        seconds[key] = time.perf_counter() - started
    return scores, seconds


def tiny(folder, checkpoint=None):
    """Both ways over the stand-ins."""
    suite, name = load("tiny"), "clip-tiny"
    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint is None:
            checkpoint = Path(scratch) / "checkpoint.safetensors"
            models.save_safetensors(checkpoint, models.create(name).state_dict())
        started = time.perf_counter()
        record = evaluate(model=name, checkpoint=checkpoint, suite=suite, data_dir=folder, out=Path(scratch) / "out")
        ours = time.perf_counter() - started
        scores, seconds = reference(suite, folder, name, checkpoint)
    theirs = sum(seconds.values())
    differ = {key: (score, record.payload["scores"][key]) for key, score in scores.items()
              if score != record.payload["scores"][key]}  # fmt: skip
    print(f"ours {ours:.1f} s, reference's way {theirs:.1f} s: {theirs / ours:.1f} times")
    print(f"scores that differ: {differ or 'none'}")


def generated(folder, samples=96, tasks=4, size=(500, 375)):
    """Classification sets of JPEGs with ImageNet-like prompts: 20 classes, 5 templates, shared words."""
    rng = np.random.default_rng(0)
    made = {}
    for number in range(tasks):
        task = Task(key=f"generated{number}", name="generated", kind="classification", metrics="classification",
                    samples=samples, classes=20, main_metric="acc1", chance=0.05, scored=True, version=1)  # fmt: skip
        place = folder / task.folder / "test"
        place.mkdir(parents=True)
        with tarfile.open(place / "0.tar", "w") as tar:
            for i in range(samples):
                low = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
                buffer = io.BytesIO()
                low.resize(size, Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=90)
                for extension, content in (("jpg", buffer.getvalue()), ("cls", str(i % 20).encode())):
                    member = tarfile.TarInfo(f"{i:05d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        (place / "nshards.txt").write_text("1")
        (place.parent / data.CLASSNAMES).write_text("".join(f"kind of thing {i}\n" for i in range(20)))
        (place.parent / data.TEMPLATES).write_text("".join(f"a photo number {i} of a {{c}}.\n" for i in range(5)))
        made[task.key] = task
    return Suite(name="generated", tasks=made)


def processor():
    """Processor seconds of this process and its ended children: on a busy machine, wall time says little."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def large():
    """ViT-B-32: our whole evaluation against bare decode and forward of what must be computed once."""
    name, scratch = "ViT-B-32", Path(tempfile.mkdtemp())
    suite = generated(scratch / "data")
    checkpoint = scratch / "checkpoint.safetensors"
    models.save_safetensors(checkpoint, models.create(name).state_dict())
    encoder = Encoder(name, checkpoint, device="cpu", precision="fp32")
    encoder.model = models.load(name, checkpoint)  # bare: as open_clip has it, not through oneDNN
    sources = [TaskSource.open(task, scratch / "data") for task in suite.tasks.values()]
    for source in sources:
        source.take([data.index_shard(path, source.parts[part]) for part, path in source.shards])
    jobs = [job for source in sources for job in source.jobs(224, 96)]
    executor = local()
    executor.map(len, [[], []], name="start")
    started, before = time.perf_counter(), processor()
    chunks = list(executor.stream(load_job, jobs, name="decode", quiet=True))
    decode = time.perf_counter() - started
    executor.close()
    started = time.perf_counter()
    for chunk in chunks:
        encoder.images(chunk.images)
    images = time.perf_counter() - started
    started = time.perf_counter()
    prompts = sources[0].words.prompts()
    tokenizer = models.tokenizer(name)
    Texts(tokenizer, lambda batches: map(encoder.tokens, batches)).embed([text for texts in prompts for text in texts])
    texts = time.perf_counter() - started
    between = processor()
    started = time.perf_counter()
    with torch.inference_mode():
        one_by_one = tokenizer(prompts[0])
        encoder.model.encode_text(one_by_one)
    whole_context = (time.perf_counter() - started) * len(prompts) * len(sources)
    floor, floor_processor = decode + images + texts, between - before
    started, before = time.perf_counter(), processor()
    evaluate(model=name, checkpoint=checkpoint, suite=suite, data_dir=scratch / "data", out=scratch / "out")
    ours, ours_processor = time.perf_counter() - started, processor() - before
    shutil.rmtree(scratch)
    ratio = ours_processor / floor_processor
    print(f"processor seconds: {floor_processor:.1f} bare, {ours_processor:.1f} ours: {ratio:.2f} times")
    print(f"decode {decode:.1f} s + pictures {images:.1f} s + texts {texts:.1f} s = {floor:.1f} s; ours {ours:.1f} s: "
          f"{ours / floor:.2f} times")  # fmt: skip
    print(
        f"saved on text: {whole_context:.1f} s the reference's way (whole context, each task anew), {texts:.1f} s ours"
    )


def peak(samples):
    """Peak memory in MB of a process that evaluates one task of so many small pictures with the tiny model."""
    scratch = Path(tempfile.mkdtemp())
    suite = generated(scratch / "data", samples, 1, (64, 48))
    models.save_safetensors(scratch / "checkpoint.safetensors", models.create("clip-tiny").state_dict())
    evaluate(model="clip-tiny", checkpoint=scratch / "checkpoint.safetensors", suite=suite, data_dir=scratch / "data",
             out=scratch / "out")  # fmt: skip
    shutil.rmtree(scratch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(sizes=(2_000, 20_000)):
    """Peak memory against the size of a task, each in a process of its own."""
    for samples in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            print(f"{samples:,} samples: {alone.submit(peak, samples).result():.0f} MB")


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[2:])
    if sys.argv[1:2] == ["tiny"]:
        tiny(Path(options["data"]), options.get("checkpoint"))
    elif sys.argv[1:2] == ["large"]:
        large()
    elif sys.argv[1:2] == ["memory"]:
        memory(*([map(int, options["samples"].split(","))] if "samples" in options else []))
    else:
        sys.exit(__doc__)
