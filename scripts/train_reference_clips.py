"""Train the two reference CLIPs of scale tiny and score its default pool: `python scripts/train_reference_clips.py`.

They learn from a stream of pictures that is neither the pool's nor the trusted set's nor a task's. As the models that
scored CommonPool were, they are good and not perfect: a part of their captions is wrong, and training is short.
Writes assets/clip_b32.safetensors, assets/clip_l14.safetensors and assets/scores.npy (65536, 2) float16.
Some minutes on two cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from open_clip import ClipLoss
from safetensors.torch import save_file

from harness.files import atomic_path, data_dir
from harness.tiny import clips, pool
from harness.tiny.shards import FAULT_NAMES, SHARD_SAMPLES, Spec, draw, imagine

ARCHITECTURES = {
    "b32": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": clips.CONTEXT, "width": 64, "heads": 2, "layers": 1},
    },
    "l14": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 96, "head_width": 48, "patch_size": 8},
        "text_cfg": {"context_length": clips.CONTEXT, "width": 96, "heads": 2, "layers": 1},
    },
}
EPOCHS = {"b32": 3, "l14": 3}
SHARDS = 16
BATCH = 256
PEAK = 1e-3
WARMUP = 100
LEARNED = ("none", "careless", "swapped", "tiny", "extreme")
"""Faults of the samples learned from: English captions, about every third of them wrong."""


def training_set() -> tuple[torch.Tensor, list[str]]:
    """Pictures (N, 3, 32, 32) and captions."""
    pictures, texts = [], []
    for shard in range(SHARDS):
        samples = imagine(Spec("", 1, "reference", shard, shard * SHARD_SAMPLES, SHARD_SAMPLES))
        kept = np.isin(samples.fault, [FAULT_NAMES.index(name) for name in LEARNED])
        encoded = [jpeg for (jpeg, _, _), keep in zip(draw(samples), kept, strict=True) if keep]
        pictures.append(clips.decode(encoded))
        texts += [text for text, keep in zip(samples.captions, kept, strict=True) if keep]
    return torch.cat(pictures), texts


def train(name: str, pictures: torch.Tensor, texts: list[str]) -> None:
    """Train the model `name` and write it to assets/."""
    tokens = clips.Tokens.of(texts)
    vocabulary = np.unique(tokens.ids)
    ids = torch.from_numpy(np.searchsorted(vocabulary, tokens.ids))
    architecture = json.loads(json.dumps(ARCHITECTURES[name]))
    architecture["text_cfg"]["vocab_size"] = len(vocabulary)
    model = clips.build(architecture)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}], lr=PEAK, betas=(0.9, 0.98)
    )
    loss_of = ClipLoss()
    rng = np.random.default_rng(7)
    steps = EPOCHS[name] * (len(pictures) // BATCH)
    step, started = 0, time.monotonic()
    for _ in range(EPOCHS[name]):
        order = rng.permutation(len(pictures))
        for k in range(len(pictures) // BATCH):
            at = torch.from_numpy(order[k * BATCH : (k + 1) * BATCH])
            fall = 0.5 * (1 + np.cos(np.pi * max(0, step - WARMUP) / (steps - WARMUP)))
            rate = min((step + 1) / WARMUP, fall)
            for group in optimizer.param_groups:
                group["lr"] = PEAK * rate
            image, text, scale = model(pictures[at], ids[at])
            loss = loss_of(image, text, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            step += 1
            if step % 50 == 0 or step == steps:
                rate_now = step * BATCH / (time.monotonic() - started)
                print(f"{name}: step {step} of {steps}, loss {loss.item():.3f}, {rate_now:,.0f} samples/s", flush=True)
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    tensors[clips.VOCABULARY] = torch.from_numpy(vocabulary.astype(np.int32))
    with atomic_path(data_dir("assets") / f"clip_{name}.safetensors") as path:
        save_file(tensors, path, metadata={"architecture": json.dumps(architecture, sort_keys=True)})


def main() -> None:
    """Train both, then score the default pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-scores", action="store_true", help="keep the models, score the default pool again")
    arguments = parser.parse_args()
    if not arguments.only_scores:
        pictures, texts = training_set()
        print(f"{len(texts):,} pairs", flush=True)
        for name in clips.NAMES:
            train(name, pictures, texts)
    with tempfile.TemporaryDirectory() as folder:
        pool.write_scores(Path(folder) / "pool")


if __name__ == "__main__":
    main()
