"""The reference CLIPs: small files, good and not perfect, the same scores as those that ship."""

import numpy as np
import pytest

from harness.files import data_dir
from harness.tiny import clips
from harness.tiny.shards import FAULT_NAMES, Spec, draw, imagine

N = 600


@pytest.fixture(scope="module")
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Fault (N,) and scores (N, 2) of the first samples of the default pool."""
    samples = imagine(Spec("", 0, "pool", 0, 0, 4096))
    part = type(samples)(samples.rows[:N], samples.captions[:N], samples.fault[:N], samples.size[:N])
    pictures = clips.decode([jpeg for jpeg, _, _ in draw(part)])
    tokens = clips.Tokens.of(part.captions)
    models = [clips.ReferenceClip(name) for name in clips.NAMES]
    found = [clips.similarity(model.images(pictures), model.texts(tokens)) for model in models]
    return part.fault, np.stack(found, 1).astype(np.float32)


def test_shipped_scores_are_those_of_the_shipped_models(scores: tuple[np.ndarray, np.ndarray]) -> None:
    shipped = np.load(data_dir("assets") / "scores.npy", allow_pickle=False)
    assert shipped.shape == (65_536, 2)
    assert shipped.dtype == np.float16
    assert np.abs(shipped[:N].astype(np.float32) - scores[1]).max() < 2e-3


def test_scores_tell_right_from_swapped_and_err_at_times(scores: tuple[np.ndarray, np.ndarray]) -> None:
    fault, values = scores
    right, swapped = values[fault == 0], values[fault == FAULT_NAMES.index("swapped")]
    sure = [(right[:, None, k] > swapped[None, :, k]).mean() for k in range(2)]
    assert sure[0] > 0.85
    assert sure[1] > sure[0] - 0.01, "l14 is the better model"
    assert max(sure) < 0.999


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in data_dir("assets").glob("clip_*.safetensors")) < 4e6


def test_text_embedding_does_not_depend_on_what_stands_beside_it() -> None:
    model = clips.ReferenceClip("b32")
    texts = ["a red mug", "three striped blue cats in the forest at night", "", "xyzzy " * 40, "a red mug"]
    together = model.texts(clips.Tokens.of(texts)).astype(np.float32)
    alone = np.concatenate([model.texts(clips.Tokens.of([text])) for text in texts]).astype(np.float32)
    assert np.abs(together - alone).max() < 2e-3
    assert (together[0] == together[4]).all()
