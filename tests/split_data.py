"""A miniature dataset in CoOp's layout, and the sentence that refuses it."""

import json

import pytest
from PIL import Image

from promptvision.data.readers import read
from promptvision.errors import InputError


def save(path, colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, format="PNG")


def refused(card, root):
    """The sentence that reading ends with."""
    with pytest.raises(InputError) as caught:
        read(card, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def paths(items):
    return [path for path, _, _ in items]


def plant(card, root, split, folder=0):
    """A miniature of a card's layout: its split file, and the images that this lists."""
    top = root / card.options["folders"][folder]
    for path in {entry[0] for part in split.values() for entry in part}:
        save(top / card.options["images"] / path)
    (top / card.options["split"]).write_text(json.dumps(split))
    return top


def small_split():
    names = ["red thing", "green_thing", "blue thing"]
    lists = {"train": [2, 0, 1, 1], "val": [0, 2], "test": [1, 0, 2]}
    return {
        part: [[f"{names[label]}/{part}_{n}.png", label, names[label]] for n, label in enumerate(labels)]
        for part, labels in lists.items()
    }
