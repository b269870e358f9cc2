"""The linear layers of a model through oneDNN, where a CPU answers in fp32.

torch takes MKL for them, which on a CPU with AVX-512 that is not Intel's uses half of its width: there oneDNN is
twice as fast. The products are the same but for the order in which they are added up.
"""

import torch
from torch import nn
from torch.nn import functional


def available() -> bool:
    """Whether this torch has oneDNN, and the operator that torch.compile uses of it."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def through_onednn(model: nn.Module) -> None:
    """Let the linear layers and the self-attention of `model` (fp32, on the CPU, never trained again) use oneDNN.

    Weights and their names stay as they are; layers of kinds that are not plain ones too.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
        elif type(module) is nn.MultiheadAttention and _is_plain(module):
            module.__class__ = _SelfAttention


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    same = attention.in_proj_weight is not None and attention.bias_k is None
    return same and attention.batch_first and not attention.add_zero_attn


def _linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return found


class _Linear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _linear(input, self.weight, self.bias)


class _SelfAttention(nn.MultiheadAttention):
    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As open_clip calls it: one tensor (N, L, W) for all, no weights wanted, perhaps a mask (L, L) to add."""
        added = attn_mask is None or (attn_mask.dim() == 2 and attn_mask.is_floating_point())
        other = need_weights or is_causal or key_padding_mask is not None or not added
        if other or key is not query or value is not query:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        n, length, width = query.shape
        projected = _linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.view(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask).transpose(1, 2)
        return _linear(found.reshape(n, length, width), self.out_proj.weight, self.out_proj.bias), None
