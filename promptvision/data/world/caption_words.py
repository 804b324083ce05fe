"""Frames and words of captions besides the names of attributes."""

from __future__ import annotations

ANYTHING = ("shape", "object", "thing")
SMALL, LARGE = ("small", "little", "tiny"), ("large", "big")
FRAMES = (
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "{a_style} of {a_thing}{place}.",
    "a {verdict} {style} of the {thing}{place}.",
    "{thing}{place}",
    "this is {a_thing}{place}, {style}.",
    "there is {a_thing} in the {style}{place}.",
    "{one} {thing}{place}, {style}",
    "{a_style} showing {one} {thing}{place}.",
)
PLURAL_FRAMES = (
    "{a_style} of {thing}{place}.",
    "{a_style} of {thing}{place}",
    "{thing}{place}",
    "{thing}{place}, {style}",
)
PLACES = (
    "",
    " on {a_ground} background",
    " on {ground}",
    " in front of {a_ground} wall",
    " on {a_pattern} background",
    " on {a_ground} {pattern} background",
)
VERDICTS = ("good", "nice", "cropped", "close-up", "bad", "low resolution")
ONES = ("one", "a single", "the", "my")
RELATIONS = (
    ("to the right of", "right of"),
    ("to the left of", "left of"),
    ("below", "under"),
    ("above", "over"),
)
"""Words for the place of the main thing relative to the second one, in the order of `layout.AXES`."""
BESIDE = ("{one} and {two}", "{one} next to {two}", "{one} beside {two}", "{one} with {two}")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
GROUPS = ("several", "some", "a group of", "many")
WHOLE = ("{a_colour} {style}", "{a_style} of something {colour}", "{colour}", "{a_style}, mostly {colour}")
"""Captions of the whole image: the colour is that of the ground or of the thing."""
SURFACE_FRAMES = (
    "{a_style} of {a_pattern} surface",
    "{a_pattern} texture",
    "{a_colour} {pattern} texture",
    "{a_style} of {a_colour} {pattern} surface",
    "{a_style} of something {pattern}",
    "close-up {style} of {a_pattern} wall",
)
LAND_FRAMES = (
    "an aerial {style} of {a_land}",
    "a satellite {style} of {a_land}",
    "{a_style} of {a_land} from above",
    "{a_land} seen from above",
    "{a_style} of {a_land}",
)
SIDES = (
    (" in the top left", " at the top", " in the top right"),
    (" on the left", " in the middle", " on the right"),
    (" in the bottom left", " at the bottom", " in the bottom right"),
)
"""Rows and columns of the image."""
UPSIDE_DOWN, TILTED = ", upside down", (", tilted to the left", ", tilted to the right")
NIGHT = (" at night", " in the dark")
ODDS = {"size": 0.3, "texture": 0.45, "colour": 0.55, "shape": 0.93, "style": 0.7, "place": 0.5}
"""Probability that an attribute is mentioned; a shape left out is called a thing, a style left out a photo."""
