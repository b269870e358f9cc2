"""`python -m harness.check_vectors DIR`: compare the metrics with vectors of the reference.

DIR holds pairs X.npz (inputs) and X.json (what the reference's evaluators answered). The name begins with what is
scored: classification, retrieval, winogavil, wilds_iwildcam, wilds_camelyon17, wilds_fmow, fairness_dollar_street,
fairness_geode or fairness_faces. Every key of the JSON must be ours too, empty (NaN or null) exactly where ours is.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import cli
from harness.errors import ArtifactError, ConfigError
from harness.eval import metrics
from harness.eval.metrics import padded

TOLERANCE = 1e-6
Arrays = Mapping[str, npt.NDArray[Any]]


def _classes(arrays: Arrays) -> Arrays:
    if "logits" in arrays:
        top = metrics.best(arrays["logits"], metrics.TOP_CLASSES)
    else:
        predicted = arrays["pred"]
        top = predicted if predicted.ndim == 2 else predicted[:, None]
    columns = {"top": top, "target": arrays["target"]}
    return {**columns, "metadata": arrays["metadata"]} if "metadata" in arrays else columns


def _faces(arrays: Arrays) -> Arrays:
    return {"predicted": arrays["pred"], "metadata": arrays["metadata"]}


def _retrieval(arrays: Arrays) -> Arrays:
    # Captions of an image need not stand together in a vector; in a task's data they do.
    order = np.argsort(arrays["text_image_index"], kind="stable")
    return metrics.retrieval_columns(
        arrays["image_embeddings"], arrays["text_embeddings"][order], arrays["text_image_index"][order]
    )


def _winogavil(arrays: Arrays) -> Arrays:
    ends = np.cumsum(arrays["n_images"])
    chosen, associated = [], []
    for start, end in zip(ends - arrays["n_images"], ends, strict=True):
        associated.append(np.flatnonzero(arrays["associated"][start:end]))
        chosen.append(metrics.chosen(arrays["scores"][start:end], len(associated[-1])))
    width = int(arrays["n_images"].max())
    return {
        "chosen": padded(chosen, width),
        "associated": padded(associated, width),
        "candidates": arrays["n_images"],
    }


KINDS: dict[str, Callable[[Arrays], Arrays]] = {
    "classification": _classes,
    "retrieval": _retrieval,
    "winogavil": _winogavil,
    "wilds_iwildcam": _classes,
    "wilds_camelyon17": _classes,
    "wilds_fmow": _classes,
    "fairness_dollar_street": _classes,
    "fairness_geode": _classes,
    "fairness_faces": _faces,
}


def kind_of(stem: str) -> str:
    """What the vector of that file name is of; ConfigError for a name that begins with none of KINDS."""
    for name in KINDS:
        if stem == name or stem.startswith(f"{name}_"):
            return name
    raise ConfigError(f"{stem}.npz: the name begins with none of {', '.join(KINDS)}")


def _is_empty(value: float | None) -> bool:
    return value is None or math.isnan(value)


def difference(ours: Mapping[str, float], theirs: Mapping[str, float | None]) -> tuple[float, str]:
    """Largest absolute difference over their keys, and its key; infinite where a key or a value is missing."""
    worst, where = 0.0, ""
    for key, value in theirs.items():
        mine = ours.get(key)
        if _is_empty(mine) and _is_empty(value) and key in ours:
            continue
        gap = math.inf if mine is None or value is None else abs(mine - value)
        gap = math.inf if math.isnan(gap) else gap
        if gap > worst or not where:
            worst, where = gap, key
    return worst, where


def compare(folder: Path) -> list[tuple[str, str, float, str]]:
    """Name, kind, largest difference and its key of each pair in `folder`; ArtifactError if there is none."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        kind = kind_of(path.stem)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                ours = metrics.EVALUATORS[kind](KINDS[kind](dict(arrays)))
            # The reference writes NaN, which records refuse and this reader takes.
            theirs = json.loads(path.with_suffix(".json").read_text())
            if not theirs:
                raise ValueError("there are no answers")
            found.append((path.stem, kind, *difference(ours, theirs)))
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise ArtifactError(f"{path}: not a pair of inputs and answers: {error}") from error
    if not found:
        raise ArtifactError(f"{folder}: no X.npz with an X.json beside it")
    return found


def command(argv: list[str]) -> int:
    """Compare every pair and print the largest difference of each kind."""
    cli.offer_help(argv, __doc__)
    if len(argv) != 1:
        raise ConfigError("one argument is needed: the folder with the X.npz and X.json pairs")
    found = compare(Path(argv[0]))
    for kind in dict.fromkeys(kind for _, kind, _, _ in found):
        stem, _, gap, key = max((row for row in found if row[1] == kind), key=lambda row: row[2])
        verdict = "ok" if gap <= TOLERANCE else f"DIFFERS in {stem}: {key}"
        sys.stdout.write(f"{kind:24} {gap:.2e}  {verdict}\n")
    return int(any(gap > TOLERANCE for _, _, gap, _ in found))


if __name__ == "__main__":
    cli.main(command)
