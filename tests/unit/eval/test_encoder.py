"""The encoder: a CPU's pieces."""

import numpy as np
import pytest

from harness import model as models
from harness.eval import encoder


@pytest.mark.parametrize(("count", "pieces"), [(3, [3]), (64, [64]), (65, [33, 32]), (130, [44, 43, 43])])
def test_a_cpu_takes_even_pieces(tmp_path, count, pieces):
    models.save_safetensors(tmp_path / "c.safetensors", models.create("clip-tiny").state_dict())
    made = encoder.Encoder("clip-tiny", tmp_path / "c.safetensors", device="cpu", precision="fp32")
    pictures = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    sizes, embed = [], made.model.encode_image
    made.model.encode_image = lambda batch: (sizes.append(len(batch)), embed(batch))[1]
    found = made.images(pictures)
    assert sizes == pieces
    rows = [0, count // 2, count - 1]
    alone = np.concatenate([made.images(pictures[row : row + 1]) for row in rows])
    np.testing.assert_allclose(found[rows], alone, atol=1e-6)  # float32
