"""Evaluation on a CPU and on a GPU: the same tests; `pytest -m gpu` runs those that need one."""

import numpy as np
import pytest
from evaluated import MODEL, evaluate

from harness import model as models
from harness.eval import results
from harness.eval.encoder import Encoder
from harness.records import read_record

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
WITHIN = {"fp32": 1e-5, "amp_bfloat16": 0.02, "amp": 2e-3}
"""Of a cosine: 24, 8 and 11 bits of mantissa through the layers."""


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("precision", WITHIN)
def test_embeddings_are_near_those_of_the_plain_model_in_fp32(device, precision, tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    models.save_safetensors(checkpoint, models.create(MODEL).state_dict())
    pictures = np.random.default_rng(0).integers(0, 256, (130, 32, 32, 3), dtype=np.uint8)
    tokens = models.tokenizer(MODEL)(["a picture of a dog", "another, with a longer caption, of a cat"])
    plain, other = (
        Encoder(MODEL, checkpoint, device=where, precision=how) for where, how in [("cpu", "fp32"), (device, precision)]
    )
    for a, b in [(plain.images(pictures), other.images(pictures)), (plain.tokens(tokens), other.tokens(tokens))]:
        assert np.abs(1 - np.sum(a * b, axis=1)).max() <= WITHIN[precision]
    assert other.digest == plain.digest


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_scores_in_fp32_do_not_hang_on_the_device(device, made, tmp_path):
    base, small = made
    record = evaluate(base, small, tmp_path / "out", device=device)
    expected = read_record(base / "out" / results.EVALUATION, "evaluation")
    # A picture whose best two classes are a hair apart may fall to the other: one in 24.
    for key, score in expected.payload["scores"].items():
        assert record.payload["scores"][key] == (None if score is None else pytest.approx(score, abs=1 / 24 + 1e-9))
