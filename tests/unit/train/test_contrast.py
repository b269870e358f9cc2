"""The loop's step is open_clip's, however it is cut up."""

import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from open_clip_train.scheduler import cosine_lr
from waiting import LONG

from harness import model
from harness.config import RunConfig, load_scale
from harness.train.contrast import gradient
from harness.train.learner import Learner
from harness.train.towers import SideBySide
from harness.train.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def reduced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """ViT-B-32 reduced in width and depth, under the name b32-reduced."""
    _register()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _register() -> None:
    architecture = copy.deepcopy(open_clip.get_model_config("ViT-B-32"))
    architecture["embed_dim"] = 32
    architecture["vision_cfg"] |= {"width": 64, "layers": 2, "image_size": 64}
    architecture["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2, "vocab_size": 49408}
    open_clip.factory._MODEL_CONFIGS["b32-reduced"] = architecture


def config(**train: Any) -> RunConfig:
    scale = load_scale("small").model_dump() | {"model": "b32-reduced", "precision": "fp32"}
    return RunConfig.model_validate({"scale": scale, "method": {"name": "no_filter"}, "train": train})


def batches(n: int = STEPS, size: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    tokens = model.tokenizer("b32-reduced")
    return [
        (
            torch.randn((size, 3, 64, 64), generator=generator),
            tokens([f"number {i} of {k} " + "word " * (i * k % 9) for i in range(size)]),
        )
        for k in range(n)
    ]  # fmt: skip


def trained(slices: int, *, world: World = ALONE, size: int = 12) -> dict[str, torch.Tensor]:
    """Weights after 20 steps, each batch cut into slices (and shared out among the processes of `world`)."""
    learner = Learner(config(), world)
    for k, (images, tokens) in enumerate(batches(size=size)):
        mine = np.array_split(np.arange(size), world.size)[world.rank]
        parts = np.array_split(mine, slices)
        learner.step(k, [(images[part], tokens[part]) for part in parts])
    return {name: value.clone() for name, value in learner.bare.state_dict().items()}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_twenty_steps_are_open_clips_own() -> None:
    ours = Learner(config(), ALONE)
    theirs = copy.deepcopy(ours.bare)
    named = list(theirs.named_parameters())
    exempt = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for n, p in named if not any(p is e for e in exempt)]
    optimizer = torch.optim.AdamW(
        [{"params": exempt, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}],
        lr=5e-4, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip
    adjust, loss_function = cosine_lr(optimizer, 5e-4, 500, 3125), open_clip.ClipLoss()
    for step, (images, tokens) in enumerate(batches()):
        adjust(step)
        optimizer.zero_grad()
        loss = loss_function(**theirs(images, tokens))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            theirs.logit_scale.clamp_(0, math.log(100))
        assert abs(float(ours.step(step, [(images, tokens)])) - float(loss.detach())) < 1e-6
    assert difference(ours.bare.state_dict(), theirs.state_dict()) < 1e-6


def test_slices_give_the_gradient_of_the_whole_batch() -> None:
    images, tokens = batches(1)[0]
    found = []
    for slices in (1, 2, 4, 5):
        clip = model.create("b32-reduced")
        parts = [(images[p], tokens[p]) for p in np.array_split(np.arange(12), slices)]
        loss = gradient(clip, parts, world=ALONE)
        found.append((float(loss), {n: p.grad for n, p in clip.named_parameters()}))
    for loss, gradients in found[1:]:
        assert abs(loss - found[0][0]) < 1e-6
        for name, expected in found[0][1].items():
            torch.testing.assert_close(
                gradients[name], expected, rtol=1e-4, atol=1e-6 + 1e-5 * float(expected.abs().max())
            )


def test_accumulation_changes_nothing() -> None:
    whole, before = trained(1), model.create("b32-reduced").state_dict()
    assert difference(whole, before) > 1e-4
    for slices in (2, 4):
        assert difference(trained(slices), whole) <= 1e-5


@pytest.mark.parametrize("slices", [1, 3])
def test_towers_side_by_side_give_the_same_bits(slices: int) -> None:
    apart = trained(slices)
    torch.set_num_threads(2)  # one for each tower, while `one_thread` leaves both to one
    assert isinstance(Learner(config(), ALONE).model, SideBySide)
    together = trained(slices)
    assert torch.get_num_threads() == 2
    assert all(torch.equal(together[name], apart[name]) for name in apart)


@pytest.mark.slow
def test_accumulation_changes_nothing_at_tiny() -> None:
    scale = load_scale("tiny")
    tokens = model.tokenizer("clip-tiny")
    found = []
    for slices in (1, 2, 4):
        learner = Learner(RunConfig.model_validate({"scale": scale, "method": {"name": "no_filter"}}), ALONE)
        generator = torch.Generator().manual_seed(1)
        for k in range(STEPS):
            images = torch.randn((256, 3, 32, 32), generator=generator)
            texts = tokens([f"number {i} of {k} " + "word " * (i * k % 5) for i in range(256)])
            parts = np.array_split(np.arange(256), slices)
            learner.step(k, [(images[part], texts[part]) for part in parts])
        found.append(learner.bare.state_dict())
    assert max(difference(found[0], other) for other in found[1:]) <= 1e-5


def _rank(rank: int, size: int, batch: int, slices: int, folder: str, results: Any) -> None:
    _register()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    weights = trained(slices, world=World(rank=rank, size=size, device=torch.device("cpu")), size=batch)
    if rank == 0:
        torch.save(weights, os.path.join(folder, "weights.pt"))
    results.put(rank)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "slices"), [(12, 1), (11, 1), (11, 3)])
def test_two_processes_train_as_one(tmp_path: Path, batch: int, slices: int) -> None:
    context = mp.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_rank, args=(r, 2, batch, slices, str(tmp_path), results)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONG)
    assert sorted(results.get(timeout=60) for _ in processes) == [0, 1]
    both = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert difference(both, trained(1, size=batch)) <= 1e-5


def test_amp_scales_and_bf16_casts() -> None:
    images, tokens = batches(1)[0]
    losses = {}
    for precision in ("fp32", "amp_bfloat16", "amp"):
        base = config()
        scale = base.scale.model_copy(update={"precision": precision})
        learner = Learner(base.model_copy(update={"scale": scale}), ALONE)
        losses[precision] = float(learner.step(0, [(images, tokens)]))
        assert (learner.scaler is not None) == (precision == "amp")
        moved = [s["exp_avg"].abs().max() for s in learner.optimizer.state.values()]
        assert max(map(float, moved)) < 10  # gradients were unscaled
    assert losses["amp_bfloat16"] != losses["fp32"]
    assert losses["amp"] == pytest.approx(losses["fp32"], abs=0.05)


def test_gradient_checkpointing_keeps_the_numbers() -> None:
    images, tokens = batches(1)[0]
    plain, saving = Learner(config(), ALONE), Learner(config(grad_checkpointing=True), ALONE)
    for learner in (plain, saving):
        learner.step(0, [(images, tokens)])
    assert saving.bare.transformer.grad_checkpointing
    assert difference(plain.bare.state_dict(), saving.bare.state_dict()) == 0


def test_the_temperature_stays_in_bounds() -> None:
    images, tokens = batches(1)[0]
    learner = Learner(config(), ALONE)
    with torch.no_grad():
        learner.bare.logit_scale.fill_(9.0)
    learner.step(0, [(images, tokens)])
    assert float(learner.logit_scale) == pytest.approx(100, rel=1e-5)
