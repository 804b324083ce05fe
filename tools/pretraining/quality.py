"""The zero-shot questions asked along a pretraining, on new images that belong to no task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from open_clip.model import CLIP
from torch import Tensor

from pretraining.towers import encode_image, encode_text
from promptvision.data.world.attributes import COLOURS, LANDS, SURFACE_WORDS, TEXTURES, VIEWS
from promptvision.data.world.caption_words import RELATIONS
from promptvision.data.world.render import render
from promptvision.data.world.scene import Scenes, Setting, sample
from promptvision.data.world.shapes import SHAPES

Question = tuple[str, Scenes, np.ndarray, str, Sequence[str]]
"""Name, scenes, labels (n,), template and class names."""
EACH = 800
"""Images of each kind."""
PHOTO, SKETCH = (1.0, *[0.0] * 6), (0.0, 1.0, *[0.0] * 5)


MIDDLE = Setting(styles=PHOTO, sizes=(0.6, 0.95), shift=0.15, turned=0.0)


def _scenes(rng: np.random.Generator, arrangement: int, setting: Setting, view: int = 0) -> Scenes:
    return sample(rng, EACH, setting, view=np.full(EACH, view), arrangement=np.full(EACH, arrangement))


def questions() -> Iterator[Question]:
    """Yield what is asked: shapes in the middle and anywhere, of two things, in sketches, and other facets."""
    rng = np.random.default_rng(99)
    photo = Setting(styles=PHOTO)
    middle, alone, two = _scenes(rng, 0, MIDDLE), _scenes(rng, 0, photo), _scenes(rng, 1, photo)
    sketches = _scenes(rng, 0, Setting(styles=SKETCH))
    yield "middle", middle, middle.shape[:, 0], "a photo of a {}.", SHAPES
    yield "alone", alone, alone.shape[:, 0], "a photo of a {}.", SHAPES
    yield "larger of two", two, two.shape[:, 0], "a photo of a large {}.", SHAPES
    yield "smaller of two", two, two.shape[:, 1], "a photo of a small {}.", SHAPES
    axis = (np.array([(1, 0), (-1, 0), (0, 1), (0, -1)]) @ (two.centre[:, 0] - two.centre[:, 1]).T).argmax(0)
    yield "relation", two, axis, "a large thing {} a small thing", [words[0] for words in RELATIONS]
    yield "sketch", sketches, sketches.shape[:, 0], "a sketch of a {}.", SHAPES
    yield "colour", alone, alone.colour[:, 0], "a photo of a {} thing.", tuple(COLOURS)
    yield "texture", alone, alone.texture[:, 0], "a photo of a {} thing.", TEXTURES
    yield "ground", alone, alone.ground, "a photo of a thing on a {} background.", tuple(COLOURS)
    surfaces = _scenes(rng, 0, photo, VIEWS.index("surface"))
    names = [words[0] for words in SURFACE_WORDS[1:]]
    yield "surface", surfaces, surfaces.pattern - 1, "a photo of a {} surface", names
    land = _scenes(rng, 0, photo, VIEWS.index("land"))
    yield "land", land, land.land, "an aerial photo of a {}", LANDS


@torch.no_grad()
def quality(model: CLIP, words: Callable[[Sequence[str]], Tensor]) -> dict[str, float]:
    """Return zero-shot accuracies in percent on new images of each kind."""
    scores = {}
    for name, scenes, labels, template, names in questions():
        features = torch.cat([encode_image(model, part) for part in render(scenes).split(200)])
        texts = encode_text(model, words([template.format(name) for name in names]))
        scores[name] = round(100 * float(((features @ texts.T).argmax(1).numpy() == labels).mean()), 1)
    return scores
