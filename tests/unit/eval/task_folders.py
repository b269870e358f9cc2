"""Task folders of random pictures in the layout of the real ones, for tests."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from harness.eval.suite import Suite, Task, load

FACES = {"race": 7, "gender": 2, "age": 9, "toxic": 22}
FORMATS = ("png", "jpg", "webp", "jpeg")


def small_suite(keys, *, samples=24, classes=7, suite="v1"):
    """The real tasks with few samples and classes: every kind's rules at a size for tests."""
    tasks = {}
    for key in keys:
        task = load(suite).tasks[key]
        few = None if task.classes is None else min(classes, task.classes)
        tasks[key] = Task.model_validate({**task.model_dump(), "samples": samples, "classes": few, "source": None})
    return Suite(name="small", tasks=tasks)


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def picture(rng, *, extension="png", size=(37, 33), mode="RGB"):
    low = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(low).resize(size, Image.Resampling.BILINEAR).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "jpeg"}.get(extension, extension))
    return buffer.getvalue()


def metadata(rng, task, label):
    vector = [int(rng.integers(0, size)) if size else int(rng.integers(0, 9)) for size in task.metadata.values()]
    if "y" in task.metadata:
        vector[list(task.metadata).index("y")] = label
    return np.array(vector, dtype=np.int64)


def write_words(folder, task):
    if task.metrics == "fairness_faces":
        names = [f"{objective}:{objective} {i}" for objective, count in FACES.items() for i in range(count)]
        templates = [f"{objective}:a photo of {{c}}" for objective in FACES]
    else:
        names = [f"class {i} of {task.key}" if i % 2 else f"thing {i}" for i in range(task.classes)]
        templates = ["a photo of a {c}.", "a {c} in a long sentence about pictures.", "{c}"]
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_task(data_dir: Path, task: Task, *, seed=0, shards=2) -> Path:
    """The folder of `task` with random pictures, `shards` tars of each part."""
    rng = np.random.default_rng([seed, sum(task.key.encode())])
    folder = data_dir / task.folder
    samples: list[dict[str, bytes]] = []
    pictures: list[dict[str, bytes]] = []
    if task.kind == "winogavil":
        pictures = [{"jpg": picture(rng, extension="jpg")} for _ in range(40)]
        for i in range(task.samples):
            count = (5, 6, 10, 12)[i % 4]
            chosen = [f"{n:05d}" for n in rng.choice(40, count, replace=False)]
            samples.append({"json": json.dumps({
                "cue": ("Apple", "tree")[i % 2], "candidates": chosen, "associations": chosen[: 1 + i % 3],
            }).encode()})  # fmt: skip
    for i in range(0 if task.kind == "winogavil" else task.samples):
        extension = FORMATS[i % len(FORMATS)]
        members = {extension: picture(rng, extension=extension)}
        label = i % (task.classes or 7)
        if task.kind == "retrieval":
            members["json"] = json.dumps({"captions": [f"caption {j} of picture {i}" for j in range(5)]}).encode()
        elif task.metrics != "fairness_faces":
            members["cls"] = str(label).encode()
        if task.metadata:
            members["npy"] = npy(metadata(rng, task, label))
        samples.append(members)
    write_part(folder / "test", samples, shards)
    if pictures:
        write_part(folder / "images", pictures, shards)
    if task.kind not in ("retrieval", "winogavil"):
        write_words(folder, task)
    return folder


def write_part(folder: Path, samples: list[dict[str, bytes]], shards: int) -> None:
    folder.mkdir(parents=True)
    keys = [f"{i:05d}" for i in range(len(samples))]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for key, members in list(zip(keys, samples, strict=True))[shard::shards]:
                for extension, content in members.items():
                    add(tar, f"{key}.{extension}", content)
    (folder / "nshards.txt").write_text(f"{shards}\n")
