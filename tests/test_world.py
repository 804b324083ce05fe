"""The miniature world: its images, captions and tasks repeat exactly and hold what they promise."""

import hashlib
import json
import subprocess
import sys
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
from promptvision.data.world.captions import captions
from promptvision.data.world.render import render
from promptvision.data.world.scene import COLOURS, PRETRAINING, STYLES, TEXTURES, held_out, sample
from promptvision.data.world.shapes import SHAPES, outline_distance, templates
from promptvision.data.world.tasks import colour_shape_pairs
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "promptvision" / "backbones" / "embedded.safetensors"
CARDS = {name: yaml.safe_load((ROOT / "datasets" / f"world_{name}.yaml").read_text()) for name in TASKS}
WORDLESS = {"counting", "location", "orientation"}
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
    scenes = sample(np.random.default_rng(3), 1, style=np.zeros(1, int), texture=np.zeros(1, int), size=np.ones(1, int))
    changes = {
        "shape": (scenes.shape + 1) % len(SHAPES),
        "texture": np.ones(1, int),
        "rotation": scenes.rotation + 90,
        "scale": scenes.scale / 2,
        "centre": scenes.centre + 0.3,
        "object_rgb": scenes.object_rgb + 0.2,
        "ground_rgb": scenes.ground_rgb - 0.2,
        "clutter": ~scenes.clutter,
        **{f"style {k}": np.full(1, k) for k in range(1, len(STYLES))},
    }
    for name, value in changes.items():
        other = replace(scenes, **{name.split()[0]: value})
        assert (render(scenes).int() - render(other).int()).abs().float().mean() > 1, name


def test_pretraining_never_shows_a_held_out_pair(rng):
    scenes = sample(rng, 20000, PRETRAINING)
    pairs = set(zip(scenes.colour.tolist(), scenes.shape.tolist(), strict=True))
    every = {(colour, shape) for colour in range(10) for shape in range(24)}
    held = {pair for pair in every if held_out(*np.array(pair))}
    assert pairs == every - held and len(held) == len(every) / 5
    assert (scenes.colour != scenes.background).all()


def test_captions_mention_every_attribute_and_never_a_wrong_one(rng):
    scenes = sample(rng, 3000, PRETRAINING)
    texts = captions(rng, scenes)
    assert len(set(texts)) > 2000
    truth = {
        "shape": SHAPES,
        "colour": HUES,
        "texture": TEXTURES,
        "background": HUES,
        "style": STYLES,
        "size": ("small", "large"),
    }
    for attribute, names in truth.items():
        own = [names[k] for k in getattr(scenes, attribute)]
        share = np.mean(
            [word in text.replace(",", "").replace(".", "").split() for word, text in zip(own, texts, strict=True)]
        )
        assert share > 0.15, (attribute, share)
    for i, text in enumerate(texts):
        words = set(text.replace(",", " ").replace(".", " ").split())
        assert words & set(SHAPES) <= {SHAPES[scenes.shape[i]]}
        assert words & set(HUES) <= {HUES[scenes.colour[i]], HUES[scenes.background[i]]}
        assert words & set(TEXTURES) <= {TEXTURES[scenes.texture[i]]}


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
    colours, shapes = np.array(colour_shape_pairs()).T
    assert held_out(colours, shapes).tolist() == [False] * 24 + [True] * 24
    base, new = np.split(np.array([name.split()[1] for name in TASKS["colour_shapes"].classes]), 2)
    assert not set(base) & set(new)
    assert len(set(TASKS["colour_shapes"].classes)) == 48


def test_location_and_counting_show_what_they_say(tasks):
    located = tasks["location"]
    mean = {label: np.zeros((32, 32)) for _, label, _ in located.test}
    for item in located.test:
        image = array(located, item)
        mean[item[1]] += np.abs(image - np.median(image, (0, 1))).sum(2)
    for label, weight in mean.items():
        row, column = divmod(int((weight - np.median(weight)).argmax()), 32)
        assert (row // 8, column // 8) == divmod(label, 4)
    ink = [
        np.mean(
            [
                np.abs(array(tasks["counting"], i) - np.median(array(tasks["counting"], i), (0, 1))).mean()
                for i in tasks["counting"].test
                if i[1] == k
            ]
        )
        for k in range(5)
    ]
    assert ink == sorted(ink)


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
    assert recipe["zero_shot"]["shape"] > 60 and recipe["heads"] and recipe["steps"] > 0


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


def test_pretraining_writes_a_file_that_open_clip_reads(tmp_path):
    command = [sys.executable, ROOT / "tools" / "pretrain.py", "--steps", "3", "--out", tmp_path / "tiny.safetensors"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    model, ids, recipe = checked_model(tmp_path / "tiny.safetensors")
    shipped, _ = load_shipped(EMBEDDED)
    assert recipe["steps"] == 3 and torch.equal(ids, shipped["token_embedding.ids"])
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert "shape" in done.stdout
