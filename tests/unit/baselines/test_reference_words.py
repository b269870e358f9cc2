"""Words, tokens and languages as the reference's libraries see them."""

import pytest

from baselines import _wordnet
from harness import language

# First synsets in WordNet 3.0 (nltk 3.8.1) among the reference's 21,843: the odd ones are what makes it exact.
WORDS = {
    "dog": True, "Dogs": True, "dog,": False, "running": False, "of": False, "the": False, "beaches": True,
    "geese": True, "men": False, "women": True, "women's": False, "axes": True, "wolves": True, "boxes": True,
    "churches": False, "dishes": True, "ladies": True, "better": False, "happiest": False, "photo": False,
    "image": False, "shirt": True, "dresses": True, "glasses": True, "glass": False, "red": False, "blue": True,
    "a": False, "in": False, "2019": False, "ice_cream": True, "new_york": False, "mice": True, "feet": False,
    "asses": False, "basses": False, "kitchen": True, "houses": True, "xyzzy": False, "was": False,
    "thoughts": False, "ham": False, "skies": True, "flowerses": True,
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words_are_looked_up_as_the_reference_does(word: str) -> None:
    assert _wordnet.shown_in_imagenet(word) is WORDS[word]


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        ("", 0),
        ("one", 1),
        (" one  two ", 2),
        ("one\ntwo", 3),
        ("one\t\x0btwo\x00three", 3),
        ("one\u00a0two", 1),
        ("\n", 1),
    ],
)
def test_tokens_are_fasttexts(caption: str, count: int) -> None:
    assert language.tokens(caption) == count
