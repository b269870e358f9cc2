"""Which concepts captions name: a list of words and phrases, found at word borders by Aho-Corasick.

Lists: `imagenet21k`, the WordNet 3.0 nouns whose first synset ImageNet-21k shows; `wordnet`, all nouns of WordNet 3.0;
or a file with one concept a line. Captions and concepts are compared in lower case, by words, without stemming (as
MetaCLIP does but for the case), so that "hot dog stand" names "hot dog", "dog" and "hot dog stand".
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines import _wordnet
from harness import ArtifactError, ConfigError, Pool
from harness.files import open_file, stamp
from harness.phrases import Phrases

ROWS = 1 << 15
"""Captions worked on at once."""
LISTS = ("imagenet21k", "wordnet")

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]


def phrases(name: str) -> Phrases:
    """The concepts of a list's name or of a file, kept for this process as long as the file stays what it is.

    ArtifactError for a file without a concept.
    """
    try:
        made = _phrases(name, "" if name in LISTS else stamp(name))
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{name}: not a text file in UTF-8, one concept a line: {error}") from error
    except ArtifactError as error:
        raise ArtifactError(
            f"{name}: no list of concepts; give {', '.join(LISTS)}, or a file with one a line"
        ) from error
    if not made.spelled:
        raise ArtifactError(f"{name}: holds no concept; give one a line, or one of {', '.join(LISTS)}")
    return made


@lru_cache(maxsize=4)
def _phrases(name: str, state: str) -> Phrases:
    if name == "imagenet21k":
        return Phrases(_wordnet.nouns(shown=True))
    if name == "wordnet":
        return Phrases(_wordnet.nouns(shown=False))
    with open_file(name) as file:
        return Phrases(file.read().decode().splitlines())


@dataclass(frozen=True)
class Matches:
    """The concepts that the captions of N rows name; 4 bytes a match and 8 bytes a row."""

    borders: npt.NDArray[np.int64]
    """(N + 1,): row i names concept[borders[i]:borders[i + 1]]."""
    concept: npt.NDArray[np.int32]
    """(M,) each concept of a row once."""
    concepts: int
    """Length of the list."""

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(concepts,) number of rows that name each."""
        return np.bincount(self.concept, minlength=self.concepts)

    @cached_property
    def named(self) -> npt.NDArray[np.int64]:
        """The rows that name a concept, ascending."""
        return np.flatnonzero(np.diff(self.borders))

    def reduced(self, values: Floats, ufunc: np.ufunc) -> Floats:
        """(len(named),) `ufunc` over the `values` (concepts,) of each named row's concepts."""
        reduced: Floats = ufunc.reduceat(values[self.concept], self.borders[self.named])
        return reduced


def matches(pool: Pool, name: str) -> Matches:
    """The concepts of list or file `name` in every caption of the pool, in pool order. ConfigError if there is none."""
    phrases(name)  # a wrong file is an error before any worker starts
    parts = pool.map(partial(_packed, name), columns=["text"], rows=ROWS, name="concepts")
    sizes = [part[1 : 1 + part[0]] for part in parts]
    borders = np.concatenate([np.zeros(1, np.int64), *sizes]).cumsum(dtype=np.int64)
    concept = np.concatenate([np.empty(0, np.int32), *(part[1 + part[0] :] for part in parts)])
    if not len(concept):
        raise ConfigError(f"setting method.concepts={name}: no caption of the pool names one of its concepts")
    return Matches(borders, concept, len(phrases(name).spelled))


def _packed(name: str, table: Any) -> npt.NDArray[np.int32]:
    """Number of rows, matches of each row, concepts: one array, which a pass over the pool can keep."""
    pairs = phrases(name).pairs(table["text"].to_pylist())
    sizes = np.bincount(pairs[:, 0], minlength=table.num_rows)
    return np.concatenate([[table.num_rows], sizes, pairs[:, 1]]).astype(np.int32)
