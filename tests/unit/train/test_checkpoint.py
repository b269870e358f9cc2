"""A snapshot brings everything back, in the layout in which it lay."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import model
from harness.config import RunConfig
from harness.errors import ArtifactError
from harness.train import checkpoint
from harness.train.learner import Learner
from harness.train.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def batch(k: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(k)
    tokens = model.tokenizer("clip-tiny")([f"number {i} of {k}" for i in range(8)])
    return [(torch.randn((8, 3, 32, 32), generator=generator), tokens)]


def fresh(config: RunConfig, *, channels_last: bool) -> Learner:
    learner = Learner(config, ALONE)
    if channels_last:  # as on a GPU
        learner.bare.to(memory_format=torch.channels_last)
    return learner


def test_a_snapshot_whose_content_changed_is_refused(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    learner, path = Learner(make_config(), ALONE), tmp_path / checkpoint.SNAPSHOT
    checkpoint.save(path, learner, checkpoint.Position(steps=1, ledger=["ab" * 32]), run="r")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"its content is not what was saved.*delete it to train from the start"):
        checkpoint.restore(path, learner, run="r")


def test_a_snapshot_whose_header_changed_is_refused(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    learner, path = Learner(make_config(), ALONE), tmp_path / checkpoint.SNAPSHOT
    checkpoint.save(path, learner, checkpoint.Position(steps=1, ledger=["ab" * 32]), run="r")
    content = path.read_bytes()
    steps = rb"\"steps\": "
    path.write_bytes(content.replace(steps + b"1", steps + b"7"))
    assert path.read_bytes() != content
    with pytest.raises(ArtifactError, match="its content is not what was saved"):
        checkpoint.restore(path, learner, run="r")
    path.write_bytes(content.replace(b'"sha256"', b'"sha255"'))
    with pytest.raises(ArtifactError, match="not a snapshot of this version of the harness, which writes 'sha256'"):
        checkpoint.restore(path, learner, run="r")


@pytest.mark.parametrize(("precision", "channels_last"), [("fp32", True), ("amp", False)])
def test_a_restored_learner_goes_on_as_if_nothing_had_been(
    make_config: Callable[..., RunConfig], tmp_path: Path, precision: str, channels_last: bool
) -> None:
    config = make_config(precision=precision)
    learner, path = fresh(config, channels_last=channels_last), tmp_path / checkpoint.SNAPSHOT
    for k in range(2):
        learner.step(k, batch(k))
    checkpoint.save(path, learner, checkpoint.Position(steps=2, ledger=["ab" * 32, "cd" * 32]), run="r")
    learner.step(2, batch(2))

    other = fresh(config, channels_last=channels_last)
    assert checkpoint.restore(path, other, run="r") == checkpoint.Position(steps=2, ledger=["ab" * 32, "cd" * 32])
    for parameter, state in other.optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    other.step(2, batch(2))
    for (name, one), two in zip(learner.bare.state_dict().items(), other.bare.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    if learner.scaler is not None and other.scaler is not None:
        assert learner.scaler.state_dict() == other.scaler.state_dict()
        assert other.scaler.state_dict()["_growth_tracker"] == 3
