"""Images, and folders and lists of them, for tests of a user's own images."""

import numpy as np
import pytest
from PIL import Image

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.errors import InputError

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def image(path, colour=(1, 2, 3), kind="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, kind, **options)


def classes(root, each=4, names=COLOURS):
    """A folder for each colour with `each` images."""
    for name in names:
        for n in range(each):
            image(root / name / f"{n}.png", COLOURS.get(name, (9, 9, 9)))


def noise_folders(root):
    """105 images of noise in the folders `a` and `b`."""
    for number in range(105):
        folder = root / ("a" if number < 60 else "b")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


def everything(images):
    return [path for own in (images.train, images.val, images.test) for path, _, _ in own]


def folder(root):
    return read(load_card("folder"), root)


def listed(file, text):
    file.write_text(text)
    return read(load_card("list"), file)


def refused(card, root):
    with pytest.raises(InputError) as caught:
        read(load_card(card), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)
