"""Pictures and tokens to unit embeddings, with one CLIP model on one device."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import CLIP
from torch.nn import functional

from harness import model as models
from harness.config import Precision
from harness.device import autocast, pick, settle
from harness.errors import StageError
from harness.eval import onednn
from harness.eval.metrics import Floats

CPU_BATCH = 64
"""Pictures that a CPU embeds at a time, at most: more, and what passes between layers leaves its cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAt:
    """Which model answers, and where it runs."""

    name: str
    checkpoint: str
    """A file, or an open_clip tag."""
    device: str = "auto"
    """See `devices`."""
    precision: Precision = "fp32"


class Encoder:
    """A model in evaluation mode on a device, where float32 means float32: see `harness.device.settle`."""

    def __init__(self, name: str, checkpoint: str | Path, *, device: str, precision: Precision) -> None:
        self.name, self.device = name, torch.device(device)
        self._label = f"{checkpoint}: model {name} at precision {precision}"
        settle(self.device, fast=False)
        self.model: Any = models.load(name, checkpoint).to(self.device).eval()
        if self.device.type == "cpu" and precision == "fp32" and onednn.available():
            onednn.through_onednn(self.model)
        self.precision = precision
        pixels = models.normalisation(name, checkpoint)
        self.mean, self.std = (
            torch.tensor(pixels[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        # Causal attention and the embedding at the end token: what stands behind the end token changes nothing.
        self._causal = (
            type(self.model) is CLIP and self.model.attn_mask is not None and self.model.text_pool_type == "argmax"
        )

    def twin(self) -> "Encoder":
        """Another encoder with these very weights, for another thread: `tokens` changes its model while it runs."""
        other = copy.copy(self)
        weights = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        other.model = copy.deepcopy(self.model, weights)
        return other

    @property
    def digest(self) -> str:
        """sha256 (hex) of the weights, for a model that comes from a tag and not from a file."""
        return models.digest_of(self.model.state_dict())

    @torch.inference_mode()
    def images(self, pictures: npt.NDArray[np.uint8]) -> Floats:
        """Unit embeddings (N, D), float32, of pictures (N, S, S, 3)."""
        if self.device.type != "cpu" or len(pictures) <= CPU_BATCH:
            return self._images(pictures)
        # Pieces of even size: the few pictures that a last one would be left with go through other arithmetic.
        pieces = np.array_split(pictures, -(-len(pictures) // CPU_BATCH))
        return np.concatenate([self._images(piece) for piece in pieces])

    def _images(self, pictures: npt.NDArray[np.uint8]) -> Floats:
        batch = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).contiguous()
        batch = batch.float().div_(255).sub_(self.mean).div_(self.std)
        with autocast(self.precision, self.device):
            embeddings = self.model.encode_image(batch)
        return self._unit(embeddings)

    @torch.inference_mode()
    def tokens(self, tokens: torch.Tensor) -> Floats:
        """Unit embeddings (N, D), float32, of tokens (N, L), L as long as the longest text or longer."""
        tokens = tokens.to(self.device)
        length = tokens.shape[1]
        with autocast(self.precision, self.device):
            if not self._causal:
                whole = functional.pad(tokens, (0, models.context_length(self.name) - length))
                return self._unit(self.model.encode_text(whole))
            shorter = {
                "positional_embedding": self.model.positional_embedding[:length],
                "attn_mask": self.model.attn_mask[:length, :length],
            }
            answer = torch.func.functional_call(self.model, shorter, (), {"text": tokens}, strict=False)
        return self._unit(answer["text_features"] if isinstance(answer, dict) else answer[1])

    def _unit(self, embeddings: torch.Tensor) -> Floats:
        unit: Floats = functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
        # What is no number would be sorted like one, and give a score that looks like any other.
        if not np.isfinite(unit).all():
            raise StageError(f"{self._label} gives embeddings that are not finite; its weights are broken or overflow")
        return unit


def devices(name: str) -> list[str]:
    """The devices that a setting means: `auto` a GPU where there is one, `all` every GPU, else a list with commas.

    ConfigError for a device that there is not.
    """
    if name == "all" and torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names = ["auto"] if name == "all" else [one.strip() for one in name.split(",")]
    picked = [pick(one, setting="eval.device", choices="auto, all, cpu or cuda:N") for one in names]
    return [str(device) for device in picked]
