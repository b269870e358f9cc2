"""Drawing: an atlas of small masks, textures, and one operation, `paint`, that lays many of them on many pictures.

Only sums, products, comparisons and table look-ups touch the pixels, so that pictures are the same on every machine.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from harness.tiny.words import TEXTURES, THINGS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SPRITE = 64
"""Side of a mask in the atlas."""
_FINE = 256
"""Side of the drawing that a mask is averaged from."""
_INK, _BODY = 1, 2
_BATCH = 256

# 3 x 5 bitmaps, rows from the top, three bits a row.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "75555",
    "O": "25552", "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552",
    "W": "55775", "X": "55255", "Y": "55222", "Z": "71247",
}  # fmt: skip

# Each thing is drawn part by part, coordinates in percent: p polygon, e ellipse, l line, in capitals with ink (dark
# details), x an ellipse cut out.
_DRAWINGS = {
    "mug": "e 56 30 94 72 | x 66 40 84 62 | p 12 18 70 18 66 86 16 86 | L 16 28 66 28",
    "car": (
        "p 4 66 4 48 24 44 36 26 68 26 80 46 96 50 96 66 | P 40 32 64 32 72 45 32 45 | E 14 56 36 80 | E 62 56 84 80"
    ),
    "house": "p 50 6 96 46 84 46 84 94 16 94 16 46 4 46 | P 42 62 58 62 58 94 42 94 | L 10 46 90 46",
    "tree": "P 43 70 57 70 57 96 43 96 | p 50 4 74 34 64 34 88 74 12 74 36 34 26 34",
    "cat": (
        "p 10 4 40 30 12 56 | p 90 4 60 30 88 56 | e 10 22 90 92 | E 26 44 40 60 | E 60 44 74 60 | P 44 66 56 66 50 74"
    ),
    "fish": "e 4 26 74 74 | p 64 50 96 22 96 78 | E 16 40 28 52 | L 36 32 36 68",
    "apple": "e 8 24 62 94 | e 38 24 92 94 | L 50 36 56 6 | E 56 8 84 24",
    "hat": "e 2 66 98 90 | p 26 16 74 16 80 76 20 76 | P 22 56 78 56 79 66 21 66",
    "star": "p 50 2 62 36 98 38 70 60 80 96 50 75 20 96 30 60 2 38 38 36",
    "boat": "p 4 64 96 64 80 90 20 90 | p 54 6 90 56 54 56 | L 50 6 50 64 | p 46 18 18 56 46 56",
    "key": "e 4 30 46 72 | x 16 42 34 60 | p 42 44 96 44 96 74 84 74 84 58 76 58 76 70 66 70 66 58 42 58",
    "mushroom": "p 38 50 62 50 68 94 32 94 | P 36 54 64 54 64 60 36 60 | p 4 54 10 30 30 10 50 6 70 10 90 30 96 54",
    "bottle": "p 41 4 59 4 59 30 74 44 74 96 26 96 26 44 41 30 | P 30 58 70 58 70 80 30 80",
    "flower": "e 34 2 66 38 | e 62 26 98 58 | e 52 58 84 94 | e 16 58 48 94 | e 2 26 38 58 | E 34 34 66 66",
    "umbrella": (
        "p 4 52 14 26 34 10 50 6 66 10 86 26 96 52 82 44 66 52 50 44 34 52 18 44 | L 50 46 50 90 | L 50 90 38 92"
    ),
    "bell": "p 50 8 66 16 74 36 78 62 92 78 8 78 22 62 26 36 34 16 | E 40 76 60 94 | L 20 66 80 66",
    "banana": "p 82 6 92 10 92 40 76 70 46 90 12 92 6 82 34 74 58 56 72 34 | P 80 4 94 6 92 14 82 14",
    "rabbit": "e 24 2 44 52 | e 56 2 76 52 | e 18 36 82 96 | E 32 54 42 66 | E 58 54 68 66 | L 46 78 54 78",
    "pear": "e 16 40 84 96 | e 32 14 68 66 | L 50 20 56 2",
    "heart": "e 4 12 54 58 | e 46 12 96 58 | p 7 44 93 44 50 94",
    "full": "p 0 0 100 0 100 100 0 100",
    "square": "p 0 0 100 0 100 100 0 100",
    "disc": "e 4 4 96 96",
    "smile": "L 26 64 40 76 | L 40 76 60 76 | L 60 76 74 64 | E 26 32 40 50 | E 60 32 74 50",
    "hair": "p 2 96 2 30 24 4 76 4 98 30 98 96 84 96 84 34 16 34 16 96",
}

MASKS = (*THINGS, "full", "square", "disc", "smile", "hair", *_GLYPHS)
MASK_CODE = {name: code for code, name in enumerate(MASKS)}


def _mask(name: str) -> tuple[Floats, Floats]:
    """Cover and ink (SPRITE, SPRITE) in [0, 1] of one mask, with an empty border of one cell."""
    drawing = Image.new("L", (_FINE, _FINE))
    pen = ImageDraw.Draw(drawing)
    if name in _GLYPHS:
        for row, bits in enumerate(_GLYPHS[name]):
            for column in range(3):
                if int(bits) >> (2 - column) & 1:
                    x, y = 26 + column * 68, 8 + row * 48
                    pen.rectangle([x, y, x + 67, y + 47], fill=_BODY)
    else:
        for part in _DRAWINGS[name].split(" | "):
            verb, *numbers = part.split()
            at = [int(number) * (_FINE - 1) // 100 for number in numbers]
            fill = 0 if verb == "x" else _INK if verb.isupper() else _BODY
            if verb in "pP":
                pen.polygon(at, fill=fill)
            elif verb in "lL":
                pen.line(at, fill=fill, width=_FINE // 16)
            else:
                pen.ellipse(at, fill=fill)
    fine = np.asarray(drawing)
    step = _FINE // SPRITE

    def coarse(chosen: npt.NDArray[np.bool_]) -> Floats:
        cells: Floats = chosen.reshape(SPRITE, step, SPRITE, step).mean(axis=(1, 3), dtype=np.float32)
        if name != "full":
            cells[[0, -1]] = 0
            cells[:, [0, -1]] = 0
        return cells

    return coarse(fine > 0), coarse(fine == _INK)


@dataclass(frozen=True)
class Atlas:
    """Tables that `paint` looks cells up in. Row code + len(MASKS) of `cover` and `bright` is the line drawing."""

    cover: Floats
    """(2 * masks * SPRITE * SPRITE,): how much of the cell is covered."""
    bright: Floats
    """Same shape: what of the thing's colour shows there, its cover less outline and dark details."""
    textures: Floats
    """(textures * SPRITE * SPRITE,): share of the second colour."""


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The masks of MASKS and the textures of words.TEXTURES."""
    pairs = [_mask(name) for name in MASKS]
    cover = np.stack([pair[0] for pair in pairs])
    ink = np.stack([pair[1] for pair in pairs])
    inner = cover.copy()
    reach = 4
    for axis in (1, 2):
        for shift in range(-reach, reach + 1):
            inner = np.minimum(inner, np.roll(cover, shift, axis))
    edge = cover - inner
    line = np.minimum(np.maximum(edge, ink), 1)
    dark = np.minimum(ink + np.float32(0.55) * edge, 1)
    for name in ("full", "square", *_GLYPHS):
        dark[MASK_CODE[name]] = 0
    bright = cover * (1 - np.float32(0.75) * dark)
    return Atlas(np.concatenate([cover, line]).ravel(), np.concatenate([bright, line]).ravel(), _textures().ravel())


def _textures() -> Floats:
    """(textures, SPRITE, SPRITE) in {0, 1}: repeating patterns, in the order of TEXTURES."""
    y, x = np.mgrid[0:SPRITE, 0:SPRITE]
    triangle = np.abs(x % 16 - 8)
    dots = ((x % 16 - 8) ** 2 + (y % 16 - 8) ** 2) < 26
    course = y // 8
    joints = (y % 8 < 2) | ((x + 8 * (course % 2)) % 16 < 2)
    speckles = (x * x * 7 + y * y * 13 + x * y * 5 + x // 3 * 11 + y // 3 * 17) % 23 < 7
    table = {
        "plain": np.zeros_like(dots),
        "striped": y % 16 < 8,
        "dotted": dots,
        "checkered": (x // 8 + y // 8) % 2 == 1,
        "zigzag": (y + triangle) % 16 < 7,
        "wavy": (y + triangle * (16 - triangle) // 14) % 12 < 4,
        "grid": (x % 12 < 3) | (y % 12 < 3),
        "brick": joints,
        "speckled": speckles,
    }
    return np.stack([table[name] for name in TEXTURES]).astype(np.float32)


@dataclass
class Layer:
    """One mask laid on each of M pictures; arrays of length M, lengths as fractions of the picture's side."""

    picture: Ints
    mask: Ints
    texture: Ints
    first: Floats
    """(M, 3) colour, 0 to 255."""
    second: Floats
    x: Floats
    y: Floats
    """Centre, 0 to 1."""
    width: Floats
    height: Floats
    turn: Floats
    """(M, 2) cosine and sine of the rotation."""
    line: npt.NDArray[np.bool_]
    """True: outline only."""
    phase: Floats
    """(M, 2) shift of the texture, 0 to 1."""
    zoom: Floats
    """Repeats of the texture, 1 = the pattern as it stands."""

    def __getitem__(self, part: slice | Ints) -> "Layer":
        return Layer(*(getattr(self, field.name)[part] for field in fields(self)))


def paint(canvas: Floats, layer: Layer) -> None:
    """Lay each mask of `layer` on its picture of `canvas` (3, N, side, side), in place."""
    textured = layer.texture != 0
    for chosen in (np.flatnonzero(~textured), np.flatnonzero(textured)):
        for start in range(0, len(chosen), _BATCH):
            _paint(canvas, layer[chosen[start : start + _BATCH]])


def _paint(canvas: Floats, layer: Layer) -> None:
    side = canvas.shape[2]
    cos, sin = layer.turn[:, 0], layer.turn[:, 1]
    across = np.abs(cos) * layer.width + np.abs(sin) * layer.height
    down = np.abs(sin) * layer.width + np.abs(cos) * layer.height
    # Only a window around the mask is touched: the widest of the batch.
    window = min(side, int(max(across.max(), down.max()) * side) + 3)
    left = np.clip((layer.x * side - window / 2).astype(np.int64), 0, side - window)
    top = np.clip((layer.y * side - window / 2).astype(np.int64), 0, side - window)
    columns = (left[:, None] + np.arange(window))[:, None, :]
    rows = (top[:, None] + np.arange(window))[:, :, None]
    dx = (columns.astype(np.float32) + np.float32(0.5)) / np.float32(side) - layer.x[:, None, None]
    dy = (rows.astype(np.float32) + np.float32(0.5)) / np.float32(side) - layer.y[:, None, None]
    u = dx * (cos / layer.width)[:, None, None] + dy * (sin / layer.width)[:, None, None] + np.float32(0.5)
    v = dy * (cos / layer.height)[:, None, None] - dx * (sin / layer.height)[:, None, None] + np.float32(0.5)
    mask = (layer.mask + np.where(layer.line, len(MASKS), 0))[:, None, None]
    cell = _cell(u, clip=True) + _cell(v, clip=True) * np.int32(SPRITE) + (mask * SPRITE * SPRITE).astype(np.int32)
    table = atlas()
    cover, bright = table.cover.take(cell), table.bright.take(cell)
    clear = 1 - cover
    if layer.texture.any():
        zoom = layer.zoom[:, None, None]
        tile = _cell(u * zoom + layer.phase[:, 0, None, None], clip=False)
        tile += _cell(v * zoom + layer.phase[:, 1, None, None], clip=False) * np.int32(SPRITE)
        tile += (layer.texture * SPRITE * SPRITE).astype(np.int32)[:, None, None]
        second = bright * table.textures.take(tile)
        first = bright - second
    else:
        first, second = bright, None
    at = (layer.picture[:, None, None] * side + rows) * side + columns
    for channel in range(3):
        plane = canvas[channel].reshape(-1)
        value = plane.take(at)
        value *= clear
        value += first * layer.first[:, channel, None, None]
        if second is not None:
            value += second * layer.second[:, channel, None, None]
        plane[at] = value


def _cell(position: Floats, *, clip: bool) -> npt.NDArray[np.int32]:
    """The cell of SPRITE that a position falls in; beyond [0, 1) the nearest one, or going round."""
    if clip:
        return (np.clip(position, 0, np.float32(0.999)) * np.float32(SPRITE)).astype(np.int32)
    # Positions here are never below -8.
    return ((position + np.float32(8)) * np.float32(SPRITE)).astype(np.int32) & np.int32(SPRITE - 1)
