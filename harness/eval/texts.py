"""Texts to embeddings and prompts to classifiers: which texts go together, and what becomes of their embeddings."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from harness.eval.data import Words
from harness.eval.metrics import Floats

TEXT_BATCH = 512

Tokenize = Callable[[Sequence[str]], torch.Tensor]
"""Texts to tokens (N, L), int64, zero behind the end token."""
EncodeTokens = Callable[[Sequence[torch.Tensor]], Iterator[Floats]]
"""Batches of tokens (N, L) to unit embeddings (N, D), one for each, in order."""


class Texts:
    """Encodes each distinct text once, in batches as long as their longest text."""

    def __init__(self, tokenize: Tokenize, encode: EncodeTokens) -> None:
        self._tokenize, self._encode = tokenize, encode

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings (N, D), float32, of texts."""
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        batches = list(self._batches(distinct))
        found = np.concatenate([embeddings for _, embeddings in batches])
        # The batches come shortest text first: back into the order of `distinct`.
        found[np.concatenate([rows for rows, _ in batches])] = found.copy()
        return found[[place[text] for text in texts]]

    def classifiers(self, words: Sequence[Words]) -> list[Floats]:
        """Class embeddings (C, D) of each class list: mean of its prompts' unit embeddings, of unit length.

        Prompts that several classes or lists share are encoded once.
        """
        users: dict[str, list[int]] = {}
        sizes: list[int] = []
        for prompts in (one.prompts() for one in words):
            for texts in prompts:
                for text in texts:
                    users.setdefault(text, []).append(len(sizes))
                sizes.append(len(texts))
        distinct = list(users)
        sums: npt.NDArray[np.float64] | None = None
        for rows, embeddings in self._batches(distinct):
            if sums is None:
                sums = np.zeros((len(sizes), embeddings.shape[1]))
            slots = [users[distinct[row]] for row in rows]
            repeated = np.repeat(embeddings, [len(slot) for slot in slots], axis=0)
            np.add.at(sums, np.concatenate(slots), repeated)
        if sums is None:
            return []
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        ends = np.cumsum([len(one.classnames) for one in words])
        return np.split(means.astype(np.float32), ends[:-1])

    def _batches(self, distinct: Sequence[str]) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
        """Rows and embeddings, batch by batch, short texts first."""
        tokens = self._tokenize(distinct)
        # Text is zero behind its end token, which is never zero.
        lengths = tokens.shape[1] - (tokens.flip(1) != 0).int().argmax(dim=1)
        batches = torch.split(torch.argsort(lengths, stable=True), TEXT_BATCH)
        work = [tokens[rows, : int(lengths[rows].max())] for rows in batches]
        for rows, embeddings in zip(batches, self._encode(work), strict=True):
            yield rows.numpy(), embeddings
