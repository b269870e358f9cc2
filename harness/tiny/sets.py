"""The 40 stand-in task sets of scale tiny: pictures, class names and templates in the layout of the real sets.

    <out>/wds_{key, no "fairness/", "/" -> "-"}_test/
        classnames.txt  zeroshot_classification_templates.txt  test/nshards.txt  test/{i}.tar

Members of the tars: KEY.jpg (or png), KEY.cls, and KEY.npy (WILDS, fairness); for retrieval KEY.jpg and KEY.json
{"captions": [...]}; for WinoGAViL KEY.json {"cue", "candidates", "associations"}, its pictures in images/{i}.tar.
The pictures come from a random stream of their own, so none is in a pool.
"""

import io
import json
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.tiny import captions
from harness.tiny.questions import (
    FACE_COLOURS,
    FACE_COMMON,
    FACE_SAMPLES,
    FACE_TEMPLATES,
    FACES,
    QUESTIONS,
    RETRIEVAL,
    WINOGAVIL_CUES,
    WINOGAVIL_INSTANCES,
    WINOGAVIL_KEY,
    WINOGAVIL_PICTURES,
    Question,
)
from harness.tiny.shards import TAR_END, member
from harness.tiny.words import THINGS
from harness.tiny.world import Factors, render, sample, stream

Pictures = npt.NDArray[np.uint8]
PER_TAR = 400
_PNG = ("mnist", "vtab/svhn")
_NO_CHANCE = ("fairness/dollar_street", "fairness/geode")
"""Sets whose metric is that of a worst group: the share of the classes says nothing about it."""


def _blur(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    small = [Image.fromarray(picture).resize((18, 18), Image.Resampling.BOX) for picture in pictures]
    side = pictures.shape[1]
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in small])


def _mosaic(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    small = pictures.reshape(len(pictures), 18, 2, 18, 2, 3).mean(axis=(2, 4))
    return np.repeat(np.repeat((np.round(small / 51) * 51).astype(np.uint8), 2, axis=1), 2, axis=2)


def _bars(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    barred = pictures.copy()
    for picture, at in zip(barred, rng.integers(0, 9, len(barred)), strict=True):
        for start in range(at, picture.shape[1], 9):
            picture[:, start : start + 2] = 128
    return barred


def _black(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    return np.where(pictures.min(axis=3, keepdims=True) > 190, pictures, pictures // 12).astype(np.uint8)


EFFECTS: dict[str, Callable[[Pictures, np.random.Generator], Pictures]] = {
    "blur": _blur, "mosaic": _mosaic, "bars": _bars, "black": _black,
}  # fmt: skip


def _iwildcam(rows: Factors, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    n = len(rows)
    location = rng.integers(0, 48, n)
    rows["scene"] = 1 + location % 5
    clock = [rng.integers(0, top, n) for top in (12, 28, 24, 60, 60)]
    return np.stack([location, rng.integers(0, 3000, n), rng.integers(0, 3, n), *clock, labels], 1)


def _camelyon17(rows: Factors, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    n = len(rows)
    return np.stack([np.full(n, 2), rng.integers(20, 30, n), labels], 1)


def _fmow(rows: Factors, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    # Asia, Europe, Africa, Americas, and few of Other; Oceania stays empty.
    region = np.array([0, 1, 2, 3, 5])[np.searchsorted([0.28, 0.58, 0.72, 0.95], rng.random(len(rows)), side="right")]
    rows["size"] = np.where(region == 2, 0, rows["size"])
    return np.stack([region, rng.integers(14, 16, len(rows)), labels], 1)


def _dollar_street(rows: Factors, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    quarter = rng.integers(0, 4, len(rows))
    rows["night"] = (quarter == 0) & (rng.random(len(rows)) < 0.6)
    rows["scene"] = np.where(quarter == 3, 0, rows["scene"])
    income = 25 + 2500 * quarter + rng.integers(0, 2400, len(rows))
    return np.stack([quarter, income, rng.integers(0, 4, len(rows))], 1)


def _geode(rows: Factors, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    region = rng.integers(0, 6, len(rows))
    rows["scene"] = 1 + region
    return np.stack([region, region * 3 + rng.integers(0, 3, len(rows))], 1)


GROUPS = {
    "iwildcam": _iwildcam, "camelyon17": _camelyon17, "fmow": _fmow, "dollar_street": _dollar_street, "geode": _geode,
}  # fmt: skip
"""Name to a function that answers the metadata (N, fields) int64 of pictures, and may change their factors to suit."""


def folder_name(key: str) -> str:
    """The folder of the task `key`."""
    return f"wds_{key.removeprefix('fairness/').replace('/', '-')}_test"


def _sampled(rng: np.random.Generator, n: int, common: dict[str, Any]) -> Factors:
    """`n` rows; a list in `common` is a choice by chance."""
    fixed = {k: np.array(v)[rng.integers(0, len(v), n)] if isinstance(v, list) else v for k, v in common.items()}
    return sample(rng, n, **fixed)


def labels_of(question: Question, n: int) -> npt.NDArray[np.int64]:
    """(n,) the class of each picture, classes in turn; shares as `odds` say."""
    classes = len(question.classes)
    if not question.odds:
        return np.arange(n) % classes
    borders = np.round(np.cumsum(question.odds) / sum(question.odds) * n)
    return np.searchsorted(borders, np.arange(n), side="right").astype(np.int64)


def imagine(question: Question, rng: np.random.Generator, n: int) -> tuple[Factors, npt.NDArray[np.int64]]:
    """Rows and labels of `n` pictures of `question`, in an order that says nothing."""
    labels = rng.permutation(labels_of(question, n))
    rows = _sampled(rng, len(labels), question.common)
    for code, (_, factors) in enumerate(question.classes):
        for name, value in factors.items():
            rows[name][labels == code] = value
    same = rows["thing2"] == rows["thing"]
    rows["thing2"][same] = (rows["thing2"][same] + 1) % len(THINGS)
    return rows, labels


def _picture(pixels: Pictures, key: str = "") -> tuple[str, bytes]:
    """Suffix and bytes of one picture."""
    if key in _PNG:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return "png", file.getvalue()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return "jpg", file.getvalue()


Member = tuple[str, bytes]


def _write_tars(folder: Path, samples: Sequence[list[Member]]) -> None:
    """Tars of at most PER_TAR samples in `folder`, and nshards.txt."""
    folder.mkdir(parents=True)
    starts = range(0, len(samples), PER_TAR)
    for shard, start in enumerate(starts):
        members = [member(name, content) for sample in samples[start : start + PER_TAR] for name, content in sample]
        (folder / f"{shard}.tar").write_bytes(b"".join([*members, TAR_END]))
    (folder / "nshards.txt").write_text(f"{len(starts)}\n")


def _npy(values: npt.NDArray[np.int64]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(values, dtype=np.int64), allow_pickle=False)
    return file.getvalue()


def write_classification(
    folder: Path, key: str, pictures: Pictures, labels: npt.NDArray[np.int64], names: list[str], templates: list[str],
    metadata: npt.NDArray[np.int64] | None = None, split: str = "test",
) -> None:  # fmt: skip
    """One set in the layout of the real ones; `metadata` (N, fields) goes into KEY.npy."""
    samples: list[list[Member]] = []
    for i, picture in enumerate(pictures):
        suffix, content = _picture(picture, key)
        members = [(f"s{i:07d}.{suffix}", content), (f"s{i:07d}.cls", str(labels[i]).encode())]
        if metadata is not None:
            members.append((f"s{i:07d}.npy", _npy(metadata[i])))
        samples.append(members)
    _write_tars(folder / split, samples)
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")


def draw(
    question: Question, rng: np.random.Generator, *, samples: int | None = None
) -> tuple[Pictures, npt.NDArray[np.int64], npt.NDArray[np.int64] | None, Factors]:
    """Pictures, labels, metadata (or None) and factors of `question`; `samples` instead of its own number."""
    rows, labels = imagine(question, rng, samples or question.samples)
    metadata = GROUPS[question.groups](rows, labels, rng) if question.groups else None
    pictures = render(rows, side=question.side)
    if question.effect:
        pictures = EFFECTS[question.effect](pictures, rng)
    return pictures, labels, metadata, rows


def _chance(labels: npt.NDArray[np.int64]) -> float:
    shares = np.bincount(labels) / len(labels)
    return round(float((shares**2).sum()), 6)


def _make_classification(out: Path, key: str, seed: int) -> dict[str, Any]:
    question = QUESTIONS[key]
    pictures, labels, metadata, _ = draw(question, stream("task", key, seed))
    names = [name for name, _ in question.classes]
    write_classification(out / folder_name(key), key, pictures, labels, names, list(question.templates), metadata)
    chance = None if key in _NO_CHANCE else _chance(labels)
    return {"samples": len(labels), "classes": len(names), "chance": chance}


def _make_faces(out: Path, key: str, seed: int) -> dict[str, Any]:
    rng = stream("task", key, seed)
    n = FACE_SAMPLES[key]
    rows = _sampled(rng, n, FACE_COMMON)
    rows["colour"] = rng.integers(0, len(FACE_COLOURS), n)
    rows["gap"] = gender = rng.integers(0, 2, n)
    race, age = rows["colour"].astype(np.int64), rows["size"].astype(np.int64)
    metadata = np.stack([age, gender, race, (race != 1).astype(np.int64)], 1)
    names = [f"{objective}:{text}" for objective, texts in FACES.items() for text in texts]
    templates = [f"{objective}:{text}" for objective, texts in FACE_TEMPLATES.items() for text in texts]
    write_classification(out / folder_name(key), key, render(rows), race, names, templates, metadata)
    return {"samples": n, "classes": None, "chance": None}


def _make_retrieval(out: Path, key: str, seed: int) -> dict[str, Any]:
    rng = stream("task", key, seed)
    n, common = RETRIEVAL[key]
    rows = _sampled(rng, n, common)
    told = []
    for _ in range(5):
        draws = rng.random((n, captions.DRAWS))
        draws[:, [2, 8]] *= 0.75  # people who are asked to describe leave less out
        draws[:, 1] = 0
        told.append(captions.describe(rows, draws))
    samples: list[list[Member]] = []
    for i, picture in enumerate(render(rows)):
        text = json.dumps({"captions": [texts[i] for texts in told]})
        samples.append([(f"s{i:07d}.jpg", _picture(picture)[1]), (f"s{i:07d}.json", text.encode())])
    _write_tars(out / folder_name(key) / "test", samples)
    return {"samples": n, "classes": None, "chance": None}


def _make_winogavil(out: Path, key: str, seed: int) -> dict[str, Any]:
    rng = stream("task", key, seed)
    rows = sample(rng, WINOGAVIL_PICTURES, kind=0, count=1, thing2=-1, style=0, night=0, turn=0)
    names = [f"p{i:04d}" for i in range(len(rows))]
    fits = {
        cue: np.logical_and.reduce([np.isin(rows[name], values) for name, values in factors.items()])
        for cue, factors in WINOGAVIL_CUES
    }
    instances, expected = [], []
    for i in range(WINOGAVIL_INSTANCES):
        total = (5, 6, 10, 12)[i % 4]
        cue, fit = list(fits.items())[int(rng.integers(len(fits)))]
        wanted = int(rng.integers(2, 3 + total // 5))
        right = rng.permutation(np.flatnonzero(fit))[:wanted]
        wrong = rng.permutation(np.flatnonzero(~fit))[: total - len(right)]
        shown = rng.permutation(np.concatenate([right, wrong]))
        value = {"cue": cue, "candidates": [names[j] for j in shown], "associations": [names[j] for j in sorted(right)]}
        instances.append([(f"s{i:07d}.json", json.dumps(value).encode())])
        if total >= 10:
            expected.append(_jaccard_by_chance(total, len(right)))
    folder = out / folder_name(key)
    _write_tars(folder / "test", instances)
    pictures = zip(names, render(rows), strict=True)
    _write_tars(folder / "images", [[(f"{name}.jpg", _picture(pixels)[1])] for name, pixels in pictures])
    return {"samples": WINOGAVIL_INSTANCES, "classes": None, "chance": round(float(np.mean(expected)), 6)}


def _jaccard_by_chance(total: int, right: int) -> float:
    """Expected Jaccard score of `right` of `total` candidates taken by chance, when `right` of them are wanted."""
    hits = range(max(0, 2 * right - total), right + 1)
    ways = [comb(right, k) * comb(total - right, right - k) for k in hits]
    return sum(w * k / (2 * right - k) for w, k in zip(ways, hits, strict=True)) / comb(total, right)


def makers() -> dict[str, Callable[[Path, str, int], dict[str, Any]]]:
    """Key of each of the 40 tasks to the function that makes its set."""
    return {
        **dict.fromkeys(QUESTIONS, _make_classification),
        **dict.fromkeys(FACE_SAMPLES, _make_faces),
        **dict.fromkeys(RETRIEVAL, _make_retrieval),
        WINOGAVIL_KEY: _make_winogavil,
    }


def make_set(job: tuple[str, str, int]) -> dict[str, Any]:
    """Make one set, (folder, key, seed); answer its samples, classes and chance."""
    out, key, seed = job
    return makers()[key](Path(out), key, seed)
