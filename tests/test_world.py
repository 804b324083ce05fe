"""The miniature world: its images and captions repeat exactly and hold what they promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from promptvision.data.world.attributes import (
    ARRANGEMENTS,
    COLOURS,
    FAMILIES,
    LANDS,
    STYLES,
    SURFACE_WORDS,
    SURFACES,
    TEXTURES,
    VIEWS,
)
from promptvision.data.world.caption_words import NUMBERS
from promptvision.data.world.captions import captions, vocabulary
from promptvision.data.world.layout import THINGS
from promptvision.data.world.render import render
from promptvision.data.world.scene import USUAL, Setting, held_out, pretraining, sample
from promptvision.data.world.shapes import SHAPES, outline_distance, templates

HUES = list(COLOURS)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(5)


def test_distance_is_signed_and_exact():
    points = np.array([[0, 0], [0.7, 0], [1, 0], [1, 1.1], [0, -0.2]])
    square = (("add", "polygon", (-0.7, -0.7, 0.7, -0.7, 0.7, 0.7, -0.7, 0.7)),)
    assert np.allclose(outline_distance(square, points), [-0.7, 0, 0.3, 0.5, -0.5])
    ring = (("add", "ellipse", (0, 0, 0.8, 0.8)), ("cut", "ellipse", (0, 0, 0.4, 0.4)))
    assert np.allclose(outline_distance(ring, np.array([[0, 0], [0.6, 0], [1, 0]])), [0.4, -0.2, 0.2], atol=2e-3)


def test_every_shape_is_whole_and_unlike_the_others():
    masks = (templates()[:, 0] < 0).flatten(1)
    assert masks.float().mean(1).min() > 0.05 and not masks.view(-1, 64, 64)[:, [0, -1]].any()
    overlap = (masks[:, None] & masks).sum(2) / (masks[:, None] | masks).sum(2)
    assert (overlap - torch.eye(len(SHAPES))).max() < 0.95


def test_same_seed_same_pixels():
    first, second = (render(sample(np.random.default_rng(3), 40)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (40, 3, 32, 32) and first.dtype == torch.uint8
    assert not torch.equal(first, render(sample(np.random.default_rng(4), 40)))


def test_images_do_not_depend_on_their_batch_or_on_threads():
    scenes = sample(np.random.default_rng(3), 60)
    whole, alone = render(scenes), torch.cat([render(scenes[i : i + 1]) for i in range(60)])
    torch.set_num_threads(2)
    threaded = render(scenes)
    torch.set_num_threads(1)
    for other in (alone, threaded):
        gap = (whole.int() - other.int()).abs()
        assert gap.max() <= 1 and (gap > 0).float().mean() < 1e-3


def test_every_attribute_changes_the_image():
    kinds = {"view": 0, "arrangement": 1, "style": 0, "texture": 0, "pattern": 0}
    scenes = sample(np.random.default_rng(3), 1, **{name: np.full(1, value) for name, value in kinds.items()})
    changes = {
        "shape": (scenes.shape + 1) % len(SHAPES),
        "texture": np.full((1, THINGS), TEXTURES.index("striped")),
        "rotation": scenes.rotation + 90,
        "scale": scenes.scale / 2,
        "centre": scenes.centre + 0.3,
        "rgb": scenes.rgb + 0.2,
        "present": ~scenes.present,
        "ground_rgb": scenes.ground_rgb - 0.2,
        **{f"pattern {k}": np.full(1, k) for k in range(1, len(SURFACES))},
        **{f"style {k}": np.full(1, k) for k in range(1, len(STYLES))},
        **{f"view {k}": np.full(1, k) for k in range(1, len(VIEWS))},
    }
    for name, value in changes.items():
        other = replace(scenes, **{name.split()[0]: value})
        assert (render(scenes).int() - render(other).int()).abs().float().mean() > 1, name


@pytest.mark.parametrize("view", ["surface", "land"])
def test_patterns_and_lands_differ_from_each_other(view):
    names = SURFACES[1:] if view == "surface" else LANDS
    kinds = {"view": np.full(1, VIEWS.index(view)), "style": np.zeros(1, int)}
    scenes = sample(np.random.default_rng(3), 1, Setting(noise=0), **kinds)
    field = "pattern" if view == "surface" else "land"
    numbers = range(len(SURFACES) - len(names) if view == "surface" else 0, len(names) + (view == "surface"))
    images = torch.cat([render(replace(scenes, **{field: np.full(1, k)})) for k in numbers]).float().flatten(1)
    assert torch.pdist(images).min() / images.shape[1] ** 0.5 > 8


def test_things_stay_apart_and_in_the_image(rng):
    scenes = sample(rng, 3000, view=np.zeros(3000, int), arrangement=np.full(3000, ARRANGEMENTS.index("two")))
    apart = np.linalg.norm(scenes.centre[:, 0] - scenes.centre[:, 1], axis=1)
    assert (apart > 0.9 * (scenes.scale[:, 0] + scenes.scale[:, 1])).all()
    assert (scenes.scale[:, 0] > 1.2 * scenes.scale[:, 1]).all()
    assert (np.abs(scenes.centre[:, :2]) < 1).all() and (scenes.shape[:, 0] != scenes.shape[:, 1]).all()


def test_several_things_are_alike_and_as_many_as_asked(rng):
    count = np.tile(np.arange(2, 7), 50)
    scenes = sample(rng, 250, arrangement=np.full(250, ARRANGEMENTS.index("several")), count=count)
    assert (scenes.present.sum(1) == count).all()
    for name in ("shape", "colour", "texture"):
        assert (getattr(scenes, name) == getattr(scenes, name)[:, :1]).all(), name


def test_pretraining_never_shows_a_held_out_pair(rng):
    scenes = sample(rng, 20000, pretraining(1.0))
    pairs = set(zip(scenes.colour.ravel().tolist(), scenes.shape.ravel().tolist(), strict=True))
    every = {(colour, shape) for colour in range(len(HUES)) for shape in range(len(SHAPES))}
    held = {pair for pair in every if held_out(*np.array(pair))}
    assert pairs == every - held and len(held) == len(every) / 5
    assert (scenes.colour[:, 0] != scenes.ground).mean() > 0.97


def test_pretraining_widens_geometry():
    first, middle, last = (pretraining(share) for share in (0.0, 0.3, 1.0))
    assert first.sizes[0] > middle.sizes[0] > last.sizes[0] == pytest.approx(USUAL.sizes[0])
    assert first.shift < middle.shift < last.shift == pytest.approx(USUAL.shift)
    assert pretraining(0.5) == last and last.arrangements == pytest.approx(USUAL.arrangements)


def words_of(text):
    return text.replace(",", " ").replace(".", " ").split()


def test_captions_of_one_thing_mention_every_attribute_and_never_a_wrong_one(rng):
    kinds = {"view": np.zeros(3000, int), "arrangement": np.zeros(3000, int)}
    scenes = sample(rng, 3000, pretraining(1.0), **kinds)
    texts = captions(rng, scenes)
    assert len(set(texts)) > 2000
    truth = {"shape": SHAPES, "colour": HUES, "texture": TEXTURES}
    known = {name: [names[k] for k in getattr(scenes, name)[:, 0]] for name, names in truth.items()}
    known["ground"] = [HUES[k] for k in scenes.ground]
    known["style"] = [STYLES[k] for k in scenes.style]
    for attribute, own in known.items():
        share = np.mean([word in words_of(text) for word, text in zip(own, texts, strict=True)])
        assert share > 0.15, (attribute, share)
    for i, text in enumerate(texts):
        words, shape = set(words_of(text)), known["shape"][i]
        assert words & set(SHAPES) <= {shape, FAMILIES.get(shape)}
        assert words & set(HUES) <= {known["colour"][i], known["ground"][i]}
        patterns = set(SURFACE_WORDS[scenes.pattern[i]])
        assert words & set(TEXTURES) <= {known["texture"][i]} | patterns


def test_captions_of_two_things_name_either_and_how_they_lie(rng):
    kinds = {"view": np.zeros(3000, int), "arrangement": np.ones(3000, int)}
    scenes = sample(rng, 3000, pretraining(1.0), **kinds)
    texts = captions(rng, scenes)
    named = [[SHAPES[k] in words_of(text) for k in scenes.shape[i, :2]] for i, text in enumerate(texts)]
    first, second = np.mean(named, 0)
    assert first > second > 0.4 and 0.2 < np.mean(np.all(named, 1)) < 0.6
    for i, text in enumerate(texts):
        names = [SHAPES[k] for k in scenes.shape[i, :2]]
        if not set(names) & set(FAMILIES):  # a tower may be called a house
            (low, low_over), (high, over) = (text.partition(word)[::2] for word in (" below ", " above "))
            heights = dict(zip(names, scenes.centre[i, :2, 1], strict=True))
            pairs = ((low_over, low) if low_over else ("", "")), ((high, over) if over else ("", ""))
            for upper, lower in pairs:
                first, second = (set(words_of(part)) & set(heights) for part in (upper, lower))
                assert all(heights[a] < heights[b] for a in first for b in second), text


def test_captions_of_several_things_count_them(rng):
    kinds = {"view": np.zeros(500, int), "arrangement": np.full(500, 2)}
    scenes = sample(rng, 500, pretraining(1.0), **kinds)
    said = 0
    for i, text in enumerate(captions(rng, scenes)):
        numbers = set(words_of(text)) & set(NUMBERS)
        assert numbers <= {NUMBERS[scenes.present[i].sum()]}, text
        said += len(numbers)
    assert said > 250


def test_captions_of_surfaces_and_land_name_them(rng):
    for view, names, field in (("surface", SURFACE_WORDS, "pattern"), ("land", [(name,) for name in LANDS], "land")):
        scenes = sample(rng, 300, view=np.full(300, VIEWS.index(view)))
        for i, text in enumerate(captions(rng, scenes)):
            assert set(words_of(text)) & set(names[getattr(scenes, field)[i]]), text


def test_vocabulary_holds_every_word_of_captions(rng):
    known = {word for text in vocabulary() for word in words_of(text)}
    for text in captions(rng, sample(rng, 4000)):
        assert set(words_of(text)) <= known, text
