"""Phrases in captions, at word borders."""

import numpy as np

from harness.phrases import Phrases


def test_finds_whole_words_overlaps_too() -> None:
    found = Phrases(["dog", "hot dog", "Hot_Dog", "hot dog stand", "stand", "собака", "zürich", "--"])
    names = [name.decode() for name in found.spelled]
    assert names == ["dog", "hot dog", "hot dog stand", "stand", "zürich", "собака"]
    captions = ["A Hot-Dog stand!", "", "two hot\ndogs; hot dog", "hotdog", "Zürich\u2028Собака"]
    told: dict[int, set[str]] = {}
    for row, phrase in found.pairs(captions).tolist():
        told.setdefault(row, set()).add(names[phrase])
    assert told == {0: {"dog", "hot dog", "hot dog stand", "stand"}, 2: {"dog", "hot dog"}, 4: {"zürich", "собака"}}
    assert len(found.pairs(captions)) == 8 and found.pairs(["nothing"]).shape == (0, 2)


def test_agrees_with_a_search_for_each() -> None:
    rng = np.random.default_rng(1)
    letters = np.array(list("ab "))
    captions = ["".join(letters[rng.integers(0, 3, 12)]) for _ in range(200)]
    phrases = ["a", "b", "ab", "a b", "b a", "aa b", "ba ab"]
    found = Phrases(phrases)
    told = {(row, found.spelled[phrase].decode()) for row, phrase in found.pairs(captions).tolist()}
    spaced = [f" {' '.join(caption.split())} " for caption in captions]
    assert told == {(i, name) for i, text in enumerate(spaced) for name in phrases if f" {name} " in text}


def test_no_phrase_is_found_nowhere() -> None:
    assert Phrases(["", "--"]).spelled == [] and Phrases([]).pairs(["a", ""]).shape == (0, 2)
