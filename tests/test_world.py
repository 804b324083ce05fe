"""The miniature world: its images, captions and tasks repeat exactly and hold what they promise."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from promptvision.data.world import TASKS, read_task
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
from promptvision.data.world.tasks import PAIRS
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "promptvision" / "backbones" / "embedded.safetensors"
CARDS = {name: yaml.safe_load((ROOT / "datasets" / f"world_{name}.yaml").read_text()) for name in TASKS}
WORDLESS = {"location", "orientation", "distance"}
HUES = list(COLOURS)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def tasks():
    return {name: read_task(name) for name in TASKS}


def array(images, item):
    return np.asarray(images.open(item[0]), dtype=int)


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


@pytest.mark.parametrize("name", TASKS)
def test_task_has_the_counts_of_its_card_and_balanced_classes(name, tasks):
    card, images = CARDS[name], tasks[name]
    splits = {"train": images.train, "val": images.val, "test": images.test}
    assert card["reader"] == "world" and card["task"] == name and card["licence"] == "MIT"
    assert card["counts"] == {split: len(items) for split, items in splits.items()}
    assert len(images.classes) == card["classes"] == len(set(images.classes))
    for items in splits.values():
        assert len(set(Counter(label for _, label, _ in items).values())) <= 1
        assert all(images.classes[label] == text for _, label, text in items)
    opened = images.open(images.test[0][0])
    assert opened.size == (32, 32) and opened.mode == "RGB"


def test_no_image_occurs_twice(tasks):
    seen = Counter()
    for images in tasks.values():
        for path, _, _ in [*images.train, *images.val, *images.test]:
            seen[hashlib.sha256(images.open(path).tobytes()).digest()] += 1
    assert max(seen.values()) == 1


def test_tasks_repeat(tasks):
    again = read_task.__wrapped__("backgrounds")
    assert again.train == tasks["backgrounds"].train
    for item in again.test[::100]:
        assert np.array_equal(array(again, item), array(tasks["backgrounds"], item))


def test_base_and_new_pairs_share_no_shape_and_only_new_ones_are_held_out():
    colours, shapes = np.array(PAIRS).T
    assert held_out(colours, shapes).tolist() == [False] * 12 + [True] * 12
    base, new = np.split(np.array([name.split()[1] for name in TASKS["colour_shapes"].classes]), 2)
    assert not set(base) & set(new)
    assert len(set(TASKS["colour_shapes"].classes)) == 24


def drawn(name):
    labels = np.repeat(np.arange(len(TASKS[name].classes)), 20)
    return TASKS[name].scenes(np.random.default_rng(1), labels), labels


def test_structured_tasks_draw_what_their_labels_say():
    scenes, labels = drawn("location")
    column, row = np.floor((scenes.centre[:, 0] + 0.92) / 0.46).astype(int).T
    assert (4 * row + column == labels).all()
    scenes, labels = drawn("counting")
    assert (scenes.present.sum(1) == labels + 2).all()
    scenes, labels = drawn("orientation")
    assert (np.round(scenes.rotation[:, 0] / 45).astype(int) == labels).all()
    scenes, labels = drawn("distance")
    assert (np.diff([scenes.scale[labels == k, 0].mean() for k in range(6)]) < 0).all()
    scenes, labels = drawn("relations")
    apart = (scenes.centre[:, 0] - scenes.centre[:, 1]) * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])[labels]
    assert (apart.sum(1) > 0.5).all()


def test_tasks_of_words_draw_what_their_labels_say():
    for name, field in (("small_shapes", 1), ("shapes", 0), ("kinds", 0)):
        scenes, labels = drawn(name)
        assert [SHAPES[k] for k in scenes.shape[:, field]] == [TASKS[name].classes[k] for k in labels]
    for name, field in (("backgrounds", "ground"), ("land", "land"), ("styles", "style")):
        scenes, labels = drawn(name)
        assert (getattr(scenes, field) == labels).all()
    scenes, labels = drawn("surfaces")
    assert (scenes.pattern == labels + 1).all()


def test_typos_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'backgrounds'"):
        read_task("background")
    with pytest.raises(InputError, match="did you mean .backgrounds/test/0"):
        read_task("backgrounds").open("backgrounds/test/0001")


def load_shipped(path):
    with safe_open(path, "pt") as file:
        facts = {key: json.loads(value) for key, value in file.metadata().items()}
    return load_file(path), facts


def checked_model(path):
    """The file as open_clip's own CLIP, every tensor in its place."""
    tensors, facts = load_shipped(path)
    config = facts["open_clip_config"]
    model = open_clip.model.CLIP(**config)
    table = model.state_dict()["token_embedding.weight"].clone()
    ids = tensors.pop("token_embedding.ids")
    table[ids] = tensors.pop("token_embedding.rows").float()
    model.load_state_dict({**tensors, "token_embedding.weight": table})
    return model.eval(), ids, facts["recipe"]


def test_shipped_checkpoint_is_small_and_tells_its_recipe():
    assert EMBEDDED.stat().st_size <= 4e6
    _, ids, recipe = checked_model(EMBEDDED)
    assert ids.tolist() == sorted(ids.tolist()) and {49406, 49407} <= set(ids.tolist())
    assert recipe["pairs"] > 1e6


@pytest.mark.parametrize("name", sorted(set(TASKS) - WORDLESS))
def test_shipped_checkpoint_knows_every_word_of_the_task(name):
    tokens = open_clip.get_tokenizer("ViT-B-32")([CARDS[name]["template"].format(text) for text in TASKS[name].classes])
    assert set(tokens.flatten().tolist()) - {0} <= set(load_shipped(EMBEDDED)[0]["token_embedding.ids"].tolist())


def test_shipped_checkpoint_reads_images(tasks):
    model, _, _ = checked_model(EMBEDDED)
    items = tasks["shapes"].test[::8]
    images = torch.stack([torch.tensor(array(tasks["shapes"], item)).permute(2, 0, 1) / 255 for item in items])
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    tokens = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {name}." for name in SHAPES])
    with torch.no_grad():
        chosen = model.get_logits((images - mean) / std, tokens)[0].argmax(1)
    assert (chosen == torch.tensor([label for _, label, _ in items])).float().mean() > 0.55
