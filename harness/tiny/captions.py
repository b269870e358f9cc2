"""Captions: what a careful person writes under a picture of the generated world, and what the web writes instead."""

import numpy as np
import numpy.typing as npt

from harness.tiny.words import (
    COLOUR_NAMES,
    COUNTRIES,
    FOREIGN,
    GAPS,
    NUMBERS,
    PLACE_PHRASES,
    SCENE_NAMES,
    SCENES,
    SIZES,
    TEXTURES,
    THINGS,
    WRITTEN,
    article,
    plural,
)
from harness.tiny.world import FACE, FLAG, LINES, NUMBER, SWATCH, TILTED, UPSIDE_DOWN, WORD, Factors

DRAWS = 16
"""Uniform numbers that the wording of one caption hangs on."""
Draws = npt.NDArray[np.float64]

_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "this is ", "photo of ", "image of ", "here is ", "see ")
_ENDINGS = ("", "", "", "", "", ".", "!", ", beautiful photo", " - stock photo", " | free picture")
_BOILERPLATE = (
    "click here to enlarge the image", "image not available at this time", "free shipping on all orders over 50",
    "best price guaranteed, buy online today", "download our app for more", "photo by the author, all rights reserved",
    "please enable javascript to view this page", "subscribe to our newsletter", "sign in to see the full picture",
    "add to basket and save 20 percent", "read more about our services", "copyright 2019 all rights reserved",
    "share this on social media", "no description available", "related products you may also like",
    "welcome to our new website", "customer reviews and ratings", "view larger version of this picture",
    "terms and conditions apply", "posted by admin on monday", "top 10 deals of the week", "see details and pricing",
)  # fmt: skip
_FILE_NAMES = (
    "IMG_{0:04d}.JPG", "DSC{0:05d}", "untitled-{0}", "photo{0}", "screenshot {0}", "{0:08x}", "Slide {0}",
    "thumb_{0}x{1}.png", "product #{0}-{1}", "{1:x}-{0:x}", "image{0}", "{0}", "P{0:07d}.jpg", "scan {0} {1}",
)  # fmt: skip
_MORE_NOUNS = ("chair", "lamp", "ball", "crown", "bird", "clock", "box", "cup")
"""Nouns that no picture shows: sellers' keyword lists."""


def _pick(options: tuple[str, ...], draw: float) -> str:
    return options[min(int(draw * len(options)), len(options) - 1)]


def describe(rows: Factors, draws: Draws) -> list[str]:
    """A right English caption for each of `rows` (N,); `draws` (N, DRAWS) decide its wording and what it leaves out."""
    return [_one(row, u) for row, u in zip(rows, draws.tolist(), strict=True)]


def _one(row: np.void, u: list[float]) -> str:
    opening, ending = _pick(_OPENINGS, u[0]), _pick(_ENDINGS, u[1])
    return f"{opening}{subject(row, u)}{ending}"


def subject(row: np.void, u: list[float]) -> str:
    """The picture `row` in words, without opening and ending; u[2:] decide what is told."""
    kind = row["kind"]
    scene = SCENES[SCENE_NAMES[row["scene"]]][0] if u[2] < (0.75 if row["scene"] else 0.25) else ""
    colour = COLOUR_NAMES[row["colour"]]
    if kind == FLAG:
        told = f"the flag of {COUNTRIES[row['symbol']]}"
    elif kind == NUMBER:
        name = NUMBERS[row["symbol"]] if u[3] < 0.7 else str(row["symbol"])
        told = f"the {colour} number {name}" if u[4] < 0.6 else f"the number {name}"
    elif kind == WORD:
        told = f"the word {WRITTEN[row['symbol']].lower()} in {colour} letters"
    elif kind == FACE:
        size = f"{SIZES[row['size']]} " if row["size"] != 1 else ""
        told = f"{article(size + colour)} smiling face" + (" with long hair" if row["gap"] == 0 else " without hair")
    elif kind == SWATCH:
        told = f"{article(colour)} {TEXTURES[row['texture']]} pattern"
        scene = ""
    elif row["count"] == 0:
        told = "nothing but the background" if row["scene"] == 0 else f"an empty scene {scene}".rstrip()
        scene = ""
    else:
        told = _things(row, u)
    style = "a line drawing of " if row["style"] == LINES and u[5] < 0.8 and kind == 0 and row["count"] else ""
    night = "at night" if row["night"] and u[6] < 0.8 else ""
    return style + " ".join(part for part in (told, scene, night) if part)


def _things(row: np.void, u: list[float]) -> str:
    thing, count = THINGS[row["thing"]], int(row["count"])
    words = []
    if row["texture"] and u[7] < 0.75:
        words.append(TEXTURES[row["texture"]])
    if u[8] < 0.85:
        words.append(COLOUR_NAMES[row["colour"]])
    if count > 1:
        return " ".join([NUMBERS[count], *words, plural(thing)])
    if row["thing2"] >= 0:
        second = article(f"{COLOUR_NAMES[row['colour2']]} {THINGS[row['thing2']]}")
        link = ("next to", "and", f"{GAPS[row['gap']]} from" if row["gap"] == 2 else GAPS[row["gap"]] + " to")
        joint = "touching" if row["gap"] == 0 and u[9] >= 0.66 else _pick(link, u[9])
        return f"{article(' '.join([*words, thing]))} {joint} {second}"
    if row["turn"] and u[10] < 0.75:
        words.insert(0, {TILTED: "tilted", UPSIDE_DOWN: "upside down"}[int(row["turn"])])
    if row["size"] != 1 and u[11] < 0.7:
        words.insert(0, SIZES[row["size"]])
    place = f" {PLACE_PHRASES[row['place']]}" if u[12] < (0.7 if row["place"] else 0.08) else ""
    return article(" ".join([*words, thing])) + place


def foreign(rows: Factors, draws: Draws) -> list[str]:
    """A right caption in German, French, Spanish or Russian for each of `rows`; what is no thing is told as one."""
    languages = tuple(FOREIGN)
    told = []
    for row, u in zip(rows, draws.tolist(), strict=True):
        words = FOREIGN[_pick(languages, u[0])]
        colour = f" {words['colours'][row['colour']]}" if u[8] < 0.85 else ""
        scene = f" {words['scenes'][row['scene']]}" if u[2] < 0.8 else ""
        told.append(f"{_pick(words['openings'], u[1])}{words['things'][row['thing']]}{colour}{scene}")
    return told


def boilerplate(draws: Draws) -> list[str]:
    """What stands around pictures on the web and says nothing about them; one for each row of `draws`."""
    told = []
    for u in draws.tolist():
        text = _pick(_BOILERPLATE, u[0])
        if u[1] < 0.25:
            nouns = [_pick(_MORE_NOUNS + THINGS, v) for v in u[2 : 4 + int(u[10] * 5)]]
            text = ", ".join(nouns) + (f" - {text}" if u[11] < 0.5 else " for sale")
        elif u[1] < 0.5:
            text = f"{text} {int(u[3] * 999)}"
        told.append(text.capitalize() if u[4] < 0.5 else text)
    return told


def _nonsense(u: list[float], k: int) -> str:
    letters = "aeioubcdfghklmnprstvwz"
    return "".join(letters[int(u[(3 * k + j) % DRAWS] * 7919 * (k + j + 1)) % len(letters)] for j in range(3 + k % 4))


def junk(draws: Draws) -> list[str]:
    """File names, numbers, letters by chance; one for each row of `draws`, some of them empty or very long."""
    told = []
    for u in draws.tolist():
        if u[0] < 0.7:
            text = _pick(_FILE_NAMES, u[1]).format(int(u[2] * 99999), int(u[3] * 4000))
        elif u[0] < 0.74:
            text = ""
        else:
            words = 2 + int(u[4] * (60 if u[5] < 0.1 else 5))
            text = " ".join(_nonsense(u, k) for k in range(words))
        told.append(text)
    return told
