"""Rectangles whose areas are given numbers, as square as can be (Bruls, Huizing, van Wijk 2000). Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Rectangle(NamedTuple):
    """Upper left corner and size."""

    x: float
    y: float
    width: float
    height: float


def squarified(sizes: Sequence[float], width: float, height: float) -> list[Rectangle]:
    """Rectangles that fill `width` x `height`, areas in proportion to `sizes` (all above 0), largest first."""
    scale = width * height / sum(sizes) if sizes else 0.0
    rest = [size * scale for size in sizes]
    x, y, found = 0.0, 0.0, list[Rectangle]()
    while rest:
        side = min(width, height)
        n = 1
        while n < len(rest) and _worst(rest[: n + 1], side) <= _worst(rest[:n], side):
            n += 1
        row, rest = rest[:n], rest[n:]
        depth = sum(row) / side
        along = 0.0
        for area in row:  # the row lies along the shorter side
            length = area / depth
            found.append(
                Rectangle(x, y + along, depth, length) if height <= width else Rectangle(x + along, y, length, depth)
            )
            along += length
        if height <= width:
            x, width = x + depth, width - depth
        else:
            y, height = y + depth, height - depth
    return found


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row of areas that is as long as `side`."""
    total = sum(row)
    return max(side * side * max(row) / total**2, total**2 / (side * side * min(row)))
