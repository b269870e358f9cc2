"""The snapshot from which an interrupted run goes on. No pickle.

It is one safetensors file: weights, AdamW's moments, random states and the ledger as tensors; the rest as JSON
in its header. It is replaced atomically, so there is always a whole one.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from harness.errors import ArtifactError, StageError
from harness.model import digest_of, save_safetensors
from harness.train.learner import Learner

SNAPSHOT = "snapshot.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far a run is."""

    steps: int
    """Optimizer steps done, which is the number of batches fed."""
    ledger: list[str]
    """Digest of each batch fed."""


def save(path: Path, learner: Learner, position: Position, *, run: str) -> None:
    """Write a snapshot of the run with identity digest `run`, atomically. InfraError if the disk is full."""
    tensors = {f"model.{name}": value for name, value in learner.bare.state_dict().items()}
    names = {parameter: name for name, parameter in learner.bare.named_parameters()}
    for parameter, state in learner.optimizer.state.items():
        for what, value in state.items():
            tensors[f"optimizer.{what}.{names[parameter]}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    digests = b"".join(bytes.fromhex(digest) for digest in position.ledger)
    tensors["ledger"] = torch.frombuffer(bytearray(digests), dtype=torch.uint8).reshape(-1, 32)
    header = {"run": run, "steps": position.steps, "scaler": learner.scaler and learner.scaler.state_dict(),
              "content": digest_of(tensors)}  # fmt: skip
    text = json.dumps(header)
    save_safetensors(path, tensors, header={"snapshot": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})


def restore(path: Path, learner: Learner, *, run: str) -> Position:
    """Bring model, optimizer, scaler and random states back from the snapshot in `path`; where the run stood.

    Raises StageError if it is of another run, ArtifactError if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = (file.metadata()[key] for key in ("snapshot", "sha256"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header: dict[str, Any] = json.loads(text)
        if (hashlib.sha256(text.encode()).hexdigest(), digest_of(tensors)) != (digest, header["content"]):
            raise ValueError("its content is not what was saved")
    except KeyError as error:
        raise ArtifactError(
            f"{path}: not a snapshot of this version of the harness, which writes {error} into it; delete it to train "
            "from the start"
        ) from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable snapshot ({error}); delete it to train from the start") from error
    if header["run"] != run:
        raise StageError(
            f"{path}: snapshot of a run with other settings or inputs; delete it or choose another run_dir"
        )
    model, optimizer = learner.bare, learner.optimizer
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, what, name = key.split(".", 2)
            optimizer.state[parameters[name]][what] = _laid_out(value, parameters[name])
    if learner.scaler and header["scaler"]:
        learner.scaler.load_state_dict(header["scaler"])
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return Position(steps=header["steps"], ledger=[bytes(row).hex() for row in tensors["ledger"].numpy()])


def _laid_out(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value` on the device of its parameter and, if it is one of its moments, with the parameter's strides.

    A fused optimizer goes through weight, gradient and moments side by side in memory; a file keeps no strides.
    """
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
