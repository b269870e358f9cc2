"""Methods on captions: planted concepts and target texts, and what the papers say of them."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_pool import context, plant, rows_of

from baselines import _concepts, _draw, _ngrams, _target_texts, concept_balance, dsir, metaclip
from harness import ArtifactError, ConfigError, Pool


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_are_those_of_each_caption(n: int) -> None:
    captions = ["red dog red dog red", "dog red", "", "red", "a b c d"]
    rows, bucket = _ngrams.buckets(captions, n=n, width=1 << 60)
    wanted = [
        (row, tuple(words[i : i + size]))
        for row, words in enumerate(caption.split() for caption in captions)
        for size in range(1, n + 1)
        for i in range(len(words) - size + 1)
    ]
    assert Counter(rows.tolist()) == Counter(row for row, _ in wanted)
    # The same n-grams share a bucket, different ones do not: both group the rows alike.
    by_bucket, by_words = {}, {}
    for row, number in zip(rows.tolist(), bucket.tolist(), strict=True):
        by_bucket.setdefault(number, []).append(row)
    for row, words in wanted:
        by_words.setdefault(words, []).append(row)
    assert sorted(sorted(part) for part in by_bucket.values()) == sorted(sorted(part) for part in by_words.values())
    assert _ngrams.buckets([], n=n, width=7)[1].tolist() == []


def test_divergence_by_hand() -> None:
    # Shares 3/4, 1/4 against 1/2, 1/2; and what only one of two says, against the 1e-8 that none falls below.
    found = _ngrams.divergence(np.array([3, 1]), np.array([4, 4]))
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert _ngrams.divergence(np.array([1, 1]), np.array([1, 0])) == pytest.approx(0.5 * math.log(0.5 * 0.5e8))
    assert _ngrams.divergence(np.array([5, 2]), np.array([5, 2])) == 0


COUNTS = {"dog": 1000, "cat": 300, "teapot": 100, "pear": 20}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A list of the concepts of COUNTS."""
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_text("\n".join(COUNTS))
    return str(path)


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Captions with one concept each, as often as COUNTS says, and 580 with none."""
    texts = [f"picture {i} of a {name}" for name, count in COUNTS.items() for i in range(count)]
    texts += [f"IMG_{i}.JPG" for i in range(580)]
    return plant(tmp_path_factory.mktemp("skewed"), texts=texts)


def kept_counts(pool: Pool, found: Any) -> list[int]:
    """Of each of COUNTS, then of the captions without a concept."""
    borders = np.cumsum([0, *COUNTS.values(), 580])
    return np.histogram(rows_of(pool, found), bins=borders)[0].tolist()


def test_metaclip_caps_hold(skewed: Pool, four: str, tmp_path: Path) -> None:
    found = _concepts.matches(skewed, four)
    chances = metaclip.chances(found, "union", 150)
    # In expectation exactly the cap of each frequent concept, and all of the rare ones.
    sums = np.add.reduceat(chances, np.cumsum([0, *COUNTS.values()])[:-1])
    assert sums.tolist() == pytest.approx([150, 150, 100, 20])
    assert chances[1300:].tolist() == [1.0] * 120
    kept = np.array(
        [
            kept_counts(skewed, metaclip.select(skewed, ctx=context(tmp_path, seed=s), concepts=four, cap=150))
            for s in range(30)
        ]
    )
    assert (kept.sum(axis=1) == 420).all() and (kept[:, 2:] == [100, 20, 0]).all()
    # Of 30 draws the mean lies within four standard errors; one draw deviates by at most 8.7 (cat, binomial).
    assert abs(kept[:, 1].mean() - 150) < 4 * math.sqrt(300 * 0.25 / 30)


def test_metaclip_finds_the_cap_for_a_fraction(skewed: Pool, four: str, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    found = metaclip.select(skewed, ctx=ctx, concepts=four, fraction=0.21)
    assert len(found) == 420 and kept_counts(skewed, found)[2:] == [100, 20, 0]
    assert ctx.remarks[0].endswith("4 of them named; cap 150 a concept")
    # Captions without a concept are never taken, even where the fraction asks for more than the others are.
    assert kept_counts(skewed, metaclip.select(skewed, ctx=ctx, concepts=four, fraction=0.9)) == [1000, 300, 100, 20, 0]
    other = metaclip.select(skewed, ctx=context(tmp_path, seed=1), concepts=four, fraction=0.21)
    assert rows_of(skewed, other) != rows_of(skewed, found)


def test_metaclip_of_several_concepts_by_hand(tmp_path: Path) -> None:
    texts = ["dog and cat"] * 2 + ["dog"] * 8 + ["cat"] * 2
    (tmp_path / "list.txt").write_text("dog\ncat\nbird\n")
    found = _concepts.matches(plant(tmp_path, texts=texts), str(tmp_path / "list.txt"))
    assert found.concepts == 3 and found.counts.tolist() == [0, 4, 10]  # bird, cat, dog
    # A cap of 2: a dog is taken with chance 0.2, a cat with 0.5.
    union = metaclip.chances(found, "union", 2)
    assert union.tolist() == pytest.approx([1 - 0.8 * 0.5] * 2 + [0.2] * 8 + [0.5] * 2)
    assert metaclip.chances(found, "max", 2).tolist() == pytest.approx([0.5] * 2 + [0.2] * 8 + [0.5] * 2)
    assert metaclip.chances(found, "union", 4).tolist() == pytest.approx([1] * 2 + [0.4] * 8 + [1] * 2)


@pytest.mark.parametrize("method", [metaclip, concept_balance])
def test_a_list_that_no_caption_names_is_refused(skewed: Pool, tmp_path: Path, method: Any) -> None:
    (tmp_path / "list.txt").write_text("unicorn\n")
    with pytest.raises(ConfigError, match=r"list\.txt.*no caption"):
        method.select(skewed, ctx=context(tmp_path / "s"), concepts=str(tmp_path / "list.txt"))


def test_concept_balance_evens_captions_of_several_concepts(tmp_path: Path) -> None:
    # As far as it can: with a rare concept come the frequent ones of its captions.
    rng = np.random.default_rng(6)
    odds = 1 / np.arange(1, 31)
    texts = [
        " ".join(rng.choice([f"c{k}" for k in range(30)], 3, replace=False, p=odds / odds.sum())) for _ in range(3000)
    ]
    (tmp_path / "list.txt").write_text("\n".join(f"c{k}" for k in range(30)))
    found = _concepts.matches(plant(tmp_path / "p", texts=texts), str(tmp_path / "list.txt"))
    caption = np.repeat(np.arange(len(found.named)), np.diff(found.borders)[found.named])
    spread = [float(found.counts.max() / found.counts.min())]
    for frequency in ("log", "flat"):
        chance = concept_balance.chances(found, frequency, 300)
        kept = np.bincount(found.concept, weights=chance[caption], minlength=found.concepts)
        spread.append(float(kept.max() / kept.min()))
    assert spread[0] > spread[1] > spread[2] > 1


def test_concept_balance_reaches_its_target(skewed: Pool, four: str, tmp_path: Path) -> None:
    found = _concepts.matches(skewed, four)
    starts = np.cumsum([0, *COUNTS.values()])[:-1]
    # Flat: 80 of each, but of the pears there are 20 only.
    flat = np.add.reduceat(concept_balance.chances(found, "flat", 260), starts)
    assert flat.tolist() == pytest.approx([80, 80, 80, 20])
    log = np.add.reduceat(concept_balance.chances(found, "log", 100), starts)
    assert (log / log[0]).tolist() == pytest.approx(
        [math.log1p(c) / math.log1p(1000) for c in COUNTS.values()], rel=0.1
    )
    kept = kept_counts(
        skewed, concept_balance.select(skewed, ctx=context(tmp_path), concepts=four, frequency="flat", fraction=0.13)
    )
    assert sum(kept) == 260 and kept[3:] == [20, 0] and max(kept) < 80 + 4 * math.sqrt(80)


def test_concept_balance_raises_the_entropy_over_concepts(skewed: Pool, four: str, tmp_path: Path) -> None:
    def entropy(counts: list[int]) -> float:
        shares = np.array(counts[:4]) / sum(counts[:4])
        return float(-(shares * np.log(shares)).sum())

    kept = [
        kept_counts(
            skewed,
            concept_balance.select(skewed, ctx=context(tmp_path), concepts=four, frequency=frequency, fraction=0.1),
        )
        for frequency in ("log", "flat")
    ]
    assert entropy(list(COUNTS.values())) < entropy(kept[0]) < entropy(kept[1]) <= math.log(4)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """20,000 captions of eight words: every fifth in words 0…99, the others in words 50…149."""
    rng = np.random.default_rng(3)
    low = np.where(np.arange(20_000) % 5 == 0, 0, 50)
    words = rng.integers(low[:, None], low[:, None] + 100, (20_000, 8))
    return plant(tmp_path_factory.mktemp("mixture"), texts=[" ".join(f"w{k}" for k in row) for row in words])


def test_dsir_brings_the_captions_nearer_to_the_target(mixture: Pool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    texts = [" ".join(f"w{k}" for k in row) for row in rng.integers(0, 100, (2000, 8))]
    (tmp_path / "target.txt").write_text("\n".join(texts))
    ctx = context(tmp_path / "s")
    found = rows_of(mixture, dsir.select(mixture, ctx=ctx, texts=str(tmp_path / "target.txt"), n=1, fraction=0.15))
    assert len(found) == 3000
    captions = [text for part in mixture.map(lambda t: t["text"].to_pylist(), columns=["text"]) for text in part]
    wanted, before, after = (
        _ngrams.counts(part, n=1, width=10_000) for part in (texts, captions, [captions[row] for row in found])
    )
    # The KL to the target falls, far below that of the whole pool, and the planted fifth is found.
    assert _ngrams.divergence(wanted, after) < _ngrams.divergence(wanted, before) / 4
    assert np.mean(np.array(found) % 5 == 0) > 0.9
    of_pool, of_found = (_ngrams.divergence(wanted, part) for part in (before, after))
    told = f"KL of n-grams to the target's: {of_pool:.4f} nats of the pool, {of_found:.4f} of what is kept"
    assert ctx.remarks == ["target: 2000 lines of a given file", told]


def test_dsir_takes_nothing_that_the_target_never_says(tmp_path: Path) -> None:
    # A small target, and a pool most of which is like neither it nor what has no words.
    rng = np.random.default_rng(5)
    usual = [" ".join(f"w{k}" for k in row) for row in rng.integers(0, 500, (900, 10))]
    texts = [*usual, *["..."] * 50, *(f"IMG {k}" for k in range(50)), *["a red ball"] * 100]
    pool = plant(tmp_path, texts=texts)
    (tmp_path / "target.txt").write_text("a photo of a red ball\na blue ball\nthe w1 and w2\n")
    target = str(tmp_path / "target.txt")
    found = dsir.select(pool, ctx=context(tmp_path / "s"), texts=target, fraction=100 / 1100)
    assert np.mean(np.array(rows_of(pool, found)) >= 1000) > 0.9
    found = dsir.select(pool, ctx=context(tmp_path / "t"), texts=target, fraction=1050 / 1100)
    assert not any(900 <= row < 950 for row in rows_of(pool, found))


def test_dsir_of_a_file_without_words(tmp_path: Path) -> None:
    pool = plant(tmp_path, texts=["a red ball", "a blue ball", "!!!", ""], files=2)
    (tmp_path / "target.txt").write_text("a red ball\n")
    found = dsir.select(pool, ctx=context(tmp_path / "s"), texts=str(tmp_path / "target.txt"), fraction=0.25)
    assert set(rows_of(pool, found)) <= {0, 1}


def test_dsir_draws_by_importance(tmp_path: Path) -> None:
    # Captions of one word: a fifth is red; the target has four fifths of red, so a small draw has as well.
    pool = plant(tmp_path, texts=(["red"] + ["blue"] * 4) * 10_000)
    (tmp_path / "target.txt").write_text("red\n" * 8000 + "blue\n" * 2000)
    found = dsir.select(pool, ctx=context(tmp_path / "s"), texts=str(tmp_path / "target.txt"), n=1, fraction=0.01)
    red = np.mean(np.array(rows_of(pool, found)) % 5 == 0)
    assert abs(red - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 500)


def test_dsir_takes_the_texts_that_the_pool_offers_or_class_names(tmp_path: Path) -> None:
    names = "goldfish ostrich robin jay magpie kite vulture newt axolotl iguana chameleon toucan goose koala jellyfish"
    spam = [["click here", "free shipping"]] * 15
    pool = plant(
        tmp_path,
        texts=[text for name, two in zip(names.split(), spam, strict=True) for text in (f"a photo of a {name}", *two)],
    )
    ctx = context(tmp_path / "s")
    found = dsir.select(pool, ctx=ctx, fraction=1 / 3)
    assert ctx.remarks[0].endswith("prompts of clip_benchmark's English class names and templates")
    assert np.mean(np.array(rows_of(pool, found)) % 3 == 0) > 0.9
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "texts.txt").write_text("click here\n" * 30)
    ctx = context(tmp_path / "s")
    found = dsir.select(pool, ctx=ctx, fraction=1 / 3)
    assert ctx.remarks[0] == "target: 30 texts that the pool offers"
    assert np.mean(np.array(rows_of(pool, found)) % 3 == 1) > 0.9


def test_prompts_are_class_names_in_templates() -> None:
    prompts = _target_texts.class_prompts()
    assert {"a photo of a pink primrose, a type of flower.", "a bad photo of a teapot."} < set(prompts)
    assert not any("{" in prompt for prompt in prompts)


def test_a_target_that_is_no_text_is_refused(mixture: Pool, tmp_path: Path) -> None:
    for content, match in ((b"\xff\xfe", "UTF-8"), (b"\n \n", "holds no text")):
        (tmp_path / "target.txt").write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"target\.txt.*{match}"):
            dsir.select(mixture, ctx=context(tmp_path / "s"), texts=str(tmp_path / "target.txt"))


def test_systematic_draws_keep_their_probabilities() -> None:
    chances = np.array([0.5, 0.25, 1.0, 0.0, 0.75, 0.1, 0.4])
    rng = np.random.default_rng(0)
    counts = np.zeros(len(chances))
    for _ in range(4000):
        rows = _draw.systematic(chances, rng)
        assert len(rows) == 3 and (np.diff(rows) > 0).all()
        counts[rows] += 1
    assert counts[2] == 4000 and counts[3] == 0
    deviation = np.abs(counts / 4000 - chances)
    assert (deviation <= 4 * np.sqrt(chances * (1 - chances) / 4000)).all()
    sizes = {len(_draw.systematic(np.full(7, 0.35), rng)) for _ in range(200)}
    assert sizes == {2, 3}
    assert len(_draw.systematic(np.empty(0), rng)) == 0


def test_systematic_draws_of_a_large_pool_have_the_exact_size() -> None:
    weights = np.random.default_rng(1).pareto(1.2, 300_000) + 1e-3

    def at(factor: float) -> Any:
        return np.minimum(1, factor * weights)

    for size in (1, 12_345, 299_999):
        chances = at(_draw.scaled(at, size, most=1 / weights.min()))
        assert len(_draw.systematic(chances, np.random.default_rng(2))) == size


def test_gumbel_top_draws_in_proportion() -> None:
    weights = np.array([4.0, 2.0, 1.0, 1.0, 0.0])
    rng = np.random.default_rng(0)
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    first = np.bincount([_draw.gumbel_top(logs, 1, rng)[0] for _ in range(4000)], minlength=5) / 4000
    shares = weights / 8
    assert (np.abs(first - shares) <= 4 * np.sqrt(shares * (1 - shares) / 4000)).all()
    # Without replacement: rows 0 and 1 come together with chance 1/2 * 1/2 + 1/4 * 2/3.
    both = np.mean([_draw.gumbel_top(logs, 2, rng).tolist() == [0, 1] for _ in range(4000)])
    assert abs(both - 5 / 12) < 4 * math.sqrt(5 / 12 * 7 / 12 / 4000)


def test_methods_are_the_same_for_the_same_seed(mixture: Pool, tmp_path: Path) -> None:
    (tmp_path / "target.txt").write_text(json.dumps("w1 w2 w3"))
    picks = [
        rows_of(
            mixture, dsir.select(mixture, ctx=context(tmp_path / "s", seed=seed), texts=str(tmp_path / "target.txt"))
        )
        for seed in (0, 0, 1)
    ]
    assert picks[0] == picks[1] != picks[2]
