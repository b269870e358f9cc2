"""A small suite of every kind, evaluated once with a real model, for tests."""

from harness.eval import run

KEYS = (
    "cifar10", "vtab/pcam", "retrieval/flickr_1k_test_image_text_retrieval", "misc/winogavil", "wilds/iwildcam",
    "wilds/camelyon17", "wilds/fmow", "fairness/dollar_street", "fairness/geode", "fairness/utkface",
)  # fmt: skip
MODEL = "clip-tiny"


def evaluate(base, small, out, **more):
    how = {"model": MODEL, "checkpoint": base / "0.safetensors", "data_dir": base / "data", "workers": 1, **more}
    return run.evaluate(suite=small, out=out, **how)
