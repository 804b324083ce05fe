"""Captions of varied wording that mention each attribute of a scene at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptvision.data.world.scene import COLOURS, Scenes
from promptvision.data.world.shapes import SHAPES

TEXTURE_WORDS = (
    ("plain", "solid"),
    ("striped",),
    ("dotted", "spotted"),
    ("checkered",),
    ("spiral", "swirled"),
    ("hollow", "outlined"),
)
SIZE_WORDS = (("small", "little"), ("large", "big"))
STYLE_WORDS = (
    ("photo", "picture", "image", "snapshot"),
    ("sketch", "drawing", "line drawing"),
    ("painting", "artwork"),
    ("negative", "inverted photo"),
    ("blurry photo", "blurry picture"),
    ("grainy photo", "noisy photo"),
    ("dark photo", "dim photo"),
)
ANYTHING = ("shape", "object", "thing")
FRAMES = (
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "a {verdict} {style} of the {thing}{place}.",
    "{thing}{place}",
    "this is {a_thing}{place}, {style}.",
    "there is {a_thing} in the {style}{place}.",
    "one {thing}, {background} background, {style}",
    "{a_style} showing {one} {thing}{place}.",
)
PLACES = ("", " on {a_background} background", " on {background}", " in front of {a_background} wall")
VERDICTS = ("good", "nice", "cropped", "close-up", "bad", "low resolution")
ONES = ("one", "a single", "the", "my")
ODDS = {"size": 0.3, "texture": 0.5, "colour": 0.65, "shape": 0.95, "style": 0.8, "place": 0.6}
"""Probability that an attribute is mentioned; a shape left out is called a thing, a style left out a photo."""


def article(words: str) -> str:
    """Return the words after "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _thing(rng: np.random.Generator, scenes: Scenes, i: int) -> str:
    """Name the object of scene i by its shape, and at random by size, texture and colour."""
    words = {
        "size": _pick(rng, SIZE_WORDS[scenes.size[i]]),
        "texture": _pick(rng, TEXTURE_WORDS[scenes.texture[i]]),
        "colour": tuple(COLOURS)[scenes.colour[i]],
        "shape": SHAPES[scenes.shape[i]],
    }
    said = [word for attribute, word in words.items() if rng.random() < ODDS[attribute]]
    return " ".join(said if words["shape"] in said else [*said, _pick(rng, ANYTHING)])


def caption(rng: np.random.Generator, scenes: Scenes, i: int) -> str:
    """Return one random caption of scene i."""
    thing = _thing(rng, scenes, i)
    style = _pick(rng, STYLE_WORDS[scenes.style[i] if rng.random() < ODDS["style"] else 0])
    background = tuple(COLOURS)[scenes.background[i]]
    words = {
        "thing": thing,
        "a_thing": article(thing),
        "style": style,
        "a_style": article(style),
        "background": background,
        "a_background": article(background),
        "verdict": _pick(rng, VERDICTS),
        "one": _pick(rng, ONES),
    }
    place = _pick(rng, PLACES) if rng.random() < ODDS["place"] else ""
    return _pick(rng, FRAMES).format(**words, place=place.format(**words))


def captions(rng: np.random.Generator, scenes: Scenes) -> list[str]:
    """Return one random caption for each scene."""
    return [caption(rng, scenes, i) for i in range(len(scenes))]


def vocabulary() -> list[str]:
    """Return texts that together hold every word and punctuation mark of captions."""
    words = [word for choices in (*TEXTURE_WORDS, *SIZE_WORDS, *STYLE_WORDS) for word in choices]
    frames = [text.replace("{", " ").replace("}", " ").replace("a_", "") for text in (*FRAMES, *PLACES)]
    return ["a an", *words, *ANYTHING, *frames, *VERDICTS, *ONES, *SHAPES, *COLOURS]
