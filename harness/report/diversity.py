"""Diversity of embeddings without labels: Vendi scores of any order, and Schur-complement entropy. Pure NumPy.

Vendi score: Friedman and Dieng 2023; orders q: Pasarkar and Dieng 2024, "Cousins of the Vendi Score"; Schur-complement
entropy: Ospanov, Jalali and Farnia 2024, "Dissecting CLIP". The kernel is the cosine of two embeddings throughout.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

ORDERS = (0.5, 1.0, 2.0, math.inf)
"""The lower the order, the more rare items count; infinity looks at the largest mode alone."""
_FLOOR = 1e-12
"""Eigenvalues below it are rounding."""

WIDTHS_A_SAMPLE = 4
"""Pairs for each dimension of the embeddings that Schur-complement entropy needs at the least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Effective numbers of items in a sample of a set."""

    pairs: int
    images: dict[str, float]
    """Vendi score by order."""
    texts: dict[str, float]
    schur: dict[str, float] | None
    """See `schur`; None where the sample is too small for it."""

    @classmethod
    def of(cls, images: Floats, texts: Floats) -> Self:
        """That of paired embeddings (N, D)."""
        by_kind = [spectrum(rows) for rows in (images, texts)]
        scores = [{f"{q:g}": vendi(values, q) for q in ORDERS} for values in by_kind]
        enough = len(images) >= WIDTHS_A_SAMPLE * images.shape[1]
        return cls(
            pairs=len(images), images=scores[0], texts=scores[1], schur=schur(images, texts) if enough else None
        )  # fmt: skip


def unit(rows: Floats) -> Doubles:
    """`rows` (N, D) scaled to length 1, float64; zeros (no embedding) and what is not finite are left out."""
    values = np.asarray(rows, dtype=np.float64)[there(rows)]
    scaled: Doubles = values / np.linalg.norm(values, axis=1, keepdims=True)
    return scaled


def there(rows: Floats) -> npt.NDArray[np.bool_]:
    """(N,) which of `rows` (N, D) are embeddings: finite and not zero."""
    found: npt.NDArray[np.bool_] = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    return found


def spectrum(rows: Floats) -> Doubles:
    """Eigenvalues, summing to 1, of the similarity matrix over N of `rows` (N, D): cosines, 1 on the diagonal.

    The covariance (D, D) has the same ones as the similarities (N, N); the smaller matrix is taken.
    """
    scaled = unit(rows)
    gram = scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T
    return np.asarray(np.linalg.eigvalsh(gram / max(len(scaled), 1)))


def vendi(eigenvalues: Doubles, q: float = 1.0) -> float:
    """Vendi score of order q > 0 from `spectrum`: an effective number of items, 1 (all alike) to N (all orthogonal).

    0 without any. It is the exponential of the Rényi entropy of order q of the eigenvalues; Shannon's for q = 1.
    """
    known = eigenvalues[eigenvalues > _FLOOR]
    if not len(known):
        return 0.0
    if q == 1:
        return float(np.exp(-np.sum(known * np.log(known))))
    if math.isinf(q):
        return float(1 / known.max())
    return float(np.sum(known**q) ** (1 / (1 - q)))


def schur(images: Floats, texts: Floats) -> dict[str, float]:
    """Diversity of `images` (N, D) that their captions `texts` (N, D) explain, and that they do not.

    The second moments of the images are split by the Schur complement of the joint ones: C_II = (C_II - C_IT C_TT⁻¹
    C_TI) + C_IT C_TT⁻¹ C_TI. Of each part with eigenvalues l the score is exp(-sum l log(l / sum l)). `explained` is
    the share of the images' variance, about their mean, that a linear map of the captions gives (R²). Meaningful for
    N several times D only: unrelated captions have an R² of D / N, and N <= D captions explain anything.
    """
    both = there(images) & there(texts)
    image, text = unit(images[both]), unit(texts[both])
    n = max(len(image), 1)
    by_text = _from_text(image, text)
    about = [rows - rows.sum(axis=0) / n for rows in (image, text)]
    variance = float(np.einsum("nd,nd->", about[0], about[0])) / n
    return {
        "unexplained_by_text": _effective(image.T @ image / n - by_text),
        "explained_by_text": _effective(by_text),
        "explained": float(np.trace(_from_text(*about))) / variance if variance > _FLOOR else 0.0,
    }


def _from_text(image: Doubles, text: Doubles) -> Doubles:
    """C_IT C_TT⁻¹ C_TI, (D, D), of paired rows (N, D)."""
    n = max(len(image), 1)
    cross = image.T @ text / n
    by_text: Doubles = cross @ np.linalg.pinv(text.T @ text / n, rcond=1e-9, hermitian=True) @ cross.T
    return by_text


def _effective(part: Doubles) -> float:
    values = np.linalg.eigvalsh((part + part.T) / 2)
    known = values[values > _FLOOR]
    return float(np.exp(-np.sum(known * np.log(known / known.sum()))))
