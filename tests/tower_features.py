"""A small tower, photos, and their features through a cache."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from promptvision.backbones import ImageTower
from promptvision.data.images import Images
from promptvision.data.loader import TestLoader
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.folder import read_folder
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.data.transforms import train_transform
from promptvision.experiment.feature_cache import FeatureCache

HALVES = ((0.5,) * 3, (0.25,) * 3)
CROPPED = train_transform("coop", 8, *HALVES)
PLAIN = make_test_transform("coop", 8, *HALVES)


class Tower(ImageTower):
    """(B, 3, 8, 8) to (B, 5)."""

    feature_dim, image_size = 5, 8

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.slope = nn.Conv2d(3, 5, 3), 0.5
        self.requires_grad_(False).eval()

    def forward(self, images):
        SEEN.append(len(images))
        return nn.functional.leaky_relu(self.conv(images), self.slope).mean(dim=(2, 3))


SEEN = []


@pytest.fixture
def seen():
    """Record the number of images in each call of `Tower`."""
    SEEN.clear()
    return SEEN


def save_photos(root, count=7):
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(-25, 25, (12 + index, 14, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(root / name / f"{index}.bmp")
    return root


@pytest.fixture
def photos(tmp_path):
    """14 small images in two class folders, all of them as `test`."""
    lists = read_folder(None, str(save_photos(tmp_path / "photos")), Faults())
    items = sorted([*lists.train, *lists.val, *lists.test])
    return Images([], [], items, lists.open, lists.root)


def test_batches(photos, **changes):
    options = {"transform": PLAIN, "batch_size": 4, **changes}
    return TestLoader(photos.test, photos.open, **options)


test_batches.__test__ = False


def get(photos, folder, tower=None, precision="fp32", **changes):
    """(features, source) of all photos through a cache object of its own; a copy, as tests overwrite the file."""
    cache = FeatureCache(tower or Tower(), folder, precision)
    features, source = cache.get(test_batches(photos, **changes), photos.fingerprint(photos.test))
    return features.clone(), source


def directly(photos, tower, **changes):
    return torch.cat([tower(images) for images, _ in test_batches(photos, **changes)])
