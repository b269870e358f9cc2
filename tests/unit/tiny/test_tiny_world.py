"""The generated world: pictures are a pure function of their factors, captions tell what is in them."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tiny import captions
from harness.tiny.art import MASK_CODE, MASKS, SPRITE, atlas
from harness.tiny.shards import Spec, imagine
from harness.tiny.words import COLOUR_NAMES, FOREIGN, SCENES, TEXTURES, THINGS, article, plural
from harness.tiny.world import FACTORS, THING, render, sample, stream

FINGERPRINT = "e420bf97e56cda3ad6d2b94684f89a322599aa02c100f70b7ce18db5946a24be"


def test_default_pool_is_the_one_that_the_shipped_scores_belong_to() -> None:
    samples = imagine(Spec("", 0, "pool", 0, 0, 256))
    state = hashlib.sha256(render(samples.rows).tobytes() + samples.size.astype("<i8").tobytes())
    state.update("\n".join(samples.captions).encode())
    assert state.hexdigest() == FINGERPRINT, (
        "the generator changed: run scripts/train_reference_clips.py --only-scores, then put the new value here"
    )


def test_picture_does_not_depend_on_its_neighbours() -> None:
    rows = sample(stream("test", 1), 64)
    together = render(rows)
    assert (together == np.concatenate([render(rows[i : i + 1]) for i in range(64)])).all()
    assert (render(rows[::-1])[::-1] == together).all()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_every_row_has_a_picture_and_a_caption(seed: int, n: int) -> None:
    rng = stream(seed)
    rows = sample(rng, n)
    pictures = render(rows)
    assert pictures.shape == (n, 36, 36, 3)
    assert pictures.dtype == np.uint8
    for told in (captions.describe, captions.foreign):
        assert all(told(rows, rng.random((n, captions.DRAWS))))
    assert len(captions.junk(rng.random((n, captions.DRAWS)))) == n


def test_streams_of_different_names_share_no_picture() -> None:
    seen = [{row.tobytes() for row in render(sample(stream(*name), 200))} for name in (("a", 0), ("a", 1), ("b", 0))]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]


def test_a_thing_looks_like_its_colour_and_stands_at_its_place() -> None:
    rows = sample(stream("place"), 40, kind=THING, count=1, thing=THINGS.index("heart"), thing2=-1, scene=0, style=0,
                  texture=0, night=0, turn=0, size=0, colour=COLOUR_NAMES.index("red"), place=[1, 2] * 20)  # fmt: skip
    pictures = render(rows).astype(int)
    red = (pictures[..., 0] - np.maximum(pictures[..., 1], pictures[..., 2])) > 90
    middle = (red * np.arange(36)).sum(axis=(1, 2)) / red.sum(axis=(1, 2))
    assert (middle[0::2] < 16).all()
    assert (middle[1::2] > 20).all()


def test_caption_names_the_facts() -> None:
    row = np.zeros(1, dtype=FACTORS)
    row["thing"], row["colour"], row["count"], row["thing2"], row["size"] = 4, 8, 3, -1, 1
    draws = np.zeros((1, captions.DRAWS))
    assert captions.describe(row, draws) == ["three black cats on a plain background"]
    row["count"], row["place"], row["scene"], row["size"] = 1, 1, 1, 2
    assert captions.describe(row, draws) == ["a large black cat on the left in the forest"]


def test_masks_leave_their_border_empty() -> None:
    cover = atlas().cover.reshape(2, len(MASKS), SPRITE, SPRITE)
    for name, code in MASK_CODE.items():
        border = np.concatenate([cover[0, code, 0], cover[0, code, -1], cover[0, code, :, 0], cover[0, code, :, -1]])
        assert border.any() == (name == "full")
    assert (atlas().bright <= atlas().cover).all()


def test_word_tables_fit_each_other() -> None:
    for words in FOREIGN.values():
        assert [len(words[name]) for name in ("things", "colours", "scenes")] == [20, len(COLOUR_NAMES), len(SCENES)]
    assert {scene[1] for scene in SCENES.values()} <= set(TEXTURES)
    assert [article("umbrella"), article("mug"), plural("fish"), plural("hat")] == [
        "an umbrella",
        "a mug",
        "fish",
        "hats",
    ]
