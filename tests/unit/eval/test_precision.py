"""What half precision changes in an evaluation: more than an entry may."""

import json

import pytest
import torch
from evaluated import evaluate
from open_clip import factory
from safetensors import safe_open

from harness import model as models
from harness.eval import suite
from harness.eval.suite import Suite
from harness.files import data_dir
from harness.tiny.clips import ReferenceClip
from harness.tiny.tasks import make_set

KEYS = ("cifar10", "stl10", "vtab/pcam", "vtab/svhn", "imagenet1k", "food101")
REFERENCE = "l14"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A trained model of the tiny pictures: its name; its weights lie in the folder of the test."""
    with safe_open(data_dir("assets") / f"clip_{REFERENCE}.safetensors", framework="pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
    reference = ReferenceClip(REFERENCE)
    weights = reference.model.state_dict()
    known = weights["token_embedding.weight"]
    # Its own table has the tokens alone that it has met; all others share the first row.
    table = known[0].repeat(models.config("clip-tiny")["text_cfg"]["vocab_size"], 1)
    table[torch.from_numpy(reference.vocabulary)] = known
    architecture["text_cfg"]["vocab_size"] = len(table)
    monkeypatch.setitem(factory._MODEL_CONFIGS, REFERENCE, architecture)
    models.save_safetensors(tmp_path / "0.safetensors", weights | {"token_embedding.weight": table})
    return REFERENCE


@pytest.mark.slow
def test_bfloat16_moves_a_score_by_more_than_an_entry_may(trained, tmp_path):
    small = Suite(name="few", tasks={key: suite.load("tiny").tasks[key] for key in KEYS})
    for key in KEYS:
        make_set((str(tmp_path / "data"), key, 0))
    scores = {}
    for precision in ("fp32", "amp_bfloat16"):
        out = tmp_path / precision
        record = evaluate(tmp_path, small, out, model=trained, precision=precision)
        assert record.payload["precision"] == precision
        scores[precision] = record.payload["scores"]
    # Why such a run is unofficial (docs/howto-eval.md).
    assert max(abs(scores["fp32"][key] - scores["amp_bfloat16"][key]) for key in KEYS) > 1e-3
