"""The final weights of a training folder. No torch."""

from pathlib import Path

from harness import files
from harness.errors import ArtifactError
from harness.records import Record

WEIGHTS = "checkpoint.safetensors"
"""Name of the weights at the end of training."""


def weights_of(folder: Path, record: Record) -> Path | None:
    """The file of the final weights in `folder`; None if it is away.

    ArtifactError if it is not the one that the folder's train.json, `record`, names.
    """
    path = folder / WEIGHTS
    if not path.exists():
        return None
    if files.sha256_file(path) != record.payload.get("checkpoint"):
        raise ArtifactError(
            f"{path}: not the checkpoint that train.json names; bring it back, or delete it to train again"
        )
    return path
