"""The language model by hand and by its sums, and captions with planted gibberish."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_pool import context, plant, rows_of

from baselines import perplexity
from baselines._language_model import Model
from harness import ArtifactError, Pool

TEXTS = ["a red dog", "a red cat", "the dog", "a dog", "the red dog runs"]


def chance(history: tuple[str, ...], word: str, n: int) -> float:
    """Witten and Bell's chance of `word` after `history`, straight from TEXTS."""
    marked = [("<s>", *text.split(), "</s>") for text in TEXTS]
    if not history:
        counts = Counter(word for text in marked for word in text[1:])
        lower = 1 / (len(counts) + 1)
    else:
        k = len(history)
        grams = [text[i : i + k + 1] for text in marked for i in range(len(text) - k)]
        counts = Counter(gram[-1] for gram in grams if gram[:-1] == history)
        lower = chance(history[1:], word, n)
        if not counts:
            return lower
    total, types = sum(counts.values()), len(counts)
    return (counts[word] + types * lower) / (total + types)


def by_hand(caption: str, n: int) -> float:
    marked = ("<s>", *caption.split(), "</s>")
    logs = [math.log(chance(marked[max(0, i - n + 1) : i], marked[i], n)) for i in range(1, len(marked))]
    return sum(logs) / len(logs)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_chances_by_hand(n: int) -> None:
    captions = ["a red dog", "the cat runs", "red", "zebra", "a zebra dog", "the the the the the the", "dog a", ""]
    found = Model.learned(TEXTS, n).log_chances(captions)
    assert np.isnan(found[-1])
    assert found[:-1].tolist() == pytest.approx([by_hand(caption, n) for caption in captions[:-1]], rel=1e-5)


def test_chances_of_all_words_sum_to_one() -> None:
    # Without contexts a word of chance p and the end of chance e give p e for `word`, p p e for `word word`.
    words = sorted({word for text in TEXTS for word in text.split()} | {"unheard"})
    means = Model.learned(TEXTS, 1).log_chances([*words, *(f"{word} {word}" for word in words)]).astype(np.float64)
    once, twice = np.exp(2 * means[: len(words)]), np.exp(3 * means[len(words) :])
    chances = twice / once
    assert (once / chances).tolist() == pytest.approx([once[0] / chances[0]] * len(words), rel=1e-5)
    assert chances.sum() + once[0] / chances[0] == pytest.approx(1, rel=1e-5)


def test_a_caption_stands_for_itself() -> None:
    # Whatever stands beside it in a batch, and however it is written.
    model = Model.learned([*TEXTS, "", "--"], 3)
    assert len(model.hashes) == len(Model.learned(TEXTS, 3).hashes)
    captions = ["A red, dog!", "the cat", "", "a dog the dog"]
    alone = [float(model.log_chances([caption])[0]) for caption in captions]
    for order in itertools.permutations(range(4)):
        np.testing.assert_array_equal(model.log_chances([captions[i] for i in order]), [alone[i] for i in order])
    assert model.log_chances(captions[:1]) == model.log_chances(["a red dog"])
    assert model.log_chances([]).shape == (0,)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = Model.learned(TEXTS, 3)
    model.save(tmp_path)
    read = Model.load(tmp_path, n=3, unknown=model.unknown)
    np.testing.assert_array_equal(read.log_chances(TEXTS), model.log_chances(TEXTS))
    assert (np.diff(model.hashes.astype(object)) > 0).all()


COLOURS, THINGS, PLACES = ["red", "green", "blue", "grey"], ["dog", "cat", "house", "tree"], ["park", "snow", "rain"]


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    return [f"a {rng.choice(COLOURS)} {rng.choice(THINGS)} in the {rng.choice(PLACES)}" for _ in range(count)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """200 sentences, 200 of the same words in an order by chance, 200 of letters by chance, 20 without a word."""
    rng = np.random.default_rng(0)
    shuffled = [" ".join(rng.permutation(text.split())) for text in sentences(rng, 200)]
    letters = ["".join(rng.choice(list("bcdefghjkl  "), 24)) for _ in range(200)]
    folder = tmp_path_factory.mktemp("mixed")
    pool = plant(folder, texts=[*sentences(rng, 200), *shuffled, *letters, *["", "--"] * 10])
    plant(folder / "targets" / "trusted", texts=sentences(rng, 100))
    return pool


def test_gibberish_is_dropped_first_and_order_counts(mixed: Pool, tmp_path: Path) -> None:
    found = perplexity.scores(mixed, ctx=context(tmp_path))
    sentence, shuffled, letters = found[:200], found[200:400], found[400:600]
    assert np.isnan(found[600:]).all()
    assert sentence.min() > letters.max() and np.median(shuffled) > letters.max()
    # A few shuffled ones come out as sentences do.
    assert np.sort(shuffled)[-10] < sentence.min()
    kept = rows_of(mixed, perplexity.select(mixed, ctx=context(tmp_path), fraction=0.3))
    assert len(kept) >= 187 and max(kept) < 400 and np.mean(np.array(kept) < 200) > 0.95
    # One-word contexts only: the order counts no more.
    single = perplexity.scores(mixed, ctx=context(tmp_path), n=1)
    assert np.median(single[200:400]) == pytest.approx(np.median(single[:200]), rel=0.05)


def test_what_the_model_learns_from(mixed: Pool, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(sentences(np.random.default_rng(3), 50)))
    (Path(mixed.path) / "targets" / "texts.txt").write_text("abc def ghi\n")
    for number, (texts, told) in enumerate({
        "trusted": "100 texts", "pool": "600 texts", "targets": "1 texts", str(tmp_path / "texts.txt"): "50 texts",
    }.items()):  # fmt: skip
        ctx = context(tmp_path / str(number))
        perplexity.scores(mixed, ctx=ctx, texts=texts)
        assert any(f"model of {told}" in remark for remark in ctx.remarks)
    ctx = context(tmp_path / "few")
    perplexity.scores(mixed, ctx=ctx, size=20)
    assert any("model of 20 texts" in remark for remark in ctx.remarks)
    (Path(mixed.path) / "targets" / "texts.txt").write_text("--\n")
    with pytest.raises(ArtifactError, match=r"texts=targets hold no word"):
        perplexity.scores(mixed, ctx=context(tmp_path / "none"), texts="targets")


def test_perplexity_keeps_what_is_said_often(tmp_path: Path) -> None:
    # The known weakness: learned from the pool itself, boilerplate is the least surprising of all.
    rng = np.random.default_rng(1)
    pool: Any = plant(tmp_path, texts=[*sentences(rng, 100), *["click here to enlarge"] * 100])
    kept = rows_of(pool, perplexity.select(pool, ctx=context(tmp_path / "s"), texts="pool", fraction=0.4))
    assert min(kept) >= 100
