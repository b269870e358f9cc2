"""Captions as words."""

import unicodedata
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.words import Words

CAPTIONS = (
    "A photo of a Hot-Dog stand!",
    "",
    "two hot\ndogs; hot dog",
    "IMG_2041.JPG",
    "été à Zürich, Straße\u2028Собака",
    "   ",
    "hotdog",
)


def test_words_are_lower_case_without_punctuation() -> None:
    words = Words.of(CAPTIONS)
    lines = words.text.decode().split("\n")[:-1]
    assert [line.split(" ") for line in lines[:1]] == [["", "a", "photo", "of", "a", "hot", "dog", "stand", ""]]
    told = ["a photo of a hot dog stand", "", "two hot dogs hot dog", "img 2041 jpg"]
    assert [line.strip() for line in lines] == [*told, "été à zürich straße собака", "", "hotdog"]
    assert len(words.ends) == len(CAPTIONS) and "  " not in words.text.decode()
    assert [" ".join(one) for one in words.each()] == [line.strip() for line in lines]
    starts, stops, row = words.spans()
    assert [words.text[a:b].decode() for a, b in zip(starts, stops, strict=True)] == " ".join(lines).split()
    assert Counter(row.tolist()) == {0: 7, 2: 5, 3: 3, 4: 5, 6: 1}
    assert Words.of([]).text == b"" and len(Words.of([]).ends) == 0


def test_vowel_signs_and_accents_belong_to_their_words() -> None:
    captions = ["cafe\u0301 na\u00efve", "हिन्दी भाषा", "ที่ไทย", "a\u0301_b"]
    lines = Words.of(captions).text.decode().split("\n")[:-1]
    assert [line.strip() for line in lines] == ["caf\u00e9 na\u00efve", "हिन्दी भाषा", "ที่ไทย", "\u00e1 b"]


LETTERS = st.sampled_from("aZ9 _-.\n\r\té\u0301İßΣक़ि🙂’") | st.characters(codec="utf-8")


@given(st.lists(st.text(LETTERS, max_size=12), max_size=6))
def test_words_of_any_captions(captions: list[str]) -> None:
    """One by one, as many together, with and without other scripts beside them."""
    whole = Words.of(captions).text.decode()
    assert whole == "".join(Words.of([caption]).text.decode() for caption in captions)
    for caption, line in zip(captions, whole.split("\n"), strict=False):
        plain = unicodedata.normalize("NFC", caption.lower())
        kept = [c if c.isalnum() or unicodedata.category(c) in ("Mn", "Mc") else " " for c in plain]
        assert line.split() == "".join(kept).split()


def test_hashes_hang_on_the_text_alone() -> None:
    rng = np.random.default_rng(0)
    captions = [" ".join(str(number) for number in rng.integers(0, 500, 6)) for _ in range(400)]
    seen: dict[bytes, int] = {}
    for part in (captions[:100], captions[100:], captions[::-1]):
        words = Words.of(part)
        starts, stops, _ = words.spans()
        for start, stop, found in zip(starts, stops, words.hashes(starts, stops).tolist(), strict=True):
            assert seen.setdefault(words.text[start:stop], found) == found
    assert len(set(seen.values())) == len(seen) == len(set(" ".join(captions).split()))
