"""Captions as words, many at once: one line of bytes a caption, words apart by single spaces, hashes of spans."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


@cache
def _no_word() -> re.Pattern[str]:
    """What stands between words. Vowel signs and accents that are characters of their own, which \\w lacks, do not."""
    codes = np.array([code for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc")])
    ranges = np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1)
    marks = "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in ranges)
    return re.compile(rf"[^\w\n{marks}]+|_+")


_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() or code == ord("\n") else ord(" ") for code in range(128))
_ASCII += bytes(range(128, 256))
"""For bytes of ASCII, which most captions are: lower case, and spaces for what is no letter or digit."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))


@dataclass(frozen=True)
class Words:
    """N captions in lower case and Unicode's composed form (NFC), without what is no letter, digit or accent."""

    text: bytes
    """UTF-8: ` word word \\n` for each caption, so that every word has a space on both sides."""
    ends: npt.NDArray[np.int64]
    """(N,) place in `text` of each caption's line break."""

    @classmethod
    def of(cls, captions: Sequence[str]) -> "Words":
        """The words of `captions` (N,)."""
        if not captions:
            return cls(b"", np.empty(0, np.int64))
        lines = [caption.replace("\n", " ") for caption in captions]
        others = [row for row, line in enumerate(lines) if not line.isascii()]
        rest = "\n".join([lines[row] for row in others])
        for row in others:
            lines[row] = ""
        found = "\n".join(lines).encode().translate(_ASCII).split(b"\n")
        if others:
            spaced = _no_word().sub(" ", unicodedata.normalize("NFC", rest.lower()))
            for row, line in zip(others, spaced.encode(errors="replace").split(b"\n"), strict=True):
                found[row] = line
        text = re.sub(b"  +", b" ", b" " + b" \n ".join(found) + b" \n")
        return cls(text, np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")))

    def each(self) -> list[list[str]]:
        """The words of each caption (N,)."""
        return [line.split() for line in self.text.decode().split("\n")[:-1]]

    def rows(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(M,) the caption that each place in `text` (M,) belongs to."""
        return np.searchsorted(self.ends, places)

    def spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of the M words, in order: first byte, byte behind the last, caption; (M,) each."""
        codes = np.frombuffer(self.text, np.uint8)
        inside = (codes != ord(" ")) & (codes != ord("\n"))
        change = np.diff(inside, prepend=False, append=False)
        borders = np.flatnonzero(change)
        starts, stops = borders[::2], borders[1::2]
        return starts, stops, self.rows(starts)

    def hashes(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> Hashes:
        """(M,) 64-bit hashes of the spans [start, stop) of `text`: equal text gives equal hashes, on every machine.

        A polynomial in an odd base modulo 2**64, from sums over the whole text, then mixed.
        """
        codes = np.frombuffer(self.text, np.uint8).astype(np.uint64) + np.uint64(1)
        powers = _powers(_BASE, len(codes))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers, dtype=np.uint64)])
        return mixed((sums[stops] - sums[starts]) * _powers(_INVERSE, len(codes) + 1)[starts])


def _powers(base: np.uint64, count: int) -> Hashes:
    """(count,) base**0, base**1, … modulo 2**64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    powers: Hashes = np.cumprod(factors, dtype=np.uint64)
    return powers


def mixed(values: Hashes) -> Hashes:
    """(M,) every bit of the result hangs on every bit of the value (splitmix64's finaliser)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
