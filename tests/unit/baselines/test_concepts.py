"""Captions as words, and the concepts that they name."""

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import _concepts, _wordnet
from baselines._concepts import Matcher
from baselines._text import Words
from harness import ArtifactError

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


def test_matcher_finds_whole_words_overlaps_too() -> None:
    found = Matcher(["dog", "hot dog", "Hot_Dog", "hot dog stand", "stand", "собака", "zürich", "--"])
    names = [name.decode() for name in found.concepts]
    assert names == ["dog", "hot dog", "hot dog stand", "stand", "zürich", "собака"]
    told: dict[int, set[str]] = {}
    for row, concept in found.pairs(CAPTIONS).tolist():
        told.setdefault(row, set()).add(names[concept])
    assert told == {0: {"dog", "hot dog", "hot dog stand", "stand"}, 2: {"dog", "hot dog"}, 4: {"zürich", "собака"}}
    assert len(found.pairs(CAPTIONS)) == 8 and found.pairs(["nothing"]).shape == (0, 2)


def test_matcher_agrees_with_a_search_for_each_concept() -> None:
    rng = np.random.default_rng(1)
    letters = np.array(list("ab "))
    captions = ["".join(letters[rng.integers(0, 3, 12)]) for _ in range(200)]
    concepts = ["a", "b", "ab", "a b", "b a", "aa b", "ba ab"]
    found = Matcher(concepts)
    told = {(row, found.concepts[concept].decode()) for row, concept in found.pairs(captions).tolist()}
    spaced = [f" {' '.join(caption.split())} " for caption in captions]
    assert told == {(i, name) for i, text in enumerate(spaced) for name in concepts if f" {name} " in text}


def test_lists_of_concepts(tmp_path: Path) -> None:
    shown, every = _wordnet.nouns(shown=True), _wordnet.nouns(shown=False)
    assert {"dog", "teapot", "great_white_shark"} < set(shown) < set(every)
    # First synsets that no picture of ImageNet-21k shows, and a word that is no noun.
    assert {"democracy", "idea"} < set(every) - set(shown) and "beautiful" not in every
    (tmp_path / "list.txt").write_text("Dog\n\n hot dog \n")
    assert _concepts.matcher(str(tmp_path / "list.txt")).concepts == [b"dog", b"hot dog"]
    (tmp_path / "empty.txt").write_text("\n--\n")
    with pytest.raises(ArtifactError, match=r"empty\.txt.*no concept"):
        _concepts.matcher(str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"bytes\.txt.*UTF-8"):
        _concepts.matcher(str(tmp_path / "bytes.txt"))
    with pytest.raises(ArtifactError, match=r"none\.txt.*imagenet21k, wordnet"):
        _concepts.matcher(str(tmp_path / "none.txt"))


def test_a_list_that_was_changed_is_read_again(tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("apple\n")
    first = _concepts.matcher(str(names))
    assert _concepts.matcher(str(names)) is first
    names.write_text("cherry\nplum\n")
    assert _concepts.matcher(str(names)).concepts == [b"cherry", b"plum"]
