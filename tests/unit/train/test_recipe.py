"""The recipe's numbers are those of open_clip_train."""

from itertools import pairwise

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip_train.scheduler import cosine_lr

from harness import model
from harness.config import load_scale, scale_names
from harness.train.learner import adamw
from harness.train.recipe import checkpoint_steps, forward_macs, learning_rate, share


@pytest.mark.parametrize("name", scale_names())
def test_learning_rates_are_those_of_open_clip_train(name: str) -> None:
    scale = load_scale(name)
    parameter = torch.nn.Parameter(torch.zeros(1))
    adjust = cosine_lr(torch.optim.SGD([parameter], lr=1.0), scale.lr, scale.warmup_steps, scale.steps)
    steps = {0, 1, scale.warmup_steps - 1, scale.warmup_steps, scale.steps // 2, scale.steps - 1}
    steps |= set(range(0, scale.steps, max(1, scale.steps // 1000)))
    for step in sorted(step for step in steps if step < scale.steps):
        assert learning_rate(scale, step) == adjust(step)


@pytest.mark.parametrize("name", scale_names())
def test_parameter_groups_are_those_of_open_clip_train(name: str) -> None:
    scale = load_scale(name)
    with torch.device("meta"):
        clip = open_clip.CLIP(**model.config(scale.model))

    def exempt(name: str, parameter: torch.nn.Parameter) -> bool:  # the rule of open_clip_train 3.3.0's main
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    expected = [[n for n, p in clip.named_parameters() if exempt(n, p) is wanted] for wanted in (True, False)]
    optimizer = adamw(clip, scale)
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups] == expected
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.2]
    assert {(*group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.9, scale.beta2, 1e-6)}


@pytest.mark.parametrize(
    ("name", "steps"),
    [("tiny", [51, 102, 154, 205, 256]), ("small", [625, 1250, 1875, 2500, 3125]), ("debug", [25, 50, 75, 100, 125])],
)
def test_checkpoints_stand_at_fifths(name: str, steps: list[int]) -> None:
    assert checkpoint_steps(load_scale(name)) == steps


def test_more_checkpoints_than_steps_keep_each_step() -> None:
    scale = load_scale("tiny").model_copy(update={"samples_seen": 1024, "checkpoints": 10**15})
    assert checkpoint_steps(scale) == [1, 2, 3, 4]


def test_xlarge_ends_with_the_remainder() -> None:
    scale = load_scale("xlarge")
    assert scale.steps == 142_046
    assert checkpoint_steps(scale)[-1] == 142_046


@given(st.integers(0, 1000), st.integers(0, 300), st.integers(1, 9))
def test_shares_cover_a_range_evenly(start: int, size: int, parts: int) -> None:
    cuts = [share(start, start + size, parts=parts, index=i) for i in range(parts)]
    assert cuts[0][0] == start
    assert cuts[-1][1] == start + size
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    sizes = [b - a for a, b in cuts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("name", "giga"), [("ViT-B-32", 7.4), ("ViT-B-16", 20.5), ("ViT-L-14", 87.7)])
def test_macs_are_those_of_the_paper(name: str, giga: float) -> None:
    assert forward_macs(model.config(name)) / 1e9 == pytest.approx(giga, rel=0.02)
