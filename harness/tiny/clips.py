"""The two reference CLIPs of scale tiny: they score the generated pool as OpenAI's B/32 and L/14 scored CommonPool.

assets/clip_<name>.safetensors holds one each: half precision, token rows in use only, and in the file's metadata the
architecture. scripts/train_reference_clips.py makes them. This module imports torch.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors import safe_open

from harness.errors import ArtifactError
from harness.files import data_dir

NAMES = ("b32", "l14")
CONTEXT = 24
"""Tokens that the reference CLIPs read of a caption."""
SIDE = 32
VOCABULARY = "vocabulary"
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
_BATCH = 256

Embeddings = npt.NDArray[np.float16]
"""(N, width), of length one."""


def build(architecture: dict[str, Any]) -> CLIP:
    """An open_clip model with seeded weights."""
    torch.manual_seed(0)
    return CLIP(**architecture)


def decode(jpegs: Sequence[bytes]) -> torch.Tensor:
    """(N, 3, 32, 32) float32: shortest side to 32 px, centre cropped, normalised."""
    pixels = np.empty((len(jpegs), SIDE, SIDE, 3), dtype=np.uint8)
    for i, jpeg in enumerate(jpegs):
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        pixels[i] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD


@dataclass(frozen=True)
class Tokens:
    """Captions as token ids of open_clip's tokenizer, whatever the vocabulary of a model."""

    ids: npt.NDArray[np.int64]
    """(N, CONTEXT), 0 after the end."""
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Tokens":
        """Tokens of `texts` (N,)."""
        ids = SimpleTokenizer(context_length=CONTEXT)(list(texts)).numpy()
        return cls(ids, ids.argmax(axis=1) + 1)


class ReferenceClip:
    """One of the two models, ready to embed."""

    def __init__(self, name: str) -> None:
        path = data_dir("assets") / f"clip_{name}.safetensors"
        if not path.is_file():
            raise ArtifactError(f"{path}: the reference CLIP is missing; run `python scripts/train_reference_clips.py`")
        with safe_open(path, framework="pt") as file:
            architecture = json.loads(file.metadata()["architecture"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        self.vocabulary: npt.NDArray[np.int64] = tensors.pop(VOCABULARY).numpy().astype(np.int64)
        self.model = build(architecture).eval()
        self.model.load_state_dict({key: value.float() for key, value in tensors.items()})

    @cached_property
    def _rows(self) -> npt.NDArray[np.int64]:
        """Row of each token id in this model's table; tokens it never met share row 0."""
        rows = np.zeros(int(self.vocabulary.max()) + 1, dtype=np.int64)
        rows[self.vocabulary] = np.arange(len(self.vocabulary))
        return rows

    @torch.inference_mode()
    def images(self, pictures: torch.Tensor) -> Embeddings:
        """Embeddings of pictures as `decode` gives them."""
        parts = [self.model.encode_image(part, normalize=True) for part in torch.split(pictures, _BATCH)]
        return torch.cat(parts).numpy().astype(np.float16)

    @torch.inference_mode()
    def texts(self, tokens: Tokens) -> Embeddings:
        """Embeddings of captions. Equal captions are computed once, short ones without the padding behind them."""
        unique, back = np.unique(tokens.ids, axis=0, return_inverse=True)
        lengths = unique.argmax(axis=1) + 1
        ids = self._rows[unique]
        found = np.empty((len(ids), self.model.text_projection.shape[1]), dtype=np.float16)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            at = order[start : start + _BATCH]
            longest = int(lengths[at].max())
            x = self.model.token_embedding(torch.from_numpy(ids[at, :longest]))
            x = x + self.model.positional_embedding[:longest]
            x = self.model.ln_final(self.model.transformer(x, attn_mask=self.model.attn_mask[:longest, :longest]))
            x = x[torch.arange(len(at)), torch.from_numpy(lengths[at] - 1)] @ self.model.text_projection
            found[at] = torch.nn.functional.normalize(x, dim=-1).numpy().astype(np.float16)
        return found[back.reshape(-1)]


def similarity(images: Embeddings, texts: Embeddings) -> npt.NDArray[np.float16]:
    """(N,) cosine of each pair."""
    cosine: npt.NDArray[np.float32] = np.einsum("nd,nd->n", images, texts, dtype=np.float32)
    return cosine.astype(np.float16)
