"""Pictures and texts to unit embeddings with one CLIP model, and prompts to classifiers."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import CLIP
from torch.nn import functional

from harness import model as models
from harness.config import Precision
from harness.errors import ConfigError
from harness.eval.data import Words

TEXT_BATCH = 512
Floats = npt.NDArray[np.float32]


class Encoder:
    """A model in evaluation mode on a device."""

    def __init__(self, name: str, checkpoint: str | Path, *, device: str, precision: Precision) -> None:
        self.name, self.device = name, torch.device(device)
        self.model: Any = models.load(name, checkpoint).to(self.device).eval()
        self.tokenizer = models.tokenizer(name)
        self.precision = precision
        preprocess = getattr(self.model.visual, "preprocess_cfg", {})
        if preprocess.get("resize_mode", "shortest") != "shortest" or preprocess.get("interpolation") == "bilinear":
            raise ConfigError(
                f"model {name}: its pictures are not resized as the contest does (shortest side, bicubic)"
            )
        self.mean = torch.tensor(preprocess.get("mean", models.MEAN), device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocess.get("std", models.STD), device=self.device).view(1, 3, 1, 1)
        # Causal attention and the embedding at the end token: what stands behind the end token changes nothing.
        self._causal = (
            type(self.model) is CLIP and self.model.attn_mask is not None and self.model.text_pool_type == "argmax"
        )

    @property
    def image_size(self) -> int:
        """Side of the pictures that the model takes."""
        return models.image_size(self.name)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the weights, for a model that comes from a tag and not from a file."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.precision == "amp_bfloat16" else torch.float16
        return torch.autocast(self.device.type, dtype=kind)

    @torch.inference_mode()
    def images(self, pictures: npt.NDArray[np.uint8]) -> Floats:
        """Unit embeddings (N, D), float32, of pictures (N, S, S, 3)."""
        batch = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).contiguous()
        batch = batch.float().div_(255).sub_(self.mean).div_(self.std)
        with self._autocast():
            embeddings = self.model.encode_image(batch)
        return _unit(embeddings)

    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings (N, D), float32, of texts; each distinct one is encoded once."""
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        batches = list(self._text_batches(distinct))
        found = np.concatenate([embeddings for _, embeddings in batches])
        # The batches come shortest text first: back into the order of `distinct`.
        found[np.concatenate([rows for rows, _ in batches])] = found.copy()
        return found[[place[text] for text in texts]]

    def _text_batches(self, distinct: Sequence[str]) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
        """Rows and embeddings, batch by batch, short texts first: a batch is as long as its longest text."""
        tokens = self.tokenizer(distinct)
        # Text is zero behind its end token, which is never zero.
        lengths = tokens.shape[1] - (tokens.flip(1) != 0).int().argmax(dim=1)
        order = torch.argsort(lengths, stable=True)
        for rows in torch.split(order, TEXT_BATCH):
            yield rows.numpy(), self._encode(tokens[rows], int(lengths[rows].max()))

    @torch.inference_mode()
    def _encode(self, tokens: torch.Tensor, length: int) -> Floats:
        with self._autocast():
            if not self._causal:
                return _unit(self.model.encode_text(tokens.to(self.device)))
            shorter = {
                "positional_embedding": self.model.positional_embedding[:length],
                "attn_mask": self.model.attn_mask[:length, :length],
            }
            answer = torch.func.functional_call(
                self.model, shorter, (), {"text": tokens[:, :length].to(self.device)}, strict=False
            )
        return _unit(answer["text_features"] if isinstance(answer, dict) else answer[1])

    def classifiers(self, words: Sequence[Words]) -> list[Floats]:
        """Class embeddings (C, D) of each class list: mean of its prompts' unit embeddings, of unit length.

        Prompts that several classes or lists share are encoded once.
        """
        users: dict[str, list[int]] = {}
        sizes: list[int] = []
        for prompts in (one.prompts() for one in words):
            for texts in prompts:
                for text in texts:
                    users.setdefault(text, []).append(len(sizes))
                sizes.append(len(texts))
        distinct = list(users)
        sums: npt.NDArray[np.float64] | None = None
        for rows, embeddings in self._text_batches(distinct):
            if sums is None:
                sums = np.zeros((len(sizes), embeddings.shape[1]))
            slots = [users[distinct[row]] for row in rows]
            repeated = np.repeat(embeddings, [len(slot) for slot in slots], axis=0)
            np.add.at(sums, np.concatenate(slots), repeated)
        if sums is None:
            return []
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        ends = np.cumsum([len(one.classnames) for one in words])
        return np.split(means.astype(np.float32), ends[:-1])


def _unit(embeddings: torch.Tensor) -> Floats:
    unit: Floats = functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
    return unit


def devices(name: str) -> list[str]:
    """The devices that a setting means: `auto` a GPU where there is one, `all` every GPU, else a list with commas."""
    if name in ("auto", "all") and not torch.cuda.is_available():
        return ["cpu"]
    if name == "all":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cuda"] if name == "auto" else name.split(",")
