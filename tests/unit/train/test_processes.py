"""Several training processes: what is refused, what is told, what a lost one leaves."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest
import torch

from harness.config import RunConfig, load_scale
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.order import Order
from harness.pool.sealed import SealedPool
from harness.records import canonical_json
from harness.subset import Subset
from harness.train import worker
from harness.train import world as worlds
from harness.train.loop import fit
from harness.train.run import train
from harness.train.stream import Stream
from harness.train.world import World

Config = Callable[..., RunConfig]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_too_many_processes_and_slices_for_a_batch(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(rank=0, size=3, device=torch.device("cpu"))
    monkeypatch.setattr("harness.train.run.join", lambda device: nullcontext(world))
    monkeypatch.setattr(World, "largest", lambda self, value: value)
    with pytest.raises(ConfigError, match=r"holds 8 samples, too few for 3 processes with 3 slices each"):
        train(make_config(train={"accumulate": 3}), sealed=sealed, subset=subset, out=tmp_path)


def test_processes_that_see_other_snapshots_stop(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a file system shows a new file on one node and not yet on another."""
    monkeypatch.setattr(World, "largest", lambda self, value: max(value, 3))
    with pytest.raises(InfraError, match="not all processes see the same snapshot"):
        fit(make_config(), cast("Order", None), cast("Stream", None), world=ALONE, out=tmp_path, run="r", inputs={})


@pytest.mark.parametrize("first", [0, 1])
def test_the_cause_is_told_of_several_failures(tmp_path: Path, first: int) -> None:
    failures = [("InfraError", "a training process was lost"), ("ArtifactError", "x.tar: sample 7 cannot be read")]
    for rank, (kind, message) in enumerate(failures[first:] + failures[:first]):
        (tmp_path / f"failure-{rank}.json").write_text(json.dumps({"kind": kind, "message": message}))
    error = worker._failure(tmp_path)
    assert isinstance(error, ArtifactError)
    assert str(error) == "x.tar: sample 7 cannot be read"


@pytest.mark.parametrize(("cards", "there"), [(1, "1 GPUs"), (0, "2 cores to train on without a GPU")])
def test_more_processes_than_cards_or_cores_are_refused_before_anything(
    cards: int, there: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    values = {"scale": load_scale("small"), "method": {"name": "no_filter"}, "train": {"gpus": 8}}
    with pytest.raises(ConfigError, match=f"train.gpus=8: this machine has {there}; take no more than that"):
        worker.launch(RunConfig.model_validate(values), sealed=None, subset=None, resharded=None, out=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


GLOO = "[/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer. This is typically a bug."


@pytest.mark.parametrize(
    ("lost", "cause"),
    [
        (RuntimeError(GLOO), "Connection reset by peer"),
        (torch.distributed.DistBackendError("NCCL error\nlast error: x"), "NCCL error"),
        (ConnectionResetError("reset"), "reset"),
    ],
)
def test_a_lost_process_is_an_infra_error(lost: Exception, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "under_torchrun", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", Mock(side_effect=lost))
    with pytest.raises(InfraError, match=f"^a training process was lost .*{cause}[)]; run the same command"):
        worlds.join("cpu").__enter__()


def test_a_process_lost_later_is_an_infra_error(monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.World(rank=0, size=2, device=torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "all_reduce", Mock(side_effect=RuntimeError(GLOO)))
    for ask in (lambda: world.sum(torch.ones(1)), lambda: world.largest(1)):
        with pytest.raises(InfraError, match=r"^a training process was lost .*Connection reset by peer\); run"):
            ask()


def test_another_error_of_torch_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "under_torchrun", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    for name, given in {"init_process_group": None, "get_rank": 0, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, Mock(return_value=given))
    with pytest.raises(RuntimeError, match="shapes differ"), worlds.join("cpu"):
        raise RuntimeError("shapes differ: gloo has no part in it")


def test_a_process_leaves_its_error_to_the_one_that_started_it(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of them would say the same."""
    subset.save(tmp_path / "uids.npy")
    job = worker.Job(
        config=make_config(), pool=sealed.path, seal_dir=sealed.seal_dir, subset=str(tmp_path / "uids.npy"),
        shards=None, out=str(tmp_path),
    )  # fmt: skip
    (tmp_path / "job.json").write_bytes(canonical_json(job.model_dump()))
    monkeypatch.setattr(worker, "train", Mock(side_effect=ArtifactError("x.tar: sample 7 cannot be read")))
    monkeypatch.setattr(worker, "_stop_with_parent", lambda parent: None)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        worker.command([str(tmp_path / "job.json")])
    assert end.value.code == ArtifactError.exit_code
    assert str(worker._failure(tmp_path)) == "x.tar: sample 7 cannot be read"
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    with pytest.raises(ArtifactError):
        worker.command([str(tmp_path / "job.json")])
