"""Images, and folders and lists of them, for tests of a user's own images."""

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
