"""Models through oneDNN answer as they do by themselves."""

import copy

import pytest
import torch
from torch import nn

from harness import model as models
from harness.eval import encoder, onednn

pytestmark = pytest.mark.skipif(not onednn.available(), reason="torch without oneDNN")


@pytest.fixture(scope="module")
def both():
    """clip-tiny as it is and through oneDNN; the layers drawn anew, since a new model's biases are zero."""
    plain = models.create("clip-tiny").eval()
    torch.manual_seed(0)
    for values in plain.parameters():
        values.data += torch.randn_like(values) * 0.02
    fast = copy.deepcopy(plain)
    onednn.through_onednn(fast)
    return plain, fast


@torch.inference_mode()
def test_embeddings_are_the_models_own(both):
    plain, fast = both
    pictures = torch.randn(33, 3, 32, 32)
    torch.testing.assert_close(fast.encode_image(pictures), plain.encode_image(pictures), rtol=1e-5, atol=1e-5)
    texts = models.tokenizer("clip-tiny")(["a", "a photo of a dog", "word " * 40])
    torch.testing.assert_close(fast.encode_text(texts), plain.encode_text(texts), rtol=1e-5, atol=1e-5)


def test_every_plain_layer_goes_through_it_and_the_weights_keep_their_names(both):
    plain, fast = both
    kinds = [type(module) for module in fast.modules()]
    assert nn.Linear not in kinds
    assert nn.MultiheadAttention not in kinds
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in fast.state_dict().items())


@torch.inference_mode()
@pytest.mark.parametrize(
    "asked",
    [
        {"need_weights": True},
        {"need_weights": False, "attn_mask": torch.full((7, 7), True).triu(1)},
        {"need_weights": False, "attn_mask": torch.full((7, 7), -torch.inf).triu(1), "is_causal": True},
        {"need_weights": False, "attn_mask": torch.full((8, 7, 7), -torch.inf).triu(1)},
        {"need_weights": False, "key_padding_mask": torch.arange(7).expand(2, 7) > 4},
        {"need_weights": False, "attn_mask": torch.full((7, 7), -torch.inf).triu(1)},
    ],
)
def test_attention_that_is_asked_for_in_another_way(asked):
    plain = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    fast = copy.deepcopy(plain)
    onednn.through_onednn(fast)
    inputs = torch.randn(2, 7, 32)
    for here, there in zip(fast(inputs, inputs, inputs, **asked), plain(inputs, inputs, inputs, **asked), strict=True):
        assert (here is None) == (there is None)
        if here is not None:
            torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
    other = torch.randn(2, 5, 32)
    torch.testing.assert_close(
        fast(inputs, other, other, need_weights=False)[0], plain(inputs, other, other, need_weights=False)[0]
    )


def test_attention_of_another_build_stays_as_it_is():
    for other in (nn.MultiheadAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True)):
        onednn.through_onednn(other)
        assert type(other) is nn.MultiheadAttention


def test_only_a_cpu_in_fp32_uses_it(tmp_path):
    models.save_safetensors(tmp_path / "c.safetensors", models.create("clip-tiny").state_dict())
    for precision, used in (("fp32", True), ("amp_bfloat16", False)):
        made = encoder.Encoder("clip-tiny", tmp_path / "c.safetensors", device="cpu", precision=precision)
        assert (nn.Linear not in [type(module) for module in made.model.modules()]) is used
