"""The pictures of a run folder are drawn from its log and scores."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from harness.charts import draw_loss, draw_scores


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_loss(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": k, "samples": 256 * (k + 1), "loss": 5.0 / (k + 1), "lr": 1e-3} for k in range(20)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_loss(log, tmp_path / "loss.png", title="a run")
    falling = _pixels(tmp_path / "loss.png")
    log.write_text("".join(json.dumps(row | {"loss": 5.0}) + "\n" for row in rows))
    draw_loss(log, tmp_path / "flat.png", title="a run")
    assert falling.shape == _pixels(tmp_path / "flat.png").shape
    assert (falling != _pixels(tmp_path / "flat.png")).any()


def test_scores_with_missing_and_unknown_chance(tmp_path: Path) -> None:
    draw_scores(
        {"cifar10": 0.4, "vtab/dtd": None, "wilds/fmow": 0.2},
        {"cifar10": 0.1, "vtab/dtd": 0.02},
        {"cifar10": "-", "vtab/dtd": "vtab", "wilds/fmow": "-"},
        tmp_path / "scores.png",
        title="a run",
    )
    assert len(np.unique(_pixels(tmp_path / "scores.png").reshape(-1, 3), axis=0)) > 4
