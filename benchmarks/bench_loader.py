"""Samples a second and core of the training loader, against open_clip_train's on the same tars.

    python benchmarks/bench_loader.py --samples 2000

Writes tars of 512-pixel JPEGs (quality 95, as img2dataset stores them) to a temporary folder, and times one loader
process of each kind: read, decode, augment, tokenize, collate. Runs alternate; the best of each counts. The other
loader needs `pip install "open_clip_torch[training]"`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import open_clip
import torch
from made_pool import make_photographs
from open_clip_train.data import get_wds_dataset

from harness import executor, model
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.train.stream import PIECE, Preparer

MODEL = "ViT-B-32"


def ours(sealed: SealedPool) -> float:
    preparer = Preparer(sealed, uids=sealed.uids, rows_of=None, model_name=MODEL, seed=0)
    order = np.random.default_rng(0).permutation(len(sealed))
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(order), PIECE):
            preparer(start, order[start : start + PIECE])
    return len(order) / (time.perf_counter() - started)


def theirs(root: Path, samples: int) -> float:
    transform = open_clip.image_transform(224, is_train=True, mean=model.MEAN, std=model.STD)
    shards = len(list((root / "shards").glob("*.tar")))
    arguments = SimpleNamespace(
        train_data=str(root / "shards" / f"{{00000000..{shards - 1:08d}}}.tar"), train_data_upsampling_factors=None,
        train_num_samples=samples, dataset_resampled=False, seed=0, batch_size=PIECE, workers=1, world_size=1,
        distributed=False, rank=0,
    )  # fmt: skip
    info = get_wds_dataset(arguments, transform, is_train=True, tokenizer=open_clip.get_tokenizer(MODEL))
    # The pipeline itself, without DataLoader: one process on one core, like the other.
    pipeline, seen = iter(info.dataloader.pipeline[0].dataset), 0
    started = time.perf_counter()
    for images, _ in pipeline:
        seen += len(images)
        if seen >= samples - PIECE:
            break
    return seen / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_photographs(root, chosen.samples)
        sealed = seal(str(root), executor=executor.local(1))
        rates: dict[str, list[float]] = {"ours": [], "open_clip_train": []}
        for _ in range(chosen.rounds):
            rates["ours"].append(ours(sealed))
            rates["open_clip_train"].append(theirs(root, chosen.samples))
    for name, values in rates.items():
        print(f"{name:16} {max(values):8.0f} samples/s on one core (runs: {', '.join(f'{v:.0f}' for v in values)})")
    print(f"ratio            {max(rates['ours']) / max(rates['open_clip_train']):8.2f}")


if __name__ == "__main__":
    main()
