"""Which device a setting means, and how torch computes there."""

from functools import partial

import pytest
import torch

from harness import device
from harness.errors import ConfigError
from harness.eval.encoder import devices

pick = partial(device.pick, setting="train.device")


def cards(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("name", ["meta", "mps", "xpu"])
def test_a_device_on_which_nothing_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^setting train.device: no model runs on {name}; use auto, cpu or cuda:N$"):
        pick(name)
    with pytest.raises(ConfigError, match=f"^setting eval.device: no model runs on {name}; use auto, all, cpu or"):
        devices(name)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 0)
    assert pick("auto") == torch.device("cpu") and devices("auto") == devices("all") == ["cpu"]
    assert devices("cpu, cpu") == ["cpu", "cpu"]
    for name, said in (("gpu", "'gpu' is no device"), ("cuda", "no cuda:0; use"), ("cpu,cuda:1", "no cuda:1; use")):
        with pytest.raises(ConfigError, match=said):
            devices(name)
    cards(monkeypatch, 2)
    assert devices("all") == ["cuda:0", "cuda:1"] and devices("auto") == ["cuda:0"]
    with pytest.raises(ConfigError, match="no cuda:2"):
        devices("cuda:2")


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 2)
    assert [pick("auto", index=rank) for rank in (0, 1)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert pick("cuda:0", index=1) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=r"^setting train.device: this machine has no cuda:2; use train.device=cpu$"):
        pick("cuda", index=2)


def test_only_on_a_cpu_are_products_made_the_same_each_time() -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn

    def on_gpu() -> set[bool]:
        return {products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark}

    before = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark
    try:
        for fast in (True, False):
            device.settle(torch.device("cuda", 0), fast=fast)
            assert on_gpu() == {fast} and not torch.are_deterministic_algorithms_enabled()
        device.settle(torch.device("cpu"), fast=True)
        assert on_gpu() == {False} and torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(False)
        products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = before


def test_the_forward_pass_is_in_the_precision_asked_for() -> None:
    cpu, ones = torch.device("cpu"), torch.ones(2, 2)
    kinds = {"fp32": torch.float32, "amp_bfloat16": torch.bfloat16, "amp": torch.float16}
    for precision, kind in kinds.items():
        with device.autocast(precision, cpu):  # type: ignore[arg-type]
            assert (ones @ ones).dtype == kind
