"""The two towers of a CLIP on one CPU side by side, each with half of its threads.

The layers of a small model leave cores waiting for each other, and the towers need nothing of one another until their
embeddings meet in the loss: with two threads, a step of clip-tiny takes 15 % less processor time.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

Autocast = Callable[[], AbstractContextManager[Any]]


class SideBySide:
    """Calls an open_clip model as its forward pass does, and takes gradients back through it."""

    def __init__(self, clip: Any, *, autocast: Autocast) -> None:
        self._clip, self._autocast = clip, autocast
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tower")

    def __call__(self, images: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit embeddings (N, D) of pictures (N, 3, S, S) and tokens (N, L), and the temperature."""
        wanted = torch.is_grad_enabled()  # of the calling thread, as autocast is

        def embed(tower: Callable[..., torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(wanted), self._autocast():
                return tower(batch, normalize=True)

        image, text = self._at_once(
            partial(embed, self._clip.encode_image, images), partial(embed, self._clip.encode_text, tokens)
        )
        return {"image_features": image, "text_features": text, "logit_scale": self._clip.logit_scale.exp()}

    def backward(self, outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
        """torch.autograd.backward from what a call gave: image features, text features and temperature."""
        *towers, scale = map(partial, [torch.autograd.backward] * len(outputs), outputs, gradients)
        self._at_once(*towers)
        scale()

    def _at_once(self, *towers: Callable[[], Any]) -> list[Any]:
        threads = torch.get_num_threads()

        def alone(tower: Callable[[], Any]) -> Any:
            # The same for both: part of what it sets holds for the whole process (of MKL), and how a product is
            # shared out changes its last bits.
            torch.set_num_threads(threads // 2)
            return tower()

        try:
            return list(self._threads.map(alone, towers))
        finally:
            torch.set_num_threads(threads)
