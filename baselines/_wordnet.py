"""Which words name something that ImageNet-21k shows, by WordNet 3.0, as the reference asks it.

A word's first synset is looked for among nouns, then verbs, adjectives and adverbs, each time by the word itself and
by the base forms that WordNet's morphology (morphy: exception lists, then suffix rules, applied again while nothing
is found) gives for it. The reference compares bare offsets, so a verb whose offset is that of an ImageNet noun counts.
"""

import gzip
from functools import cache, lru_cache

from harness.files import data_dir

SUFFIXES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    (),
)
"""Rules of detachment (WordNet's manual page morphy) for nouns, verbs, adjectives, adverbs."""


@cache
def _tables() -> tuple[dict[str, int], tuple[dict[str, list[str]], ...]]:
    """Flags of every lemma (bit p: it is part of speech p; bit 4 + p: its first synset there counts), exceptions."""
    lemmas: dict[str, int] = {}
    exceptions: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
    with gzip.open(data_dir("assets") / "wordnet-3.0.txt.gz", "rt", encoding="utf-8") as file:
        for line in file:
            word, mark, *bases = line.split()
            if mark.startswith("="):
                exceptions[int(mark[1:])][word] = bases
            else:
                lemmas[word] = int(mark, 16)
    return lemmas, exceptions


@lru_cache(maxsize=1 << 20)
def shown_in_imagenet(word: str) -> bool:
    """True if the first synset of `word`, in any part of speech, is an ImageNet-21k synset."""
    lemmas, _ = _tables()
    lower = word.lower()
    for pos in range(4):
        for form in _forms(lower, pos):
            flags = lemmas.get(form, 0)
            if flags >> pos & 1:
                return bool(flags >> (4 + pos) & 1)
    return False


def _forms(word: str, pos: int) -> list[str]:
    """`word` and its base forms in the order WordNet tries them; some may be no lemma."""
    lemmas, exceptions = _tables()
    if word in exceptions[pos]:
        return [word, *exceptions[pos][word]]
    shorter = [word]
    forms = [word]
    while True:
        shorter = [
            form[: len(form) - len(end)] + new for form in shorter for end, new in SUFFIXES[pos] if form.endswith(end)
        ]
        forms += shorter
        if not shorter or any(lemmas.get(form, 0) >> pos & 1 for form in forms):
            return forms


def nouns(*, shown: bool) -> list[str]:
    """The nouns of WordNet 3.0, sorted, words of a phrase apart by "_"; only those `shown` in ImageNet-21k if asked.

    Shown is a noun whose first synset as a noun is an ImageNet-21k synset.
    """
    lemmas, _ = _tables()
    wanted = 0b10001 if shown else 0b1
    return sorted(word for word, flags in lemmas.items() if flags & wanted == wanted)


def names_something(caption: str) -> bool:
    """True if some word of `caption`, split at white space, is shown in ImageNet-21k."""
    return any(map(shown_in_imagenet, caption.split()))
