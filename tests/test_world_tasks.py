"""Tasks of the miniature world draw what their labels say, and the shipped checkpoint knows them."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from promptvision.data.world import TASKS, read_task
from promptvision.data.world.scene import held_out
from promptvision.data.world.shapes import SHAPES
from promptvision.data.world.tasks import PAIRS
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "promptvision" / "backbones" / "embedded.safetensors"
CARDS = {name: yaml.safe_load((ROOT / "datasets" / f"world_{name}.yaml").read_text()) for name in TASKS}
WORDLESS = {"location", "orientation", "distance"}


@pytest.fixture(scope="module")
def tasks():
    return {name: read_task(name) for name in TASKS}


def array(images, item):
    return np.asarray(images.open(item[0]), dtype=int)


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
