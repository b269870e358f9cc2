"""The generated world: the factors of a picture, how they are drawn by chance, and how they look.

A picture is one row of FACTORS. `sample` draws rows, `render` turns rows into pixels and is a pure function of them:
equal rows are equal pictures, so a near-duplicate is a row that is changed a little.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from harness.tiny.art import MASK_CODE, Floats, Ints, Layer, paint
from harness.tiny.words import (
    COLOUR_NAMES,
    COLOURS,
    FLAGS,
    SCENE_NAMES,
    SCENES,
    TEXTURES,
    THING_TEXTURES,
    THINGS,
    WRITTEN,
)

SIDE = 36
"""Pixels of a rendered picture's side."""
JITTER = 24

KINDS = ("things", "flag", "number", "word", "face", "swatch")
THING, FLAG, NUMBER, WORD, FACE, SWATCH = range(len(KINDS))
KIND_SHARES = (0.78, 0.05, 0.06, 0.02, 0.04, 0.05)

FACTORS = np.dtype(
    [
        ("kind", "i1"),
        ("thing", "i1"),
        ("colour", "i1"),
        ("texture", "i1"),
        ("count", "i1"),
        ("thing2", "i1"),  # -1: there is no second thing
        ("colour2", "i1"),
        ("gap", "i1"),
        ("scene", "i1"),
        ("size", "i1"),
        ("place", "i1"),
        ("turn", "i1"),
        ("style", "i1"),
        ("night", "i1"),
        ("symbol", "i1"),  # country, digit or written word, by kind
        ("grain", "f4"),  # strength of the pixel noise, in levels
        ("jitter", "f4", (JITTER,)),  # everything that no caption tells, each in [0, 1)
    ]
)
"""One picture. Codes are positions in the tables of `words`; 0 is the ordinary value of size 1 = medium excepted."""

Factors = npt.NDArray[np.void]
SYMBOLS = np.array([64, len(FLAGS), 10, len(WRITTEN), 64, 64])
"""How many codes `symbol` has, by kind."""
FILLED, LINES = 0, 1
UPRIGHT, TILTED, UPSIDE_DOWN = 0, 1, 2

_THING_ODDS = 1.0 / (np.arange(len(THINGS)) + 6.0)
_PALETTE = np.array([COLOURS[name] for name in COLOUR_NAMES], dtype=np.float32)
_SCENE_FIRST = np.array([SCENES[name][2] for name in SCENE_NAMES], dtype=np.float32)
_SCENE_SECOND = np.array([SCENES[name][3] for name in SCENE_NAMES], dtype=np.float32)
_SCENE_TEXTURE = np.array([TEXTURES.index(SCENES[name][1]) for name in SCENE_NAMES])
_FLAG_UPRIGHT = np.array([flag[0] == "v" for flag in FLAGS.values()])
_FLAG_COLOURS = np.array([[COLOUR_NAMES.index(name) for name in flag[1:]] for flag in FLAGS.values()])

# Rounded, so that no machine's cosine can differ in its last bit.
_DEGREES = np.arange(-180, 181, 3)
_TURNS = np.round(np.stack([np.cos(np.radians(_DEGREES)), np.sin(np.radians(_DEGREES))], 1), 5).astype(np.float32)

_SPOTS = {
    1: [(0.5, 0.5)],
    2: [(0.27, 0.5), (0.73, 0.5)],
    3: [(0.27, 0.3), (0.73, 0.3), (0.5, 0.73)],
    4: [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)],
    5: [(0.22, 0.22), (0.78, 0.22), (0.22, 0.78), (0.78, 0.78), (0.5, 0.5)],
    6: [(0.2, 0.3), (0.5, 0.3), (0.8, 0.3), (0.2, 0.7), (0.5, 0.7), (0.8, 0.7)],
}
MAX_COUNT = len(_SPOTS)
_SIDES = {1: 0.62, 2: 0.42, 3: 0.42, 4: 0.42, 5: 0.36, 6: 0.3}
_SIZE_FACTOR = np.array([0.58, 1.0, 1.4], dtype=np.float32)
_PLACE_SHIFT = np.array([(0, 0), (-0.26, 0), (0.26, 0), (0, -0.26), (0, 0.26)], dtype=np.float32)
_GAP_HALF = np.array([0.15, 0.23, 0.34], dtype=np.float32)


def stream(*parts: object) -> np.random.Generator:
    """A random generator that is a function of `parts` alone: a seed, a name of the stream, a shard."""
    key = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def sample(rng: np.random.Generator, n: int, **fixed: object) -> Factors:
    """`n` rows (n,) of FACTORS as web pictures have them; `fixed` factors take the value or array given."""
    rows = np.zeros(n, dtype=FACTORS)

    def choose(odds: object) -> Ints:
        weights = np.asarray(odds, dtype=np.float64)
        return np.searchsorted(np.cumsum(weights / weights.sum())[:-1], rng.random(n), side="right")

    rows["kind"] = choose(KIND_SHARES)
    rows["thing"] = choose(_THING_ODDS)
    rows["colour"] = choose(np.ones(len(COLOUR_NAMES)))
    rows["texture"] = np.where(rng.random(n) < 0.7, 0, rng.integers(1, THING_TEXTURES, n))
    rows["count"] = choose([0.05, 0.62, 0.09, 0.08, 0.06, 0.05, 0.05])
    rows["thing2"] = np.where((rng.random(n) < 0.12) & (rows["count"] == 1), choose(_THING_ODDS), -1)
    rows["colour2"] = choose(np.ones(len(COLOUR_NAMES)))
    rows["gap"] = choose([1, 1, 1])
    rows["scene"] = choose([0.28, *[0.08] * (len(SCENE_NAMES) - 1)])
    rows["size"] = choose([0.18, 0.64, 0.18])
    rows["place"] = choose([0.68, 0.08, 0.08, 0.08, 0.08])
    rows["turn"] = choose([0.8, 0.12, 0.08])
    rows["style"] = choose([0.92, 0.08])
    rows["night"] = choose([0.9, 0.1])
    rows["symbol"] = rng.integers(0, 1 << 6, n)
    rows["grain"] = 6.0 * rng.random(n, dtype=np.float32)
    rows["jitter"] = rng.random((n, JITTER), dtype=np.float32)
    for name, value in fixed.items():
        rows[name] = value
    if "texture" not in fixed:
        swatch = rows["kind"] == SWATCH
        rows["texture"] = np.where(swatch, 1 + rows["symbol"] % (len(TEXTURES) - 1), rows["texture"])
    rows["symbol"] %= SYMBOLS[rows["kind"]]
    return rows


def _f4(values: npt.NDArray[np.floating]) -> Floats:
    return values.astype(np.float32, copy=False)


def _varied(colours: Floats, jitter: Floats, strength: float) -> Floats:
    """`colours` (M, 3) moved by up to `strength` levels in each channel."""
    return np.clip(colours + (jitter - np.float32(0.5)) * np.float32(2 * strength), 0, 255)


def _layer(
    rows: Factors, picture: Ints, mask: object, colour: Floats, x: object, y: object, width: object, height: object,
    *, second: Floats | None = None, texture: object = 0, degrees: object = 0, line: object = False, zoom: object = 1.0,
    phase: Floats | None = None,
) -> Layer:  # fmt: skip
    """A Layer over pictures `picture` (M,); scalars stand for all of them."""
    m = len(picture)

    def floats(value: object) -> Floats:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.float32), (m,)))

    def ints(value: object) -> Ints:
        return np.broadcast_to(np.asarray(value, dtype=np.int64), (m,))

    steps = np.clip(np.round((floats(degrees) + 180) / 3), 0, len(_TURNS) - 1).astype(np.int64)
    return Layer(
        picture=picture, mask=ints(mask), texture=ints(texture), first=colour,
        second=colour if second is None else second, x=floats(x), y=floats(y), width=floats(width),
        height=floats(height), turn=_TURNS[steps], line=np.broadcast_to(np.asarray(line, dtype=bool), (m,)),
        phase=np.zeros((m, 2), np.float32) if phase is None else phase, zoom=floats(zoom),
    )  # fmt: skip


def _backgrounds(rows: Factors) -> Layer:
    scene = rows["scene"].astype(np.int64)
    jitter = rows["jitter"]
    first = _varied(_SCENE_FIRST[scene], jitter[:, 7:10], 18)
    second = _varied(_SCENE_SECOND[scene], jitter[:, 7:10], 18)
    studio = scene == 0
    grey = (jitter[:, 10:13] * 0.25 + jitter[:, 15:16]) * 190
    first[studio] = second[studio] = np.clip(grey, 20, 250)[studio]
    texture = _SCENE_TEXTURE[scene]
    swatch = rows["kind"] == SWATCH
    first[swatch] = _varied(_PALETTE[rows["colour"]], jitter[:, 4:7], 25)[swatch]
    light, dark = np.float32(250), np.float32(20)
    away = np.where(first.mean(axis=1, keepdims=True) > 128, dark, light) + (jitter[:, 10:13] - np.float32(0.5)) * 120
    second[swatch] = np.clip(away, 0, 255)[swatch]
    texture = np.where(swatch, rows["texture"], texture)
    everything = np.arange(len(rows))
    return _layer(
        rows, everything, MASK_CODE["full"], first, 0.5, 0.5, 1.0, 1.0, second=second, texture=texture,
        phase=jitter[:, 13:15], zoom=0.8 + 0.5 * jitter[:, 16],
    )  # fmt: skip


def _thing_layers(rows: Factors) -> list[Layer]:
    """One layer for each place a thing can stand at: the k-th of several equal things, and the second kind of thing."""
    layers = []
    for k in range(MAX_COUNT):
        at = np.flatnonzero((rows["kind"] == THING) & (rows["count"] > k))
        if not len(at):
            continue
        at = at[np.argsort(rows["count"][at] > 1, kind="stable")]
        here = rows[at]
        jitter = np.roll(here["jitter"], 5 * k, axis=1)
        spots = np.array([_SPOTS[max(1, c)][min(k, max(0, c - 1))] for c in range(MAX_COUNT + 1)], dtype=np.float32)
        sides = np.array([_SIDES[max(1, c)] for c in range(MAX_COUNT + 1)], dtype=np.float32)
        count = here["count"]
        pair = here["thing2"] >= 0
        side = np.where(pair, np.float32(0.44), sides[count])
        one = count == 1
        side = side * np.where(one, _SIZE_FACTOR[here["size"]], np.float32(1)) * (0.9 + 0.2 * jitter[:, 2])
        side = np.where(pair, np.minimum(side, 0.5), side)
        shift = np.where((one & ~pair)[:, None], _PLACE_SHIFT[here["place"]], 0)
        room = np.maximum(0.06, 0.5 - side / 2) * 0.25
        x = spots[count, 0] + shift[:, 0] + (jitter[:, 0] - 0.5) * room
        y = spots[count, 1] + shift[:, 1] + (jitter[:, 1] - 0.5) * room
        x = np.where(pair, 0.5 - _GAP_HALF[here["gap"]], x)
        layers.append(_things(here, at, here["thing"], here["colour"], _f4(x), _f4(y), side, jitter))
    at = np.flatnonzero((rows["kind"] == THING) & (rows["count"] == 1) & (rows["thing2"] >= 0))
    if len(at):
        here = rows[at]
        jitter = np.roll(here["jitter"], 11, axis=1)
        x = 0.5 + _GAP_HALF[here["gap"]]
        y = 0.5 + (jitter[:, 1] - 0.5) * 0.12
        side = 0.36 + 0.08 * jitter[:, 2]
        layers.append(_things(here, at, here["thing2"], here["colour2"], x, _f4(y), _f4(side), jitter))
    return layers


def _things(
    rows: Factors, at: Ints, thing: Ints, colour: Ints, x: Floats, y: Floats, side: Floats, jitter: Floats
) -> Layer:
    first = _varied(_PALETTE[colour], jitter[:, 4:7], 22)
    second = np.where(first.mean(axis=1, keepdims=True) > 130, first * np.float32(0.3), first * 0.4 + np.float32(150))
    tilt = (jitter[:, 3] - 0.5) * 24
    tilt = np.where(rows["turn"] == TILTED, np.where(jitter[:, 3] < 0.5, -55, 55), tilt)
    tilt = np.where(rows["turn"] == UPSIDE_DOWN, 180 - np.abs(tilt), tilt)
    return _layer(
        rows, at, thing, first, x, y, side, side * (0.92 + 0.16 * jitter[:, 17]), second=second.astype(np.float32),
        texture=rows["texture"], degrees=tilt, line=rows["style"] == LINES, zoom=1.0, phase=jitter[:, 13:15],
    )  # fmt: skip


def _written(
    rows: Factors, at: Ints, texts: list[str], colour: Floats, x: Floats, y: Floats, height: Floats
) -> list[Layer]:
    """A layer for each letter of `texts`, centred at x, y."""
    layers = []
    lengths = np.array([len(text) for text in texts])
    advance = np.minimum(height * 0.72, 0.94 / np.maximum(lengths, 1)).astype(np.float32)
    for k in range(int(lengths.max(initial=0))):
        here = np.flatnonzero(lengths > k)
        mask = np.array([MASK_CODE.get(texts[i][k], MASK_CODE["full"]) for i in here])
        seen = mask != MASK_CODE["full"]
        here, mask = here[seen], mask[seen]
        if len(here):
            place = x[here] + (k - (lengths[here] - 1) / 2) * advance[here]
            width = advance[here] * 1.12
            layers.append(_layer(rows, at[here], mask, colour[here], place, y[here], width, height[here]))
    return layers


def _special_layers(rows: Factors) -> list[Layer]:
    """Flags, numbers, written words and faces."""
    layers: list[Layer] = []
    jitter = rows["jitter"]
    at = np.flatnonzero(rows["kind"] == FLAG)
    upright = _FLAG_UPRIGHT[rows["symbol"][at] % len(FLAGS)]
    width = 0.72 + 0.26 * jitter[at, 2]
    height = width * 0.72
    for k in range(3):
        colours = _varied(_PALETTE[_FLAG_COLOURS[rows["symbol"][at] % len(FLAGS), k]], jitter[at, 4:7], 22)
        step = k - 1
        x = 0.5 + (jitter[at, 0] - 0.5) * 0.08 + np.where(upright, step * width * 0.31, 0)
        y = 0.5 + (jitter[at, 1] - 0.5) * 0.1 + np.where(upright, 0, step * height * 0.31)
        wide, high = np.where(upright, width / 3, width), np.where(upright, height, height / 3)
        layers.append(_layer(rows, at, MASK_CODE["square"], colours, x, y, wide, high))

    at = np.flatnonzero(rows["kind"] == NUMBER)
    digits = rows["symbol"][at].astype(np.int64)
    layers.append(
        _layer(rows, at, MASK_CODE["0"] + digits, _varied(_PALETTE[rows["colour"][at]], jitter[at, 4:7], 22),
               0.5 + (jitter[at, 0] - 0.5) * 0.14, 0.5 + (jitter[at, 1] - 0.5) * 0.14, 0.55 + 0.15 * jitter[at, 2],
               0.72 + 0.18 * jitter[at, 17], degrees=(jitter[at, 3] - 0.5) * 24)
    )  # fmt: skip

    at = np.flatnonzero(rows["kind"] == WORD)
    texts = [WRITTEN[code] for code in rows["symbol"][at]]
    layers += _written(
        rows,
        at,
        texts,
        _varied(_PALETTE[rows["colour"][at]], jitter[at, 4:7], 22),
        np.full(len(at), 0.5, np.float32),
        0.4 + 0.2 * jitter[at, 1],
        0.3 + 0.12 * jitter[at, 2],
    )

    at = np.flatnonzero(rows["kind"] == FACE)
    x, y = 0.5 + (jitter[at, 0] - 0.5) * 0.1, 0.52 + (jitter[at, 1] - 0.5) * 0.1
    side = 0.6 * _SIZE_FACTOR[rows["size"][at]] * (0.92 + 0.16 * jitter[at, 2])
    hair = np.flatnonzero(rows["gap"][at] == 0)
    dark = np.full((len(hair), 3), (70, 44, 30), np.float32)
    layers.append(_layer(rows, at[hair], MASK_CODE["hair"], dark, x[hair], y[hair], side[hair] * 1.3, side[hair] * 1.3))
    skin = _varied(_PALETTE[rows["colour"][at]], jitter[at, 4:7], 18)
    layers.append(_layer(rows, at, MASK_CODE["disc"], skin, x, y, side, side))
    layers.append(_layer(rows, at, MASK_CODE["smile"], skin, x, y, side, side))
    return [layer for layer in layers if len(layer.picture)]


def render(rows: Factors, *, side: int = SIDE, texts: dict[int, str] | None = None) -> npt.NDArray[np.uint8]:
    """Pictures (N, side, side, 3) of `rows` (N,). `texts`: words written over the picture with that index."""
    canvas = np.zeros((3, len(rows), side, side), dtype=np.float32)
    paint(canvas, _backgrounds(rows))
    for layer in [*_thing_layers(rows), *_special_layers(rows)]:
        paint(canvas, layer)
    if texts:
        _write_over(canvas, rows, texts)
    gain = np.broadcast_to(0.88 + 0.24 * rows["jitter"][:, 18], (3, len(rows))).astype(np.float32)
    night = rows["night"].astype(bool)
    gain[:, night] *= np.array([[0.38], [0.42], [0.62]], dtype=np.float32)
    seeds = (rows["jitter"][:, 19] * np.float32(1 << 23)).astype(np.uint32)
    pictures = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    for channel in range(3):
        plane = canvas[channel] * gain[channel, :, None, None]
        plane += _grain(seeds + np.uint32(channel << 24), side) * rows["grain"][:, None, None]
        pictures[..., channel] = np.clip(plane + np.float32(0.5), 0, 255)
    return pictures


def _write_over(canvas: Floats, rows: Factors, texts: dict[int, str]) -> None:
    """Lines of words over the pictures, at most four lines of nine letters."""
    lines: list[list[tuple[int, str]]] = [[], [], [], []]
    for index, text in texts.items():
        words = "".join(c if c.isalnum() and c.isascii() else " " for c in text.upper()).split()
        for k, word in enumerate(words[:4]):
            lines[k].append((index, word[:9]))
    for k, found in enumerate(lines):
        if found:
            at = np.array([index for index, _ in found])
            white = np.full((len(at), 3), 250, np.float32)
            y = np.full(len(at), 0.14 + 0.24 * k, np.float32)
            middle, height = np.full(len(at), 0.5, np.float32), np.full(len(at), 0.2, np.float32)
            for layer in _written(rows, at, [word for _, word in found], white, middle, y, height):
                paint(canvas, layer)


def _grain(seeds: npt.NDArray[np.uint32], side: int) -> Floats:
    """(N, side, side) noise in [-1, 1), an integer hash of seed and pixel."""
    pixel = np.arange(side * side, dtype=np.uint32) * np.uint32(0x9E3779B1)
    mixed = pixel[None, :] ^ (seeds[:, None] * np.uint32(0x85EBCA6B) + np.uint32(0xC2B2AE35))
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
    noise = (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0 / (1 << 24)) - np.float32(1)
    cube: Floats = noise.reshape(len(seeds), side, side)
    return cube
