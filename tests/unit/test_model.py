"""Model, tokenizer, transforms and weights that training and evaluation share."""

import json
import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness import config, model
from harness.errors import ArtifactError, ConfigError, InfraError

OURS, THEIRS = model.tokenizer("clip-tiny"), open_clip.get_tokenizer("clip-tiny")


@settings(max_examples=150)
@given(
    st.lists(st.one_of(st.text(max_size=80), st.text("ab cdeX'&;<>0123 \t\n", max_size=200)), min_size=1, max_size=4)
)
def test_tokens_are_open_clips(texts: list[str]) -> None:
    assert torch.equal(OURS(texts), THEIRS(texts))


@pytest.mark.parametrize(
    "text",
    ["", "It's 3.50 &amp;amp; <b>x</b>", "â€œquotedâ€\x9d", "<start_of_text> hi <end_of_text>", "a " * 100, "É\x00 ﬁ"],
)
def test_tokens_of_odd_texts(text: str) -> None:
    assert torch.equal(OURS([text]), THEIRS([text]))


def test_a_tokenizer_forgets_but_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "WORDS_KEPT", 3)
    tokens = model.tokenizer("ViT-B-32")
    texts = [f"some words {i} <end_of_text>" for i in range(20)]
    assert torch.equal(tokens(texts), open_clip.get_tokenizer("ViT-B-32")(texts))
    assert tokens(["x"]).shape == (1, 77)


def test_equal_seeds_give_equal_weights_and_keep_the_random_state() -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, other = (model.create("clip-tiny", seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])
    torch.manual_seed(0)  # as open_clip_train's first rank does
    theirs = open_clip.CLIP(**model.config("clip-tiny")).state_dict()
    assert all(torch.equal(first[name], theirs[name]) for name in theirs)


def test_names_of_models() -> None:
    assert (model.image_size("clip-tiny"), model.context_length("clip-tiny")) == (32, 32)
    assert (model.image_size("ViT-L-14"), model.context_length("ViT-L-14")) == (224, 77)
    with pytest.raises(ConfigError, match="did you mean 'ViT-B-32'"):
        model.create("ViT-B32")


@pytest.mark.parametrize("name", ["hf-hub:owner/model", "local-dir:.", "roberta-ViT-B-32"])
def test_no_name_of_a_model_leads_elsewhere(name: str, run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_in / "open_clip_config.json").write_text(json.dumps(model.config("clip-tiny")))
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("an address was opened"))
    with pytest.raises(ConfigError, match="unknown model"):
        model.create(name)


def test_open_clip_gives_every_model_the_tokenizer_that_ours_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory

    monkeypatch.setattr(factory, "SimpleTokenizer", lambda **settings: settings)
    for name in config.model_names():
        text = open_clip.get_model_config(name)["text_cfg"]
        assert factory.get_tokenizer(name) == {"context_length": text["context_length"]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-H-14-worldwide", "tokenizer is not CLIP's own but facebook/xlm-v-base"),
        ("ViT-B-16-SigLIP2", "tokenizer is not CLIP's own"),
        ("ViT-L-14-CLIPA", "tokenizer is not CLIP's own but bert-base-uncased"),
        ("MobileCLIP-S1", "not resized"),
        ("PE-Core-B-16", "not resized"),
    ],
)
def test_models_with_other_texts_or_pictures_are_refused(name: str, said: str) -> None:
    for asks in (model.config, model.tokenizer, model.create):
        with pytest.raises(ConfigError, match=f"model {name}: .*{said}"):
            asks(name)


def test_weights_with_other_pictures_than_their_model_s_are_refused() -> None:
    assert model.image_size("ViT-H-14") == 224
    with pytest.raises(ConfigError, match=r"model ViT-H-14 dfn5b: .*not resized"):
        model.load("ViT-H-14", "dfn5b")


def test_weights_of_another_activation_than_their_model_s_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"openai was trained with QuickGELU; give model=ViT-B-32-quickgelu"):
        model.load("ViT-B-32", "openai")


def test_pictures_are_normalised_as_the_weights_say(tmp_path: Path, run_in: Path) -> None:
    half = [0.5, 0.5, 0.5]
    assert model.normalisation("ViT-L-14", "laion2b_s32b_b82k") == {"mean": half, "std": half}
    assert model.recorded("ViT-L-14", "laion2b_s32b_b82k") == {"normalisation": {"mean": half, "std": half}}
    for name, checkpoint in (("ViT-B-32", "datacomp_s_s13m_b4k"), ("ViT-L-14", tmp_path / "file.pt")):
        assert model.normalisation(name, checkpoint) == model.OWN and model.recorded(name, checkpoint) == {}
    (tmp_path / "laion2b_s32b_b82k").write_text("a file goes before the tag of its name")
    assert model.normalisation("ViT-L-14", "laion2b_s32b_b82k") == model.OWN


def test_models_are_those_that_open_clip_knows() -> None:
    assert {"clip-tiny", "ViT-B-32", "ViT-L-14"} <= set(config.model_names()) <= set(open_clip.list_models())
    assert model.config("ViT-B-32") == open_clip.get_model_config("ViT-B-32")


def test_weights_come_back(tmp_path: Path) -> None:
    clip = model.create("clip-tiny", seed=3)
    model.save_safetensors(tmp_path / "a.safetensors", clip.state_dict())
    model.save_safetensors(tmp_path / "b.safetensors", dict(reversed(clip.state_dict().items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, tmp_path / "c.pt")
    for name in ("a.safetensors", "c.pt"):
        loaded = model.load("clip-tiny", tmp_path / name)
        assert not loaded.training
        assert torch.equal(loaded.state_dict()["visual.proj"], clip.state_dict()["visual.proj"])


class Payload:
    """Anything that only a pickle can hold."""


def test_bad_checkpoints_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "pickle.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.zeros(1)}, tmp_path / "number.pt")
    odd = model.create("clip-tiny").state_dict()
    torch.save(odd | {"visual.proj": odd["visual.proj"].to(torch.complex64)}, tmp_path / "complex.pt")
    torch.save(odd | {"visual.proj": odd["visual.proj"].to(torch.int8)}, tmp_path / "whole.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    model.save_safetensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    for name, said in [
        ("pickle.pt", "could run code"), ("list.pt", "no state dict"), ("garbage.pt", "garbage.pt"),
        ("garbage.safetensors", "not a readable checkpoint"), ("other.safetensors", "do not fit model clip-tiny"),
        ("none.pt", "no such checkpoint"), ("number.pt", "no state dict"), ("empty.pt", "as safetensors$"),
        ("complex.pt", "save them as float32"), ("whole.pt", "save them as float32"),
    ]:  # fmt: skip
        with pytest.raises(ArtifactError, match=said):
            model.load("clip-tiny", tmp_path / name)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ArtifactError, InfraError), match="file"):
        model.save_safetensors(tmp_path / "file" / "x.safetensors", {"x": torch.zeros(1)})


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB"])
def test_evaluation_pixels(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).convert(mode)
    theirs = open_clip.image_transform(32, is_train=False)
    assert torch.equal(model.eval_transform("clip-tiny")(image), theirs(image.convert("RGB")))
    assert torch.equal(model.eval_transform("clip-tiny", rgb_first=False)(image), theirs(image))
