"""Evaluation against the reference's order of work.

    python benchmarks/bench_eval.py tiny data=DIR          # clip-tiny on the 40 stand-in sets, scores compared
    python benchmarks/bench_eval.py large                  # ViT-B-32 at 224 pixels against bare decode and forward
    python benchmarks/bench_eval.py suite [shrink=20] [model=ViT-B-32]   # 40 sets of real proportions, for a GPU
    python benchmarks/bench_eval.py memory [samples=N,M]   # peak memory against the size of a task

The reference's way, re-created: for every task the model is loaded anew; one class a text forward; batches of 64 in
fp32, on a GPU texts and retrieval under fp16 autocast; tars read by webdataset in a DataLoader of 4 workers, a second
time for metadata; WinoGAViL one instance at a time, its pictures decoded again for each.
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
from contextlib import closing
from pathlib import Path

import made_tasks
import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.nn.functional import normalize

from harness import model as models
from harness.eval import data, metrics
from harness.eval.encoder import Encoder, devices
from harness.eval.kinds.winogavil import prompt
from harness.eval.metrics import padded
from harness.eval.run import evaluate
from harness.eval.source import TaskSource, load_job
from harness.eval.suite import load
from harness.eval.texts import Texts
from harness.executor import local

BATCH, WORKERS = 64, 4
IMAGE = ["webp", "png", "jpg", "jpeg"]


def pictures_of(model, batch, *, autocast=False):
    device = model.logit_scale.device
    with torch.autocast(device.type, torch.float16, enabled=autocast and device.type == "cuda"):
        return normalize(model.encode_image(batch.to(device)).float(), dim=-1)


def texts_of(model, tokens):
    device = model.logit_scale.device
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        return normalize(model.encode_text(tokens.to(device)).float(), dim=-1)


def classifier(model, tokenizer, words):
    rows = []
    for prompts in words.prompts():
        row = texts_of(model, tokenizer(prompts)).mean(dim=0)
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
        features = pictures_of(model, pictures)
        for found, weight in zip(logits, weights, strict=True):
            found.append((100.0 * features @ weight).cpu().numpy())
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
    images = []
    for i in range(0, len(pictures), BATCH):
        batch = torch.stack([transform(Image.open(io.BytesIO(content))) for content in pictures[i : i + BATCH]])
        images.append(pictures_of(model, batch, autocast=True).cpu())
    step = BATCH * 5
    texts = [texts_of(model, tokenizer(captions[i : i + step])).cpu() for i in range(0, len(captions), step)]
    return metrics.retrieval_columns(torch.cat(images).numpy(), torch.cat(texts).numpy(), np.array(index))


def winogavil(task, folder, model, transform, tokenizer):
    pictures = {name.partition(".")[0]: content for name, content in members(folder / "images")}
    chosen, wanted, candidates = [], [], []
    for _, content in members(folder / "test"):
        one = json.loads(content)
        shown = torch.stack([transform(Image.open(io.BytesIO(pictures[name]))) for name in one["candidates"]])
        scores = (texts_of(model, tokenizer([prompt(one["cue"])])) @ pictures_of(model, shown).T)[0].cpu().numpy()
        wanted.append(np.flatnonzero(np.isin(one["candidates"], one["associations"])))
        chosen.append(metrics.chosen(scores, len(wanted[-1])))
        candidates.append(len(shown))
    width = metrics.MAX_CANDIDATES
    return {"chosen": padded(chosen, width), "associated": padded(wanted, width), "candidates": np.array(candidates)}


@torch.no_grad()
def reference(suite, folder, name, checkpoint):
    """Main metric of each task and the seconds each took, the reference's way."""
    scores, seconds = {}, {}
    device = devices("auto")[0]
    ways = {"retrieval": retrieval, "winogavil": winogavil}
    for key, task in suite.tasks.items():
        started = time.perf_counter()
        model, tokenizer = models.load(name, checkpoint).to(device), models.tokenizer(name)
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


def processor():
    """Processor seconds of this process and its ended children: on a busy machine, wall time says little."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def large():
    """ViT-B-32: our whole evaluation against bare decode and forward of what must be computed once."""
    name, scratch = "ViT-B-32", Path(tempfile.mkdtemp())
    suite = made_tasks.classification(samples=96, tasks=4)
    made_tasks.make(scratch / "data", suite)
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


def real_proportions(shrink, name):
    """Sets with the proportions of the real ones: both ways, and how fast the workers alone would decode.

    Ours three times: in the first, a GPU still meets every shape of batch for the first time.
    """
    suite, scratch = made_tasks.shrunk(shrink), Path(tempfile.mkdtemp())
    made_tasks.make(scratch / "data", suite)
    checkpoint = scratch / "checkpoint.safetensors"
    models.save_safetensors(checkpoint, models.create(name).state_dict())
    sources = [TaskSource.open(task, scratch / "data") for task in suite.tasks.values()]
    for source in sources:
        source.take([data.index_shard(path, source.parts[part]) for part, path in source.shards])
    work = [(source, job) for source in sources for job in source.jobs(models.image_size(name), 96)]
    pictures = sum(job.samples for source, job in work if "image" in source.parts[job.part].needs)
    with closing(local()) as executor:
        executor.map(len, [[], []], name="start")
        started = time.perf_counter()
        for _ in executor.stream(load_job, [job for _, job in work], name="decode", quiet=True):
            pass
        limit = pictures / (time.perf_counter() - started)
    ours = []
    for number in range(3):
        started = time.perf_counter()
        record = evaluate(model=name, checkpoint=checkpoint, suite=suite, data_dir=scratch / "data",
                          out=scratch / f"out{number}")  # fmt: skip
        ours.append(time.perf_counter() - started)
    scores, seconds = reference(suite, scratch / "data", name, checkpoint)
    shutil.rmtree(scratch)
    fastest, theirs = min(ours), sum(seconds.values())
    largest = max(abs(score - record.payload["scores"][key]) for key, score in scores.items() if score is not None)
    print(f"{pictures:,} pictures, {devices('auto')[0]}: ours {', '.join(f'{one:.1f}' for one in ours)} s, "
          f"reference's way {theirs:.1f} s: {theirs / fastest:.1f} times")  # fmt: skip
    print(f"{pictures / fastest:,.0f} pictures/s, {pictures / fastest / limit:.0%} of the {limit:,.0f} that workers "
          f"decode alone; largest difference of a score {largest:.1e}")  # fmt: skip


def peak(suite, folder):
    """Peak memory in MB of a process that evaluates `suite`, and of the largest of its workers."""
    evaluate(model="clip-tiny", checkpoint=folder / "checkpoint.safetensors", suite=suite, data_dir=folder / "data",
             out=folder / "out")  # fmt: skip
    return [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def memory(sizes=(2_000, 20_000)):
    """Peak memory against the size of a task of small pictures, each in a process of its own."""
    for samples in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            suite = made_tasks.classification(samples=samples, tasks=1)
            made_tasks.make(Path(scratch) / "data", suite, (64, 48))
            models.save_safetensors(Path(scratch) / "checkpoint.safetensors", models.create("clip-tiny").state_dict())
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                found, worker = alone.submit(peak, suite, Path(scratch)).result()
        print(f"{samples:,} samples: {found:.0f} MB, a worker {worker:.0f} MB")


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[2:])
    if sys.argv[1:2] == ["tiny"]:
        tiny(Path(options["data"]), options.get("checkpoint"))
    elif sys.argv[1:2] == ["large"]:
        large()
    elif sys.argv[1:2] == ["suite"]:
        real_proportions(int(options.get("shrink", 20)), options.get("model", "ViT-B-32"))
    elif sys.argv[1:2] == ["memory"]:
        memory(*([map(int, options["samples"].split(","))] if "samples" in options else []))
    else:
        sys.exit(__doc__)
