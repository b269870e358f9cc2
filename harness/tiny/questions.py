"""The stand-in task sets of scale tiny as data: for each of the 40 keys, its classes, pictures and groups.

A stand-in asks about the generated world what its namesake asks about the real one: ImageNet's names the main thing
and its colour, CLEVR counts, DTD names textures, the shifts of ImageNet ask the same in line drawings, under bars, from
odd sides. Nothing here is a picture or a class name of the real sets.
"""

from dataclasses import dataclass, field
from typing import Any

from harness.tiny.words import (
    ANIMALS,
    COLOUR_NAMES,
    COUNTRIES,
    FOOD,
    MAIN_THINGS,
    NUMBERS,
    PLACES,
    SCENE_NAMES,
    SCENES,
    TEXTURES,
    THING_TEXTURES,
    THINGS,
    plural,
)
from harness.tiny.world import FACE, FLAG, LINES, NUMBER, SWATCH, THING, WORD

Factors = dict[str, Any]
Classes = list[tuple[str, Factors]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One classification set."""

    classes: Classes
    """Class name and the factors that make a picture be of it; a list stands for a choice by chance."""
    common: Factors
    """Factors of all pictures, before the class's own."""
    samples: int
    templates: tuple[str, ...] = ("a photo of a {c}", "a picture of a {c}", "a {c}")
    effect: str = ""
    """What happens to the finished picture; see tasks.EFFECTS."""
    odds: list[float] = field(default_factory=list)
    """Share of each class; empty: all alike."""
    groups: str = ""
    """Which metadata goes with a picture; see tasks.GROUPS."""
    side: int = 36


_ONE: Factors = {"kind": THING, "count": 1, "thing2": -1, "style": 0, "night": 0}
_PLAIN: Factors = {**_ONE, "turn": 0, "texture": 0, "place": 0, "size": [1, 1, 2]}
_BOTH = ("{c}", "a photo of {c}", "a picture of {c}")


def _things(names: tuple[str, ...] = THINGS) -> Classes:
    return [(name, {"thing": THINGS.index(name)}) for name in names]


def _coloured(names: tuple[str, ...], colours: tuple[str, ...] = COLOUR_NAMES) -> Classes:
    return [
        (f"{colour} {name}", {"thing": THINGS.index(name), "colour": COLOUR_NAMES.index(colour)})
        for name in names
        for colour in colours
    ]


def _textured(classes: Classes) -> Classes:
    return [
        (f"{TEXTURES[texture]} {name}", {**factors, "texture": texture})
        for name, factors in classes
        for texture in range(1, THING_TEXTURES)
    ]


def _in_scenes(classes: Classes) -> Classes:
    return [
        (f"{name} {SCENES[scene][0]}", {**factors, "scene": code})
        for name, factors in classes
        for code, scene in enumerate(SCENE_NAMES)
        if code
    ]


_SCENE_CLASSES: Classes = [(SCENES[name][0], {"scene": code}) for code, name in enumerate(SCENE_NAMES) if code]
_DIGITS: Classes = [(name, {"symbol": code}) for code, name in enumerate(NUMBERS)]
_MAIN = _coloured(MAIN_THINGS)
_HALF = _coloured(MAIN_THINGS[:6])
_EMPTY: Factors = {"kind": THING, "count": 0, "thing2": -1, "style": 0, "night": 0}
_SWATCH: Factors = {"kind": SWATCH, "night": 0}
_NUMBER: Factors = {"kind": NUMBER, "night": 0}
_NOT_STUDIO = list(range(1, len(SCENE_NAMES)))

QUESTIONS: dict[str, Question] = {
    "imagenet1k": Question(classes=_MAIN, common=_PLAIN, samples=960),
    "imagenetv2": Question(classes=_MAIN, common={**_ONE, "texture": 0}, samples=600),
    "imagenet_sketch": Question(classes=_MAIN, common={**_PLAIN, "style": LINES}, samples=600),
    "imagenet-a": Question(classes=_HALF, common={**_PLAIN, "size": 0, "place": [1, 2, 3, 4]}, samples=480),
    "imagenet-o": Question(classes=_HALF, common=_PLAIN, samples=480, effect="bars"),
    "imagenet-r": Question(classes=_HALF, common=_PLAIN, samples=480, effect="mosaic"),
    "objectnet": Question(classes=_HALF, common={**_PLAIN, "turn": [1, 2], "scene": _NOT_STUDIO}, samples=480),
    "vtab/caltech101": Question(classes=_things(), common=_PLAIN, samples=500),
    "vtab/cifar100": Question(classes=_coloured(THINGS[12:]), common=_PLAIN, samples=480, effect="blur"),
    "vtab/clevr_count_all": Question(
        classes=[(NUMBERS[n], {"count": n}) for n in range(2, 7)],
        common={"kind": THING, "thing2": -1, "style": 0, "night": 0, "texture": 0}, samples=400,
        templates=tuple(f"{{c}} {colour} {plural(thing)}" for thing in THINGS[:4] for colour in COLOUR_NAMES[:3]),
    ),
    "vtab/clevr_closest_object_distance": Question(
        classes=[("touching", {"gap": 0}), ("close to", {"gap": 1}), ("far apart from", {"gap": 2})],
        common={**_ONE, "thing2": list(range(len(THINGS))), "texture": 0}, samples=360,
        templates=("a red mug {c} a blue car", "a green house {c} a yellow tree", "a black cat {c} a white fish"),
    ),
    "vtab/dtd": Question(
        classes=[(name, {"texture": code}) for code, name in enumerate(TEXTURES) if code], common=_SWATCH, samples=400,
        templates=tuple(f"a {colour} {{c}} pattern" for colour in COLOUR_NAMES[:6]),
    ),
    "vtab/eurosat": Question(classes=_SCENE_CLASSES, common=_EMPTY, samples=360, templates=("an empty scene {c}",)),
    "vtab/flowers": Question(classes=_textured(_coloured(("flower",))), common=_PLAIN, samples=450),
    "vtab/kitti_closest_vehicle_distance": Question(
        classes=[("a large car", {"size": 2}), ("a car", {"size": 1}), ("a small car", {"size": 0}),
                 ("an empty scene", {"count": 0})],
        common={**_ONE, "thing": THINGS.index("car"), "scene": SCENE_NAMES.index("city"), "place": 0}, samples=360,
        odds=[0.2, 0.25, 0.4, 0.15], templates=("{c} in the city", "a photo of {c} in the city"),
    ),
    "vtab/pets": Question(classes=_coloured(ANIMALS), common=_ONE, samples=450),
    "vtab/pcam": Question(
        classes=[("wavy", {"texture": TEXTURES.index("wavy")}), ("speckled", {"texture": TEXTURES.index("speckled")})],
        common={**_SWATCH, "colour": [COLOUR_NAMES.index("pink"), COLOUR_NAMES.index("purple")]}, samples=400,
        templates=("a pink {c} pattern", "a purple {c} pattern"),
    ),
    "vtab/resisc45": Question(
        classes=[(f"{name}{' at night' if night else ''}", {**factors, "night": night})
                 for name, factors in _SCENE_CLASSES for night in (0, 1)],
        common=_EMPTY, samples=450, templates=("an empty scene {c}", "a photo of an empty scene {c}"),
    ),
    "sun397": Question(classes=_in_scenes(_things(MAIN_THINGS)), common=_PLAIN, samples=540),
    "vtab/svhn": Question(
        classes=_DIGITS, common=_NUMBER, samples=400, odds=[0.07, 0.19, 0.15, 0.12, 0.1, 0.09, 0.08, 0.08, 0.06, 0.06],
        templates=("the number {c}", "the red number {c}", "the blue number {c}", "a photo of the number {c}"),
    ),
    "cifar10": Question(classes=_things(THINGS[:10]), common=_PLAIN, samples=400, effect="blur"),
    "country211": Question(
        classes=[(name, {"symbol": code}) for code, name in enumerate(COUNTRIES)], common={"kind": FLAG, "night": 0},
        samples=400, templates=("the flag of {c}", "a photo of the flag of {c}"),
    ),
    "fgvc_aircraft": Question(classes=_textured(_things(MAIN_THINGS)), common=_ONE, samples=432),
    "food101": Question(classes=_coloured(FOOD), common=_PLAIN, samples=480),
    "gtsrb": Question(
        classes=[(f"{colour} number {name}", {**digit, "colour": COLOUR_NAMES.index(colour)})
                 for colour in ("red", "blue", "yellow") for name, digit in _DIGITS],
        common={**_NUMBER, "scene": 0}, samples=450, templates=("the {c}", "a photo of the {c}"),
    ),
    "mnist": Question(
        classes=_DIGITS, common={**_NUMBER, "scene": 0, "colour": COLOUR_NAMES.index("white")}, samples=400,
        templates=("the white number {c}", "the number {c}"), effect="black",
    ),
    "voc2007": Question(
        classes=_things(MAIN_THINGS), common={**_ONE, "thing2": list(range(12, len(THINGS)))}, samples=420,
        odds=[0.22, 0.16, 0.12, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03],
    ),
    "renderedsst2": Question(
        classes=[("bad", {"symbol": 1}), ("good", {"symbol": 0})], common={"kind": WORD, "night": 0, "scene": 0},
        samples=300, templates=("the word {c}", "the word {c} in red letters", "the word {c} in blue letters"),
    ),
    "cars": Question(classes=_textured(_coloured(("car",))), common=_ONE, samples=450),
    "stl10": Question(classes=_things(THINGS[:10]), common={**_PLAIN, "scene": 0}, samples=400, side=48),
    "wilds/iwildcam": Question(
        classes=[("an empty scene", {"count": 0}),
                 *[(f"a {name}", factors) for name, factors in _coloured(ANIMALS, ("brown", "black", "white"))]],
        common={**_ONE, "texture": 0, "night": [0, 0, 1]}, samples=480, odds=[0.36, *[0.08] * 8, 0.0],
        templates=("{c}", "a photo of {c}"), groups="iwildcam",
    ),
    "wilds/camelyon17": Question(
        classes=[("dotted", {"texture": TEXTURES.index("dotted")}), ("grid", {"texture": TEXTURES.index("grid")})],
        common={**_SWATCH, "colour": COLOUR_NAMES.index("pink")}, samples=400, templates=("a pink {c} pattern",),
        groups="camelyon17",
    ),
    "wilds/fmow": Question(
        classes=_in_scenes(_things(("house", "boat", "tree"))), common=_PLAIN, samples=540, groups="fmow"
    ),
    "fairness/dollar_street": Question(classes=_things(), common=_ONE, samples=500, groups="dollar_street"),
    "fairness/geode": Question(classes=_things(MAIN_THINGS), common=_ONE, samples=480, groups="geode"),
}  # fmt: skip
"""Every classification, WILDS and fairness set but the two of faces."""

FACE_COLOURS = COLOUR_NAMES[:7]
FACES: dict[str, list[str]] = {
    "race": list(FACE_COLOURS),
    "gender": ["with long hair", "without hair"],
    "age": ["small", "medium", "large"],
    "toxic": [
        *[f"{colour} smiling face {hair}" for colour in FACE_COLOURS for hair in ("with long hair", "without hair")],
        *THINGS[:8],
    ],
}
"""Objective of the sets of (drawn) faces to its texts: colours stand for race, hair for gender, size for age."""
FACE_TEMPLATES: dict[str, list[str]] = {
    "race": ["a {c} smiling face"],
    "gender": ["a smiling face {c}", "a yellow smiling face {c}"],
    "age": ["a {c} smiling face", "a {c} red smiling face"],
    "toxic": ["a {c}", "a photo of a {c}"],
}
FACE_SAMPLES = {"fairness/fairface": 400, "fairness/utkface": 400}
FACE_COMMON: Factors = {"kind": FACE, "night": 0}

RETRIEVAL: dict[str, tuple[int, Factors]] = {
    "retrieval/flickr_1k_test_image_text_retrieval": (250, {**_ONE, "scene": _NOT_STUDIO}),
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": (
        400,
        {"kind": THING, "count": [1, 1, 2, 3, 4], "night": [0, 0, 1]},
    ),
}
"""Key to number of pictures and their common factors."""

WINOGAVIL_KEY = "misc/winogavil"
WINOGAVIL_INSTANCES, WINOGAVIL_PICTURES = 400, 360
WINOGAVIL_CUES: Classes = [
    *[(name, {"colour": [code]}) for code, name in enumerate(COLOUR_NAMES)],
    *[(name, {"thing": [code]}) for code, name in enumerate(THINGS[:14])],
    *[(name, {"scene": [code]}) for code, name in enumerate(SCENE_NAMES) if code],
    *[(TEXTURES[code], {"texture": [code]}) for code in range(1, THING_TEXTURES)],
    *[(PLACES[code], {"place": [code]}) for code in (1, 2)],
]
"""Cue to the factors (each with the values that fit) of the pictures that it goes with."""
