"""What a pool shows, as clusters of its pictures, and how much of each a subset keeps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import centroids
from harness.nearest import nearest, unit
from harness.report import diversity
from harness.words import Words

Floats = npt.NDArray[Any]

ROWS_A_CLUSTER = 16
"""Fewer sampled pairs a cluster say nothing about it."""
_SHORTEST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Pictures that look alike."""

    share: float
    """Of the pool's pairs."""
    kept: float
    """Share of its pairs that the subset holds."""
    words: tuple[str, ...]
    """What sets its captions apart."""


def clustered(
    images: Floats, captions: Sequence[str], kept: npt.NDArray[np.bool_], *, clusters: int, seed: int
) -> list[Cluster]:
    """At most `clusters` clusters of the embeddings `images` (n, D) of a sample of the pool, largest first.

    `kept` (n,) tells which pairs the subset holds. Spherical k-means; fewer clusters where the sample is small.
    """
    there = np.flatnonzero(diversity.there(images))
    rows = unit(images[there])
    number = min(clusters, len(rows) // ROWS_A_CLUSTER)
    if number < 2:
        return []
    labels = nearest(rows, unit(centroids.kmeans(rows, number, seed=seed)))
    said = Words.of([captions[row] for row in there.tolist()]).each()
    spoken = [frozenset(word for word in words if len(word) >= _SHORTEST) for words in said]
    everywhere = Counter(word for words in spoken for word in words)
    found = []
    for label in range(number):
        members = np.flatnonzero(labels == label)
        if len(members):
            here = Counter(word for member in members.tolist() for word in spoken[member])
            found.append(Cluster(
                share=len(members) / len(rows), kept=float(kept[there][members].mean()),
                words=_typical(here, everywhere, len(members) / len(rows)),
            ))  # fmt: skip
    return sorted(found, key=lambda cluster: (-cluster.share, cluster.words))


def _typical(here: Counter[str], everywhere: Counter[str], share: float, most: int = 3) -> tuple[str, ...]:
    """The words that stand here more often than the cluster's share of them would have it."""
    gain = {word: count * np.log(count / (everywhere[word] * share)) for word, count in here.items()}
    order = sorted((word for word in gain if gain[word] > 0), key=lambda word: (-gain[word], word))
    return tuple(order[:most])
