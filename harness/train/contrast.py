"""One gradient of the contrastive loss over a global batch, whatever processes and slices it is computed in.

The loss couples all pairs of a batch through their embeddings only. So the embeddings come first, then the loss and
its gradient with respect to them, and each slice's gradient flows on into the weights from there (the chain rule
as GradCache uses it, Gao et al. 2021). Every pair is compared with the whole global batch; the logits held by one
process are its own rows and columns only (open_clip's local loss, gathered with gradients).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from harness.train.world import World

Batch = tuple[torch.Tensor, torch.Tensor]
"""Pictures (N, 3, S, S) and tokens (N, L)."""
Backward = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], None]
"""Takes the gradients by each of some outputs back into the weights."""


def gradient(
    model: Callable[..., dict[str, torch.Tensor]],
    slices: Sequence[Batch],
    *,
    world: World,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    scaler: torch.amp.GradScaler | None = None,
    backward: Backward = torch.autograd.backward,
) -> torch.Tensor:
    """Add the gradient of the loss to the parameters of `model`; returns the loss over the global batch, detached.

    `slices` are this process's part of the batch. One slice is embedded once; several are embedded first without
    and then again with gradients, so that memory holds the activations of one slice.
    """
    once = len(slices) == 1
    outputs = []
    with nullcontext() if once else torch.no_grad():
        for images, tokens in slices:
            with autocast():
                outputs.append(model(images, tokens))
    image, text = (torch.cat([o[name] for o in outputs]).detach() for name in ("image_features", "text_features"))
    loss, by_image, by_text, by_scale = _embedding_gradients(
        image, text, outputs[0]["logit_scale"].detach(), world=world, autocast=autocast, scaler=scaler
    )
    done = 0
    for i, (images, tokens) in enumerate(slices):
        last = i == len(slices) - 1
        with nullcontext() if last or world.size == 1 else model.no_sync():  # type: ignore[attr-defined]
            if once:
                output = outputs.pop()
            else:
                with autocast():
                    output = model(images, tokens)
            part = slice(done, done + len(images))
            done += len(images)
            backward(
                [output["image_features"], output["text_features"], output["logit_scale"]],
                [by_image[part], by_text[part], by_scale if last else torch.zeros_like(by_scale)],
            )
    return loss


def _embedding_gradients(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    *,
    world: World,
    autocast: Callable[[], AbstractContextManager[Any]],
    scaler: torch.amp.GradScaler | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The global loss, and its gradients by this process's embeddings (N, D) twice and by the scale.

    The gradients are multiplied by the number of processes, because DDP averages over them.
    """
    image, text, scale = (leaf.detach().requires_grad_() for leaf in (image, text, scale))
    if world.size == 1:
        start, all_images, all_texts = 0, image, text
    else:
        images, texts = world.gather(image.detach()), world.gather(text.detach())
        start = sum(len(part) for part in images[: world.rank])
        all_images, all_texts = torch.cat(images).requires_grad_(), torch.cat(texts).requires_grad_()
    own = slice(start, start + len(image))
    labels = torch.arange(own.start, own.stop, device=image.device)
    with autocast():
        by_rows = cross_entropy(scale * image @ all_texts.T, labels)
        by_columns = cross_entropy(scale * text @ all_images.T, labels)
        loss = (by_rows + by_columns) / 2 * (len(image) / len(all_images))
    target = loss * world.size if scaler is None else scaler.scale(loss * world.size)
    if world.size == 1:
        by_image, by_text, by_scale = torch.autograd.grad(target, [image, text, scale])
        return loss.detach(), by_image, by_text, by_scale
    by_image, by_text, by_scale, *by_all = torch.autograd.grad(target, [image, text, scale, all_images, all_texts])
    by_image, by_text = by_image + world.sum(by_all[0])[own], by_text + world.sum(by_all[1])[own]
    return world.sum(loss.detach()), by_image, by_text, by_scale
