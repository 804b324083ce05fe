"""Captions of varied wording that mention each attribute of a scene at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from promptvision.data.world import caption_words as words
from promptvision.data.world.attributes import (
    ARRANGEMENTS,
    COLOURS,
    FAMILIES,
    LANDS,
    STYLE_WORDS,
    STYLES,
    SURFACE_WORDS,
    SYNONYMS,
    TEXTURE_WORDS,
    VIEWS,
)
from promptvision.data.world.layout import AXES
from promptvision.data.world.scene import Scenes
from promptvision.data.world.shapes import SHAPES

HUES = tuple(COLOURS)


def article(phrase: str) -> str:
    """Return the words after "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


class Writer:
    """Captions of the scenes of a batch; each choice draws one number in [0, 1)."""

    def __init__(self, rng: np.random.Generator, scenes: Scenes) -> None:
        self.scenes = scenes
        self._draws = iter(rng.random(40 * len(scenes)).tolist())

    def chance(self, odds: float) -> bool:
        """Return True with this probability."""
        return next(self._draws) < odds

    def pick(self, choices: Sequence[str]) -> str:
        """Return one of the choices."""
        return choices[int(next(self._draws) * len(choices))]

    def caption(self, i: int) -> str:
        """Return a caption of scene i."""
        view = VIEWS[self.scenes.view[i]]
        if view == "things":
            return self._of_things(i)
        name = LANDS[self.scenes.land[i]]
        pattern, colour = self.pick(SURFACE_WORDS[self.scenes.pattern[i]]), HUES[self.scenes.ground[i]]
        frames = words.LAND_FRAMES if view == "land" else words.SURFACE_FRAMES
        return self.pick(frames).format(
            a_land=article(name), pattern=pattern, a_pattern=article(pattern), a_colour=article(colour), **self.style(i)
        )

    def style(self, i: int) -> dict[str, str]:
        """Return the words for the style of scene i, without and with an article."""
        number = self.scenes.style[i] if self.chance(words.ODDS["style"]) else STYLES.index("photo")
        style = self.pick(STYLE_WORDS[number])
        return {"style": style, "a_style": article(style)}

    def thing(self, i: int, slot: int, size: float = words.ODDS["size"]) -> str:
        """Name a thing of scene i by its shape, and at random by size, texture and colour."""
        scenes = self.scenes
        small, large = scenes.scale[i, slot] < 0.42, scenes.scale[i, slot] > 0.72
        said = []
        if (small or large) and self.chance(size):
            said.append(self.pick(words.SMALL if small else words.LARGE))
        if self.chance(words.ODDS["texture"]):
            said.append(self.pick(TEXTURE_WORDS[scenes.texture[i, slot]]))
        if self.chance(words.ODDS["colour"]):
            said.append(HUES[scenes.colour[i, slot]])
        return " ".join([*said, self.name(SHAPES[scenes.shape[i, slot]])])

    def name(self, shape: str) -> str:
        """Return a shape's name, at times its family's, another word for it, or one that fits anything."""
        if not self.chance(words.ODDS["shape"]):
            return self.pick(words.ANYTHING)
        if self.chance(0.12):
            return FAMILIES.get(shape) or SYNONYMS.get(shape) or shape
        return shape

    def _of_things(self, i: int) -> str:
        arrangement = ARRANGEMENTS[self.scenes.arrangement[i]]
        if self.chance(0.10):
            colour = HUES[self.scenes.ground[i] if self.chance(0.5) else self.scenes.colour[i, 0]]
            return self.pick(words.WHOLE).format(colour=colour, a_colour=article(colour), **self.style(i))
        if arrangement == "several":
            return self._framed(i, self._group(i), "")
        if arrangement == "two":
            return self._of_two(i)
        return self._framed(i, self.thing(i, 0), self._where(i))

    def _of_two(self, i: int) -> str:
        """Name both things and at times how they lie, or one of them alone."""
        if not self.chance(0.5):
            first = self.chance(0.68)
            return self._framed(i, self.thing(i, 0 if first else 1, 0.3 if first else 0.5), "")
        things = [self.thing(i, slot, 0.4) for slot in (0, 1)]
        if self.chance(0.45):
            return self._framed(i, self._related(i, things), "")
        order = (0, 1) if self.chance(0.6) else (1, 0)
        frame = self.pick(words.BESIDE)
        return self._framed(i, frame.format(one=things[order[0]], two=article(things[order[1]])), "")

    def _related(self, i: int, things: list[str]) -> str:
        apart = self.scenes.centre[i, 0] - self.scenes.centre[i, 1]
        axis = int((AXES @ apart).argmax())
        if self.chance(0.6):
            return f"{things[0]} {self.pick(words.RELATIONS[axis])} {article(things[1])}"
        return f"{things[1]} {self.pick(words.RELATIONS[axis ^ 1])} {article(things[0])}"

    def _group(self, i: int) -> str:
        count = int(self.scenes.present[i].sum())
        number = words.NUMBERS[count] if self.chance(0.75) else self.pick(words.GROUPS)
        name = plural(self.thing(i, 0, 0.0))
        return f"{number} {name}"

    def _where(self, i: int) -> str:
        """Say at times where the only thing is or how it is turned."""
        if self.chance(0.22):
            column, row = np.clip(np.round(self.scenes.centre[i, 0] / 0.36), -1, 1).astype(int) + 1
            return words.SIDES[row][column]
        turn = self.scenes.rotation[i, 0]
        if abs(turn) > 20 and self.chance(0.5):
            return words.UPSIDE_DOWN if abs(turn) > 155 else words.TILTED[int(turn > 0)]
        return ""

    def _framed(self, i: int, thing: str, where: str) -> str:
        """Put what is named into a frame with style and ground."""
        ground, pattern = HUES[self.scenes.ground[i]], self.pick(SURFACE_WORDS[self.scenes.pattern[i]])
        place = where
        if self.chance(words.ODDS["place"] * (0.4 if where else 1.0)):
            place += self.pick(words.PLACES).format(
                ground=ground, a_ground=article(ground), pattern=pattern, a_pattern=article(pattern)
            )
        if self.scenes.night[i] and self.chance(0.3):
            place += self.pick(words.NIGHT)
        plural_thing = thing.split(" ")[0] in (*words.NUMBERS, *words.GROUPS, "a")
        return self.pick(words.PLURAL_FRAMES if plural_thing else words.FRAMES).format(
            thing=thing,
            a_thing=thing if plural_thing else article(thing),
            place=place,
            verdict=self.pick(words.VERDICTS),
            one=self.pick(words.ONES),
            **self.style(i),
        )


def plural(thing: str) -> str:
    """Return the plural of a thing's name."""
    return (
        thing + ("es" if thing.endswith(("s", "sh", "ch", "x")) else "s")
        if not thing.endswith("leaf")
        else (thing[:-1] + "ves")
    )


def captions(rng: np.random.Generator, scenes: Scenes) -> list[str]:
    """Return one random caption for each scene."""
    writer = Writer(rng, scenes)
    return [writer.caption(i) for i in range(len(scenes))]


def vocabulary() -> list[str]:
    """Return texts that together hold every word and punctuation mark of captions."""
    names = [*SHAPES, *FAMILIES.values(), *SYNONYMS.values(), *words.ANYTHING]
    several = [plural(name) for name in names]
    frames = (words.FRAMES, words.PLACES, words.BESIDE, words.WHOLE, words.SURFACE_FRAMES, words.LAND_FRAMES)
    lists: Iterable[Sequence[str]] = (
        *frames, *TEXTURE_WORDS, *SURFACE_WORDS, *STYLE_WORDS, *words.RELATIONS, *words.SIDES, words.SMALL, words.LARGE,
        words.VERDICTS, words.ONES, words.NUMBERS, words.GROUPS, words.NIGHT, words.TILTED, (words.UPSIDE_DOWN,),
        LANDS, HUES, names, several,
    )  # fmt: skip
    texts = [text.replace("{", " ").replace("}", " ").replace("a_", "") for choices in lists for text in choices]
    return ["a an", *texts]
