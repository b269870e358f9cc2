"""The training stage as a whole: records, resuming, errors, audit."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness import executor, model
from harness.audit import audit
from harness.config import RunConfig
from harness.errors import ArtifactError, ConfigError, InfraError, StageError
from harness.files import sha256_file
from harness.order import Order, chain
from harness.pool.sealed import SealedPool
from harness.records import Record, read_json, read_record
from harness.reshard import reshard
from harness.subset import Subset
from harness.train import checkpoint, learner
from harness.train.recipe import forward_macs
from harness.train.run import train
from harness.train.watch import Watch
from harness.train.world import World

Config = Callable[..., RunConfig]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def run_dir(tmp_path: Path, subset: Subset) -> Path:
    subset.save(tmp_path / "uids.npy")
    return tmp_path


def test_a_run_leaves_its_records(make_config: Config, sealed: SealedPool, subset: Subset, run_dir: Path) -> None:
    out = run_dir / "train"
    record = train(make_config(), sealed=sealed, subset=subset, out=out)
    assert read_record(out / "train.json", "train").digest == record.digest
    assert record.inputs == {"pool": sealed.digest, "subset": subset.digest}
    assert record.payload["samples_seen"] == 72
    assert record.payload["steps"] == 5
    assert record.payload["official"] is False
    assert record.payload["checkpoint"] == sha256_file(out / "checkpoint.safetensors")
    assert [kept["step"] for kept in record.payload["checkpoints"]] == [1, 2, 3, 4, 5]
    assert all(sha256_file(out / kept["file"]) == kept["sha256"] for kept in record.payload["checkpoints"])
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["samples"] for entry in log] == [16, 32, 48, 64, 72]
    keys = {"step", "samples", "loss", "lr", "logit_scale", "samples_per_second", "data_wait"}
    assert all(set(entry) == keys for entry in log)
    assert not (out / checkpoint.SNAPSHOT).exists()

    # Again: nothing is done twice, and the audit finds what was fed.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert train(make_config(), sealed=sealed, subset=subset, out=out).digest == record.digest
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert audit(run_dir) == []


def test_other_weights_in_place_of_the_final_ones_are_refused(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    record = train(make_config(), sealed=sealed, subset=subset, out=tmp_path)
    weights = tmp_path / "checkpoint.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: not the checkpoint that train\.json names"):
        train(make_config(), sealed=sealed, subset=subset, out=tmp_path)
    weights.unlink()
    assert train(make_config(), sealed=sealed, subset=subset, out=tmp_path).digest == record.digest


def test_seed_and_order_change_the_run(make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path) -> None:
    digests = {
        train(config, sealed=sealed, subset=subset, out=tmp_path / str(i)).payload["ledger"]
        for i, config in enumerate(
            [make_config(samples_seen=16), make_config(samples_seen=16, seed=1),
             make_config(samples_seen=16, train={"order": "with_replacement"})]
        )
    }  # fmt: skip
    assert len(digests) == 3
    assert read_record(tmp_path / "2" / "train.json", "train").protocol == "v1-with_replacement"


def test_masked_and_resharded_training_are_the_same(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    resharded = reshard(sealed, subset, out=tmp_path / "shards", executor=executor.local(1))
    masked = train(make_config(), sealed=sealed, subset=subset, out=tmp_path / "a")
    copied = train(make_config(), sealed=sealed, subset=subset, resharded=resharded, out=tmp_path / "b")
    assert masked.digest == copied.digest
    assert (tmp_path / "a/checkpoint.safetensors").read_bytes() == (tmp_path / "b/checkpoint.safetensors").read_bytes()


def test_tars_of_another_subset_or_pool_are_refused(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    shards = reshard(sealed, Subset.of(np.asarray(sealed.uids)), out=tmp_path / "shards", executor=executor.local(1))
    with pytest.raises(ConfigError, match=r"/shards: holds the tars of another subset than"):
        train(make_config(), sealed=sealed, subset=subset, resharded=shards, out=tmp_path / "out")
    other = dataclasses.replace(sealed, digest="0" * 64)
    with pytest.raises(ConfigError, match=r"/shards: holds the tars of another pool and subset than"):
        train(make_config(), sealed=other, subset=subset, resharded=shards, out=tmp_path / "out")
    assert not (tmp_path / "out" / "train.json").exists()


class SuddenEndError(Exception):
    """Stands for the end of a process."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    step, done = learner.Learner.step, []

    def counted(self: Any, number: int, slices: Any) -> torch.Tensor:
        if len(done) == steps:
            raise SuddenEndError
        done.append(number)
        return step(self, number, slices)

    monkeypatch.setattr(learner.Learner, "step", counted)


def test_an_interrupted_run_ends_with_the_same_weights(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(train={"checkpoint_minutes": 1e-9})
    whole = train(config, sealed=sealed, subset=subset, out=tmp_path / "whole")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        with pytest.raises(SuddenEndError):
            train(config, sealed=sealed, subset=subset, out=tmp_path / "parts")
    resumed = train(config, sealed=sealed, subset=subset, out=tmp_path / "parts")
    assert resumed.provenance["resumed_at"] == 3
    assert resumed.digest == whole.digest
    for step in (1, 2, 3, 4):  # of the first part and of the second
        ledgers = [
            read_record(tmp_path / name / f"checkpoints/step_{step:07d}.json", "ledger") for name in ("whole", "parts")
        ]
        assert ledgers[0].digest == ledgers[1].digest
        assert len(ledgers[0].payload["batches"]) == step
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


def test_sigterm_saves_first(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = learner.Learner.step

    def told(self: Any, number: int, slices: Any) -> torch.Tensor:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, slices)

    with monkeypatch.context() as patched:
        patched.setattr(learner.Learner, "step", told)
        with pytest.raises(InfraError, match="stopped at step 2"):
            train(make_config(), sealed=sealed, subset=subset, out=tmp_path)
    assert not (tmp_path / "train.json").exists()
    record = train(make_config(), sealed=sealed, subset=subset, out=tmp_path)
    assert record.provenance["resumed_at"] == 2


def test_a_snapshot_of_another_run_is_refused(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        with pytest.raises(SuddenEndError):
            train(make_config(train={"checkpoint_minutes": 1e-9}), sealed=sealed, subset=subset, out=tmp_path)
    with pytest.raises(StageError, match="other settings"):
        train(make_config(seed=5), sealed=sealed, subset=subset, out=tmp_path)
    (tmp_path / checkpoint.SNAPSHOT).write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match="not a readable snapshot"):
        train(make_config(), sealed=sealed, subset=subset, out=tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"the loss is nan at step \d"):
        train(make_config(lr=1e38, checkpoints=1), sealed=sealed, subset=subset, out=tmp_path)
    assert not (tmp_path / "train.json").exists()


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, then: Callable[[learner.Learner], None]) -> None:
    """Have `then` happen to the learner after optimizer step `number`."""
    step = learner.Learner.step

    def changed(self: learner.Learner, at: int, slices: Any) -> torch.Tensor:
        loss = step(self, at, slices)
        if at == number:
            then(self)
        return loss

    monkeypatch.setattr(learner.Learner, "step", changed)


def test_weights_that_are_not_finite_after_the_last_step_are_no_finished_run(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 4, lambda learner: learner.bare.text_projection.data.fill_(float("nan")))
    with pytest.raises(StageError, match="the weights are not finite after step 5"):
        train(make_config(), sealed=sealed, subset=subset, out=tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert not (tmp_path / "train.json").exists()


def test_a_gpu_without_memory_left_is_an_infra_error(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up(learner: learner.Learner) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    at_step(monkeypatch, 1, used_up)
    with pytest.raises(InfraError, match=r"train\.accumulate=N"):
        train(make_config(), sealed=sealed, subset=subset, out=tmp_path)


def test_a_finished_run_is_not_overwritten(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    record = train(make_config(samples_seen=16), sealed=sealed, subset=subset, out=tmp_path)
    with pytest.raises(StageError, match="finished training with other settings"):
        train(make_config(samples_seen=16, seed=1), sealed=sealed, subset=subset, out=tmp_path)
    assert read_record(tmp_path / "train.json", "train") == record


def test_a_run_that_another_command_finished_meanwhile_is_not_done_again(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(samples_seen=16)
    first: list[Record] = []

    @contextmanager
    def waited(folder: str) -> Iterator[None]:
        monkeypatch.undo()
        first.append(train(config, sealed=sealed, subset=subset, out=Path(folder)))
        yield

    monkeypatch.setattr("harness.train.run.patient_lock", waited)
    again = train(config, sealed=sealed, subset=subset, out=tmp_path)
    assert first == [again]


def test_a_full_disk_is_an_infra_error(make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(InfraError, match="checkpoints"):
            train(make_config(samples_seen=32), sealed=sealed, subset=subset, out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "train.json").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_audit_finds_other_batches(make_config: Config, sealed: SealedPool, subset: Subset, run_dir: Path) -> None:
    train(make_config(), sealed=sealed, subset=subset, out=run_dir / "train")
    for name, batch in (("ledger.json", 2), ("checkpoints/step_0000004.json", 3)):
        path = run_dir / "train" / name
        changed = read_json(path)
        changed["payload"]["batches"][batch] = "00000000"
        path.write_text(json.dumps(changed))
    assert audit(run_dir) == [
        "batch 2 differs from what the uid file gives (1 of 5)",
        "train/checkpoints/step_0000004.json: batch 3 differs from what the uid file gives (1 of 4)",
    ]
    (run_dir / "train" / "checkpoints" / "step_0000004.json").unlink()
    assert audit(run_dir)[1:] == ["train/checkpoints/step_0000004.json: no such file"]
    ledger = run_dir / "train" / "ledger.json"
    before = ledger.read_text()
    # Batches without end are not waited for.
    ledger.write_text(before.replace('"samples_seen": 72', '"samples_seen": 72000000000000'))
    assert audit(run_dir) == ["ledger.json states samples_seen 72000000000000, train.json 72"]
    ledger.write_text(before.replace('"batch_size": 16', '"batch_size": 1'))
    assert audit(run_dir) == ["the ledger holds 5 batches, the uid file gives 72"]
    other = Subset.of(np.asarray(sealed.uids[:50]))
    other.save(run_dir / "uids.npy")
    assert "subset is not the one of the run" in audit(run_dir)[0]


def test_the_audit_refuses_damaged_records(
    make_config: Config, sealed: SealedPool, subset: Subset, run_dir: Path
) -> None:
    train(make_config(), sealed=sealed, subset=subset, out=run_dir / "train")
    for name, key in (("ledger.json", "seed"), ("train.json", "checkpoints")):
        path = run_dir / "train" / name
        before = path.read_text()
        changed = json.loads(before)
        del changed["payload"][key]
        path.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=f"{name}: .*{key}"):
            audit(run_dir)
        path.write_text(before.replace('"batch_size": 16', '"batch_size": 0'))
        if path.read_text() != before:
            with pytest.raises(ArtifactError, match=r"ledger.json: .*batch_size"):
                audit(run_dir)
        path.write_text(before)
    assert audit(run_dir) == []


def test_held_out_pairs_are_not_fed(make_config: Config, sealed: SealedPool, tmp_path: Path) -> None:
    config = make_config(samples_seen=96).model_copy(
        update={"pool": make_config().pool.model_copy(update={"holdout": 10})}
    )
    everything = Subset.of(np.asarray(sealed.uids))
    everything.save(tmp_path / "uids.npy")
    train(config, sealed=sealed, subset=everything, out=tmp_path / "train")
    assert audit(tmp_path) == []
    fed = Order(sealed.uids, sealed.borders, everything.uids, seed=0, batch_size=16, samples_seen=96)
    assert read_record(tmp_path / "train" / "ledger.json", "ledger").payload["digest"] != chain(fed.ledger())


def test_wandb_offline(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(make_config(samples_seen=16, wandb="offline"), sealed=sealed, subset=subset, out=tmp_path)
    name = (tmp_path / "wandb_id").read_text()
    assert list(tmp_path.glob(f"wandb/offline-run-*-{name}"))


def test_wandb_online_without_a_key_is_one_sentence(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    config = make_config(samples_seen=16, wandb="online")
    for error, kind in ((wandb.errors.UsageError, ConfigError), (wandb.errors.CommError, InfraError)):

        def refuse(error: type[Exception] = error, **settings: object) -> None:
            raise error("No key.\nLog in.")

        monkeypatch.setattr(wandb, "init", refuse)
        with pytest.raises(kind, match=r"setting wandb=online: No key\. Log in\."):
            train(config, sealed=sealed, subset=subset, out=tmp_path)


def test_what_wandb_is_told(
    make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row a step; on a GPU memory and model FLOP utilisation as well."""
    rows: list[dict[str, float]] = []
    run = SimpleNamespace(log=lambda row, step: rows.append({**row, "step": step}), finish=lambda exit_code: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: run))
    config = make_config(samples_seen=48, wandb="online")
    train(config, sealed=sealed, subset=subset, out=tmp_path)
    names = ("samples", "loss", "logit_scale", "lr", "data_wait", "samples_per_second")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(set(row) == {"step", *(f"train/{name}" for name in names)} for row in rows)

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    world = World(rank=0, size=2, device=torch.device("cuda", 0))
    machine = Watch(config, out=tmp_path, world=world, done=0)._machine(1e6)
    flops = 3 * 2 * forward_macs(model.config("clip-tiny")) * 1e6
    assert machine == {"train/gpu_memory": 3.0, "train/mfu": pytest.approx(flops / (2 * 989e12))}
