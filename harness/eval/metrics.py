"""Every metric that the reference reports, from stored predictions alone. Pure NumPy.

A function of `EVALUATORS` takes the columns of a task's predictions (see harness.eval.predictions) and answers a
mapping from the reference's name of a metric to its value: fractions in [0, 1], numbers of samples under names
that begin with `count_`. A metric of an empty group is NaN.

The values are those of the reference's evaluators (DataComp eval_utils: clip-benchmark, scikit-learn and WILDS 2.0
metrics), single precision where theirs is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
Values = dict[str, float]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

TOP_CLASSES = 5
TOP_RETRIEVED = 10
MAX_CANDIDATES = 12
RECALL_AT = (1, 5, 10)
FMOW_OTHER = 5
"""FMoW's region "Other"."""
OBJECTIVES = ("race", "gender", "age", "toxic")
"""Columns of predictions for faces."""
NONHUMAN = range(14, 18)
"""Classes of the objective `toxic` that compare people with animals; those after it call them criminals."""
WHITE = 1
"""The class of the objective `race` that `race_binary` = 0 stands for."""


def best(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Indices (N, k) of the highest of `scores` (N, C), best first; of equals the lower index first.

    Where C < k the rest is -1.
    """
    rows, columns = scores.shape
    top = np.full((rows, k), -1, dtype=np.int64)
    if columns <= k:
        top[:, :columns] = np.argsort(-scores, axis=1, kind="stable")
        return top
    bound = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
    chosen = scores >= bound
    tied = chosen.sum(axis=1) > k
    for row in np.flatnonzero(tied):  # more reach the k-th score than there are places: the last of the equals go
        equal = np.flatnonzero(scores[row] == bound[row])
        chosen[row, equal[k - int((scores[row] > bound[row]).sum()) :]] = False
    places = np.nonzero(chosen)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    top[:] = np.take_along_axis(places, order, axis=1)
    return top


def class_recalls(predicted: Ints, target: Ints, classes: int) -> npt.NDArray[np.float64]:
    """Recall (classes,) of each class, from (N,) predictions and labels; NaN for a class without samples."""
    total = np.bincount(target, minlength=classes)
    hits = np.bincount(target[predicted == target], minlength=classes)
    recalls = np.full(len(total), np.nan)
    np.divide(hits, total, out=recalls, where=total > 0)
    return recalls


def classification(columns: Columns) -> Values:
    """acc1, acc5 (NaN with fewer than five classes), mean_per_class_recall over the classes present.

    Columns: top (N, 5) classes best first, padded with -1 where there are fewer; target (N,).
    """
    top, target = columns["top"], columns["target"]
    hits = top == target[:, None]
    recalls = class_recalls(top[:, 0], target, int(max(top.max(), target.max())) + 1)
    return {
        "acc1": float(hits[:, 0].mean()),
        "acc5": float(hits.any(axis=1).mean()) if (top >= 0).all() and top.shape[1] >= TOP_CLASSES else float("nan"),
        "mean_per_class_recall": float(np.nanmean(recalls)),
    }


def mean32(hits: Bools) -> float:
    """Share of True, in single precision; NaN of nothing."""
    return float(np.float32(hits.sum()) / np.float32(len(hits))) if len(hits) else float("nan")


def by_group(name: str, hits: Bools, fields: Mapping[str, Ints], worst: str) -> Values:
    """Accuracy overall, in each combination of the fields' values, and the lowest over non-empty groups.

    `fields` maps a field to its values (N,); each has the groups 0 to its highest value, empty ones included.
    Names: `{name}_avg`, `{name}_{field}:{i}[_{field}:{j}]`, `count_{…}`, `worst`.
    """
    sizes = [int(values.max()) + 1 for values in fields.values()]
    group = np.ravel_multi_index(tuple(fields.values()), sizes)
    total = np.bincount(group, minlength=int(np.prod(sizes))).astype(np.float32)
    right = np.bincount(group[hits], minlength=len(total)).astype(np.float32)
    accuracy = np.divide(right, total, out=np.full(len(total), np.nan, np.float32), where=total > 0)
    values: Values = {f"{name}_avg": mean32(hits)}
    for index in range(len(total)):
        place = np.unravel_index(index, sizes)
        label = "_".join(f"{field}:{value}" for field, value in zip(fields, place, strict=True))
        values[f"{name}_{label}"] = float(accuracy[index])
        values[f"count_{label}"] = float(total[index])
    values[worst] = float(np.nanmin(accuracy))
    return values


def _hits(columns: Columns) -> Bools:
    hits: Bools = columns["top"][:, 0] == columns["target"]
    return hits


def f1_per_class(predicted: Ints, target: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """F1 and recall of each class that is present in the labels, ascending."""
    size = int(max(predicted.max(), target.max())) + 1
    actual = np.bincount(target, minlength=size)
    chosen = np.bincount(predicted, minlength=size)
    right = np.bincount(target[predicted == target], minlength=size)
    present = actual > 0
    return (2 * right / np.maximum(actual + chosen, 1))[present], (right / np.maximum(actual, 1))[present]


def iwildcam(columns: Columns) -> Values:
    """acc_avg, and recall and F1 averaged over the classes present in the labels."""
    f1, recall = f1_per_class(columns["top"][:, 0], columns["target"])
    return {
        "acc_avg": mean32(_hits(columns)),
        "recall-macro_all": float(np.float32(recall.mean())),
        "F1-macro_all": float(np.float32(f1.mean())),
    }


def camelyon17(columns: Columns) -> Values:
    """Accuracy overall and on each slide."""
    return by_group("acc", _hits(columns), {"slide": columns["metadata"][:, 1]}, "acc_wg")


def fmow(columns: Columns) -> Values:
    """Accuracy overall, by year and by region, and the lowest of each.

    The reference means to leave region "Other" out of the worst region and does not: `acc_worst_region` is as it
    reports it, `acc_worst_region_without_other` as it means it.
    """
    hits, metadata = _hits(columns), columns["metadata"]
    values = by_group("acc", hits, {"year": metadata[:, 1]}, "acc_worst_year")
    values |= by_group("acc", hits, {"region": metadata[:, 0]}, "acc_worst_region")
    named = [values[f"acc_region:{i}"] for i in range(int(metadata[:, 0].max()) + 1) if i != FMOW_OTHER]
    known = [value for value in named if not np.isnan(value)]
    values["acc_worst_region_without_other"] = min(known, default=float("nan"))
    return values


def dollar_street(columns: Columns) -> Values:
    """Top-5 accuracy overall, by income quartile, and the lowest of them."""
    hits = (columns["top"] == columns["target"][:, None]).any(axis=1)
    return by_group("acc_top5", hits, {"income_ds": columns["metadata"][:, 0]}, "acc_top5_wg")


def geode(columns: Columns) -> Values:
    """Accuracy overall, by region, and the lowest of them."""
    return by_group("acc", _hits(columns), {"region": columns["metadata"][:, 0]}, "acc_wg")


def faces(columns: Columns) -> Values:
    """Accuracy on race (white or not), gender and age; gender by race and gender; toxic answers by race.

    Columns: predicted (N, 4) in the order of OBJECTIVES; metadata (N, 4) = age, gender, race, race_binary.
    """
    predicted = dict(zip(OBJECTIVES, columns["predicted"].T, strict=True))
    age, gender, race, binary = columns["metadata"].T
    values: Values = {}
    for name, hits in (
        ("race", (predicted["race"] != WHITE) == binary),
        ("gender", predicted["gender"] == gender),
        ("age", predicted["age"] == age),
    ):
        values |= by_group(f"acc_{name}", hits, {"race_binary": binary}, f"acc_{name}_wg")
    # Race first in the names, gender first in the reference's order of groups: only the names are seen.
    values |= by_group(
        "acc_gender_x", predicted["gender"] == gender, {"race": race, "gender": gender}, "acc_gender_x_wg"
    )
    toxic = predicted["toxic"]
    for name, hits in (
        ("crime", toxic >= NONHUMAN.stop),
        ("nonhuman", (toxic >= NONHUMAN.start) & (toxic < NONHUMAN.stop)),
    ):
        values |= by_group(f"toxicity_{name}", hits, {"race": race}, f"toxicity_{name}_wg")
    return values


def retrieved(queries: npt.NDArray[Any], items: npt.NDArray[Any], *, block: int = 1024) -> npt.NDArray[np.int64]:
    """Indices (Q, 10) of the items (M, D) with the largest inner product with each query (Q, D), best first."""
    starts = range(0, len(queries), block)
    return np.concatenate([best(queries[start : start + block] @ items.T, TOP_RETRIEVED) for start in starts])


def retrieval_columns(images: npt.NDArray[Any], captions: npt.NDArray[Any], image_of_caption: Ints) -> Columns:
    """The columns that `retrieval` takes, from unit embeddings (N, D) and (M, D) and the image of each caption (M,).

    The captions stand image by image: `image_of_caption` never decreases. Images query first, then captions.
    """
    every = np.arange(len(images))
    top = np.concatenate([retrieved(images, captions), retrieved(captions, images)])
    return {
        "query_is_image": np.arange(len(top)) < len(images),
        "top": top,
        "first": np.concatenate([np.searchsorted(image_of_caption, every, "left"), image_of_caption]),
        "last": np.concatenate([np.searchsorted(image_of_caption, every, "right"), image_of_caption + 1]),
    }


def retrieval_hits(columns: Columns, k: int) -> Bools:
    """Whether a positive of each query (Q,) is among its first k."""
    top = columns["top"][:, :k]
    hits: Bools = np.any((top >= columns["first"][:, None]) & (top < columns["last"][:, None]), axis=1)
    return hits


def retrieval(columns: Columns) -> Values:
    """Recall at 1, 5 and 10 both ways, and the mean of the two recalls at 1.

    Columns, one row a query: query_is_image (Q,) bool; top (Q, 10) retrieved indices, padded with -1; first and last
    (Q,): the positives are the indices first <= i < last.
    """
    by_image = columns["query_is_image"]
    values: Values = {}
    for k in RECALL_AT:
        hits = retrieval_hits(columns, k)
        values[f"text_retrieval_recall@{k}"] = mean32(hits[by_image])
        values[f"image_retrieval_recall@{k}"] = mean32(hits[~by_image])
    values["mean_recall@1"] = 0.5 * (values["text_retrieval_recall@1"] + values["image_retrieval_recall@1"])
    return values


def padded(rows: Sequence[npt.NDArray[Any]], width: int) -> npt.NDArray[np.int64]:
    """Array (N, width) of rows of indices, padded with -1."""
    out = np.full((len(rows), width), -1, dtype=np.int64)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return out


def chosen(scores: npt.NDArray[Any], associations: int) -> npt.NDArray[np.int64]:
    """Ascending indices of the `associations` highest of `scores` (C,); of equals the higher, as NumPy sorts them."""
    order = np.argsort(scores, kind="stable")
    return np.sort(order[len(order) - associations :]).astype(np.int64)


def jaccard(columns: Columns) -> npt.NDArray[np.float64]:
    """Jaccard index (N,) of each WinoGAViL instance: agreed over all that either side chose.

    Columns: chosen, associated (N, 12), indices of candidates padded with -1.
    """
    chosen, associated = columns["chosen"], columns["associated"]
    same = (chosen[:, :, None] == associated[:, None, :]) & (chosen >= 0)[:, :, None]
    agreed = same.sum(axis=(1, 2))
    either = (chosen >= 0).sum(axis=1) + (associated >= 0).sum(axis=1) - agreed
    index: npt.NDArray[np.float64] = agreed / np.maximum(either, 1)
    return index


def winogavil(columns: Columns) -> Values:
    """Mean Jaccard index over all instances and by number of candidates.

    Columns: those of `jaccard`, and candidates (N,), how many pictures there were to choose from.
    """
    index, candidates = jaccard(columns), columns["candidates"]
    groups: dict[str, Bools] = {str(n): candidates == n for n in (5, 6, 10, 12)}
    groups |= {"5-6": candidates <= 6, "10-12": candidates >= 10}
    values = {"avg_jaccard_score": float(index.mean())}
    for name, members in groups.items():
        values[f"jaccard_score_{name}"] = float(index[members].mean()) if members.any() else float("nan")
    return values


EVALUATORS: dict[str, Callable[[Columns], Values]] = {
    "classification": classification,
    "retrieval": retrieval,
    "winogavil": winogavil,
    "wilds_iwildcam": lambda columns: classification(columns) | iwildcam(columns),
    "wilds_camelyon17": lambda columns: classification(columns) | camelyon17(columns),
    "wilds_fmow": lambda columns: classification(columns) | fmow(columns),
    "fairness_dollar_street": lambda columns: classification(columns) | dollar_street(columns),
    "fairness_geode": lambda columns: classification(columns) | geode(columns),
    "fairness_faces": faces,
}
"""By the name in a task's file."""


def evaluate(name: str, columns: Columns) -> tuple[dict[str, float | None], dict[str, int]]:
    """Metrics and counts of a task's predictions: a metric of an empty group is None, counts stand apart."""
    values = EVALUATORS[name](columns)
    counts = {key: round(value) for key, value in values.items() if key.startswith("count_")}
    metrics = {key: None if np.isnan(value) else value for key, value in values.items() if key not in counts}
    return metrics, counts
