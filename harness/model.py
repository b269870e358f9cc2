"""The CLIP model that training, evaluation and scoring share: open_clip's model, tokenizer and transforms.

Names are open_clip's own (`ViT-B-32`) or those of the JSON files in configs/model/ (`clip-tiny`).
"""

import contextlib
import hashlib
import html
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.config import OTHER_WORDS, model_names
from harness.errors import ArtifactError, ConfigError, InfraError, from_os_error, unknown_name
from harness.files import atomic_path, data_dir

MEAN: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
STD: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD

OWN = {"mean": list(MEAN), "std": list(STD)}
"""How CLIP's own pictures are normalised, and those of every model that does not state another way."""

WORDS_KEPT = 200_000
"""Words whose tokens a tokenizer remembers: some 50 MB, however long it runs."""

open_clip.add_model_config(data_dir("configs") / "model")


def config(name: str) -> dict[str, Any]:
    """The architecture of model `name`; ConfigError with the nearest names if there is none.

    A model that takes its texts or pictures in another way than the contest does is refused: it would score as noise.
    """
    # Asked for another name, open_clip may follow it to an address or a folder.
    found = open_clip.get_model_config(name) if name in open_clip.list_models() else {"text_cfg": {}}
    text = found["text_cfg"]
    if "context_length" not in text:
        raise ConfigError(unknown_name("model", name, model_names()))
    if text.keys() & OTHER_WORDS:
        named = text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs")
        raise ConfigError(f"model {name}: its tokenizer is not CLIP's own but {named}; choose another model")
    # A file of weights does not say how its pictures are resized; the published weights of its model do.
    _require_our_pictures(name, _published(name).values())
    return dict(found)


def _published(name: str) -> dict[str, Mapping[str, Any]]:
    """open_clip's weights of model `name`: how each tag takes its pictures."""
    return {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}


def _require_our_pictures(name: str, ways: Iterable[Mapping[str, Any]]) -> None:
    """ConfigError if there are `ways` to take pictures and none resizes them as the contest does."""
    resized = {(way.get("resize_mode", "shortest"), way.get("interpolation", "bicubic")) for way in ways}
    if resized and ("shortest", "bicubic") not in resized:
        raise ConfigError(
            f"model {name}: its pictures are not resized as the contest does (shortest side, bicubic); choose another"
        )


def _tag(name: str, checkpoint: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """What open_clip says of the weights that `checkpoint` means if it is one of its tags; a file goes first."""
    return None if Path(checkpoint).exists() else _published(name).get(str(checkpoint))


def normalisation(name: str, checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """`mean` and `std` (3 numbers each) of the pictures that `checkpoint` takes: a tag's, or CLIP's own for a file."""
    stated = _tag(name, checkpoint) or {}
    return {key: list(stated.get(key) or own) for key, own in OWN.items()}


def recorded(name: str, checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """What a record says of `normalisation`: nothing where it is CLIP's own."""
    found = normalisation(name, checkpoint)
    return {} if found == OWN else {"normalisation": found}


def image_size(name: str) -> int:
    """Side in pixels of the pictures that model `name` takes."""
    return int(config(name)["vision_cfg"]["image_size"])


def context_length(name: str) -> int:
    """Tokens that model `name` reads of a caption."""
    return int(config(name)["text_cfg"]["context_length"])


def create(name: str, *, seed: int = 0) -> Any:
    """A new open_clip model on the CPU in fp32, its weights a function of `seed` alone.

    The same weights as open_clip_train draws for that seed on its first rank. The caller's random state is kept.
    """
    config(name)
    with torch.random.fork_rng(devices=[]), _untroubled():
        torch.manual_seed(seed)
        return open_clip.create_model(name, output_dict=True)


@contextlib.contextmanager
def _untroubled() -> Iterator[None]:
    """Keep open_clip from warning that the new weights are random, which is what we want."""

    def other(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    logging.getLogger().addFilter(other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(other)


def load(name: str, checkpoint: str | os.PathLike[str]) -> Any:
    """Model `name` on the CPU in evaluation mode with the weights of `checkpoint`.

    `checkpoint` is a safetensors file, a state dict that torch loads with weights_only (`.pt`; open_clip_train's
    checkpoints too), or an open_clip tag of pretrained weights. Raises ArtifactError if it is missing, needs a
    pickle, or does not fit the model; ConfigError if a tag's pictures are not resized as the contest does, or it was
    trained with another activation than the model's.
    """
    path = Path(checkpoint)
    architecture, tag = config(name), _tag(name, checkpoint)
    if tag is not None:
        _require_our_pictures(f"{name} {checkpoint}", [tag])
        if tag.get("quick_gelu") and not architecture.get("quick_gelu"):
            raise ConfigError(f"model {name}: {checkpoint} was trained with QuickGELU; give model={name}-quickgelu")
        return open_clip.create_model(name, pretrained=str(checkpoint), output_dict=True).eval()
    if not path.is_file():
        tags = ", ".join(_published(name))
        raise ArtifactError(f"{checkpoint}: no such checkpoint file, nor a tag of {name} ({tags or 'none'})")
    model = create(name)
    weights = _read_weights(path)
    own, real = model.state_dict(), torch.is_floating_point
    if any(name in own and real(own[name]) != real(found) for name, found in weights.items()):
        raise ArtifactError(f"{path}: holds whole or complex numbers as weights; save them as float32")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: its weights do not fit model {name}; name the model they come from") from error
    return model.eval()


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path}: holds more than tensors, so reading it could run code; save its state dict as safetensors"
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        # torch's own words advise to let the file run code.
        raise ArtifactError(
            f"{path}: not a readable checkpoint; get it again, or save the model's state_dict() as safetensors"
        ) from error
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items()):
        raise ArtifactError(f"{path}: holds no state dict; save the model's state_dict() as safetensors")
    return {key.removeprefix("module."): tensor for key, tensor in value.items()}


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """sha256 (hex) of tensors by name, whatever file holds them and in what order."""
    state = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def save_safetensors(
    path: str | os.PathLike[str], weights: dict[str, torch.Tensor], *, header: dict[str, str] | None = None
) -> None:
    """Write a state dict to `path`, atomically; equal weights (and header) give equal bytes.

    Raises InfraError if the disk is full or the folder cannot be written.
    """
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:  # it hides the OSError
            raise InfraError(f"{path}: cannot be written ({error}); make room or choose another folder") from error


def eval_transform(
    name: str, checkpoint: str | os.PathLike[str] = "", *, rgb_first: bool = True
) -> Callable[[Any], torch.Tensor]:
    """PIL image to float tensor (3, S, S): shortest side to S (bicubic, antialias), centre crop, `normalisation`.

    `rgb_first` converts to RGB before resizing, as the reference does for its own task sets; False resizes in the
    picture's own mode first, as it does for retrieval and WinoGAViL.
    """
    transform = open_clip.image_transform(image_size(name), is_train=False, **normalisation(name, checkpoint))
    if not rgb_first:
        return transform  # type: ignore[no-any-return]
    return lambda image: transform(image.convert("RGB"))


_PLAIN = re.compile(r"[ -%'-~]*")  # printable ASCII but "&"


def _clean(text: str) -> str:
    # ftfy and html.unescape change nothing in such text, and most captions are such.
    if _PLAIN.fullmatch(text):
        return " ".join(text.split()).lower()
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """open_clip's tokenizer, several times as fast: the tokens of a word are looked up, plain text is not mended."""

    def __init__(self, length: int) -> None:
        self._slow = SimpleTokenizer(context_length=length)
        self._special = dict(self._slow.cache)
        self._known: dict[str, list[int]] = {}
        self.length = length

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokens (N, length), int64, of N texts: start, words, end, then zeros; a long text keeps its end token."""
        result = torch.zeros((len(texts), self.length), dtype=torch.int64)
        start, end = self._slow.sot_token_id, self._slow.eot_token_id
        for row, text in zip(result.numpy(), texts, strict=True):
            tokens = [start, *self._encode(text)[: self.length - 2], end]
            row[: len(tokens)] = tokens
        return result

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        for word in self._slow.pat.findall(_clean(text)):
            known = self._known.get(word)
            tokens += self._learn(word) if known is None else known
        return tokens

    def _learn(self, word: str) -> list[int]:
        if len(self._known) >= WORDS_KEPT:
            self._known.clear()
            self._slow.cache = dict(self._special)
        slow = self._slow
        letters = "".join(slow.byte_encoder[byte] for byte in word.encode())
        self._known[word] = [slow.encoder[part] for part in slow.bpe(letters).split(" ")]
        return self._known[word]


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of model `name`."""
    return Tokenizer(context_length(name))


def device_name(device: str) -> str:
    """`cpu`, or the name of the GPU that `device` (auto, cpu, cuda, cuda:N) means on this machine."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return torch.cuda.get_device_name("cuda" if device == "auto" else device)
