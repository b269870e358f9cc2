"""Which rows of the metadata are in a sealed pool: looked up once, then kept beside the seal."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness import npy
from harness.errors import InfraError
from harness.files import stamp
from harness.pool.reading import Mask, MetadataFile
from harness.pool.sealed import SealedPool

KEEP_FROM = 200_000
"""Pools from this size on are worth files of their own."""


@dataclass(frozen=True)
class Masks:
    """The masks of a sealed pool's metadata files, without the pairs held out."""

    sealed: SealedPool
    holdout: int
    """How many pairs are held out."""

    def kept(self, file: MetadataFile) -> bool:
        """True if `masked` need not look anything up for this file."""
        return self._place(file).exists()

    def masked(self, look_up: Callable[[MetadataFile], Mask], file: MetadataFile) -> MetadataFile:
        """`file` with its mask: the one that was kept, else `look_up(file)` (rows,)."""
        place = self._place(file)
        if place.exists():
            visible = np.unpackbits(npy.load(place, dtype=np.uint8), count=file.rows).astype(bool)
        else:
            visible = look_up(file)
            if len(self.sealed) >= KEEP_FROM:
                _keep(place, visible)
        return file if visible.all() else replace(file, mask=np.packbits(visible).tobytes())

    def _place(self, file: MetadataFile) -> Path:
        """Another file for another seal, holdout or state of the metadata."""
        state = hashlib.sha256(f"{self.holdout} {file.rows} {stamp(file.path)}".encode()).hexdigest()
        name = f"{os.path.basename(file.path)}-{state[:16]}.npy"
        return Path(self.sealed.seal_dir) / f"visible-{self.sealed.digest[:16]}" / name


def _keep(place: Path, visible: Mask) -> None:
    try:
        npy.save(place, np.packbits(visible))
    except InfraError:
        return  # a seal that cannot be written is read all the same
