"""Images per second: decoding, transforms and the cache against a plain ImageFolder and DataLoader.

The images are made in a folder that is deleted afterwards.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import medians
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from promptvision.data.decode import open_image
from promptvision.data.image_cache import build_cache
from promptvision.data.images import Images
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.transforms import test_transform, train_transform

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 32
PLAIN = "plain ImageFolder + DataLoader, centre crop"


def add_options(parser):
    parser.add_argument("--images", type=int, default=256, help="number of JPEGs of 500x375 pixels")
    parser.add_argument("--size", type=int, default=224, help="side of the input")


def make(root, count):
    """JPEGs like photos: smooth shapes with fine grain, quality 90, about 65 kB each."""
    items = []
    for number in range(count):
        stream = np.random.default_rng(number)
        smooth = Image.fromarray(stream.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        pixels = np.asarray(smooth) + stream.integers(-12, 12, (375, 500, 3))
        path = f"class{number % 4}/{number}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / path, quality=90)
        items.append((path, number % 4, f"class{number % 4}"))
    return Images(items, [], [], partial(open_image, str(root)), str(root))


def plain(root, size):
    """Return the loader that a user would write: ImageFolder, CLIP's test transform, DataLoader."""
    steps = [v2.Resize(size, InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*CLIP)]
    return DataLoader(ImageFolder(str(root), v2.Compose(steps)), batch_size=BATCH)


def ways(images, root, scratch, size):
    """Name -> a function that goes through all images once."""
    test, train = test_transform("coop", size, *CLIP), train_transform("coop", size, *CLIP)
    squashed = train_transform("vtab", size, *CLIP)
    whole, small = build_cache(images, scratch / "whole"), build_cache(images, scratch / "small", size)
    items, paths = images.train, [path for path, _, _ in images.train]
    decoded = [images.open(path) for path in paths[:BATCH]]
    random = {"batch_size": BATCH, "seed": 1}

    def epoch(transform, opened):
        return lambda: walk(TrainLoader(items, opened, transform, **random).epoch(0))

    def test_epoch(opened):
        return lambda: walk(TestLoader(items, opened, test, batch_size=BATCH))

    return {
        PLAIN: lambda: walk(plain(root, size)),
        "decode alone": lambda: walk(map(images.open, paths)),
        "transform alone, centre crop": lambda: walk(test(decoded[n % BATCH]) for n in range(len(paths))),
        "transform alone, random crop": lambda: walk(train(decoded[n % BATCH]) for n in range(len(paths))),
        "files, centre crop": test_epoch(images.open),
        f"cache of shorter side {size}, centre crop": test_epoch(small.open),
        "files, random crop": epoch(train, images.open),
        "cache of whole images, random crop": epoch(train, whole.open),
        f"cache of shorter side {size}, random crop": epoch(train, small.open),
        "files, vtab": epoch(squashed, images.open),
        "cache of whole images, vtab": epoch(squashed, whole.open),
    }


def walk(batches):
    """Go through all of them, keeping none, as training does."""
    for _ in batches:
        pass


def rows(args):
    """One row for each way, measured in turns on as many JPEGs of 500x375 pixels as `args.images` says."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "pictures")
        measured = ways(make(root, args.images), root, Path(folder), args.size)
        rates = {name: args.images / took for name, took in medians(measured, args.repeats, "cpu").items()}
    for name, rate in rates.items():
        yield name, f"{rate:.0f}", f"{rate / rates[PLAIN]:.1f}x"


COLUMNS = ("way, without workers", "images/s", "against plain")
