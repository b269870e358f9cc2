"""Task sets of random JPEGs in the layout of the real ones, for the benchmarks: every kind, of any size.

Pictures come from a bank of a few, decoded as often as they occur; their classes and captions mean nothing.
"""

import io
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

from harness.eval import data
from harness.eval.metrics import OBJECTIVES
from harness.eval.suite import Suite, Task, load

BANK = 32
PER_TAR = 1_000
FACES = (7, 2, 9, 22)
"""Classes of each of OBJECTIVES."""
CAPTIONS = 5
CANDIDATES = (5, 6, 10, 12)
"""Of WinoGAViL's instances, in turn."""
USUAL = (500, 375)
SIZES = {
    "mnist": 28, "cifar10": 32, "vtab/cifar100": 32, "vtab/svhn": 32, "gtsrb": 50, "vtab/eurosat": 64, "vtab/pcam": 96,
    "stl10": 96, "wilds/camelyon17": 96, "wilds/fmow": 224, "vtab/resisc45": 256, "renderedsst2": 448,
}  # fmt: skip
"""Sides of the sets with square pictures of one size, as they were published; the others' are as USUAL, about."""
MANY, FEW = 80, 4
"""Templates of ImageNet and its shifts, and of another set, about."""


def classification(*, samples: int, tasks: int) -> Suite:
    """A suite of sets with 20 classes each."""
    keys = [f"generated{number}" for number in range(tasks)]
    return Suite(name="generated", tasks={
        key: Task(key=key, name="generated", kind="classification", metrics="classification", samples=samples,
                  classes=20, main_metric="acc1", chance=0.05, scored=True, version=1)
        for key in keys
    })  # fmt: skip


def shrunk(times: int) -> Suite:
    """The 40 real tasks with so many times fewer samples and classes."""
    tasks = {}
    for key, task in load("v1").tasks.items():
        fewer = {"samples": max(task.samples // times, 16), "classes": task.classes and max(task.classes // times, 2)}
        tasks[key] = task.model_copy(update=fewer)
    return Suite(name=f"v1 shrunk {times} times", tasks=tasks)


def bank(rng: np.random.Generator, size: tuple[int, int]) -> list[bytes]:
    """Encoded pictures of about the bytes a pixel that photographs have."""
    found = []
    for _ in range(BANK):
        low = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(low.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = (pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "jpeg", quality=90)
        found.append(buffer.getvalue())
    return found


def make(folder: Path, suite: Suite, size: tuple[int, int] | None = None) -> None:
    """The sets of `suite` in `folder`, their pictures of one size or each set's of its own."""
    for task in suite.tasks.values():
        rng = np.random.default_rng(sum(task.key.encode()))
        side = SIZES.get(task.key)
        pictures = bank(rng, size or ((side, side) if side else USUAL))
        place = folder / task.folder
        samples = [members(task, number, pictures[number % BANK], rng) for number in range(task.samples)]
        write(place / "test", samples)
        if task.kind == "winogavil":
            write(place / "images", [{"jpg": pictures[number % BANK]} for number in range(task.samples)])
        elif task.kind != "retrieval":
            names, templates = words(task)
            (place / data.CLASSNAMES).write_text("".join(f"{name}\n" for name in names))
            (place / data.TEMPLATES).write_text("".join(f"{text}\n" for text in templates))


def words(task: Task) -> tuple[list[str], list[str]]:
    """Class names and templates."""
    if task.metrics == "fairness_faces":
        names = [f"{o}:{o} {i}" for o, classes in zip(OBJECTIVES, FACES, strict=True) for i in range(classes)]
        return names, [f"{o}:a photo of {{c}}" for o in OBJECTIVES]
    templates = MANY if task.group in ("imagenet", "shifts") else FEW
    names = [f"kind of thing {i}" for i in range(task.classes)]
    return names, [f"a photo number {i} of a {{c}}." for i in range(templates)]


def members(task: Task, number: int, picture: bytes, rng: np.random.Generator) -> dict:
    """One sample."""
    if task.kind == "winogavil":
        chosen = rng.choice(task.samples, CANDIDATES[number % len(CANDIDATES)], replace=False)
        names = [f"{i:07d}" for i in chosen]
        return {"json": {"cue": f"cue {number}", "candidates": names, "associations": names[: 1 + number % 3]}}
    if task.kind == "retrieval":
        return {"jpg": picture, "json": {"captions": [f"caption {i} of picture {number}" for i in range(CAPTIONS)]}}
    label = number % (task.classes or 2)
    values = {name: label if name == "y" else rng.integers(values or 9) for name, values in task.metadata.items()}
    vector = {"npy": np.array(list(values.values()), dtype=np.int64)} if values else {}
    return {"jpg": picture, **vector} if task.classes is None else {"jpg": picture, "cls": label, **vector}


def write(place: Path, samples: list[dict]) -> None:
    """A part's tars."""
    place.mkdir(parents=True)
    tars = range(0, len(samples), PER_TAR)
    for number, start in enumerate(tars):
        with wds.TarWriter(str(place / f"{number}.tar")) as tar:
            for i, sample in enumerate(samples[start : start + PER_TAR], start):
                tar.write({"__key__": f"{i:07d}", **sample})
    (place / "nshards.txt").write_text(f"{len(tars)}")
