"""Images per second: decoding, transforms and the cache against a plain ImageFolder and DataLoader, and workers.

The images are made in a folder that is deleted afterwards. CPU seconds are those of this process and its
workers (Linux).
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import medians
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from promptvision.cli import natural, positive
from promptvision.data.decode import open_image
from promptvision.data.image_cache import build_cache
from promptvision.data.images import Images
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.transforms import test_transform, train_transform

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 32
PLAIN = "plain ImageFolder + DataLoader, centre crop"


def add_options(parser):
    parser.add_argument("--images", type=positive, default=256, help="number of JPEGs of 500x375 pixels")
    parser.add_argument("--size", type=positive, default=224, help="side of the input")
    parser.add_argument("--workers", type=natural, nargs="*", default=[], help="compare only epochs with these numbers")


def like_photo(number):
    """Return an image like a photo: smooth shapes with fine grain."""
    stream = np.random.default_rng(number)
    smooth = Image.fromarray(stream.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    pixels = np.asarray(smooth) + stream.integers(-12, 12, (375, 500, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make(root, count):
    """Write JPEGs like photos, quality 90, about 65 kB each."""
    items = []
    for number in range(count):
        path = f"class{number % 4}/{number}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        like_photo(number).save(root / path, quality=90)
        items.append((path, number % 4, f"class{number % 4}"))
    return Images(items, [], [], partial(open_image, str(root)), str(root))


def plain(root, size):
    """Return the loader that a user would write: ImageFolder, CLIP's test transform, DataLoader."""
    steps = [v2.Resize(size, InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*CLIP)]
    return DataLoader(ImageFolder(str(root), v2.Compose(steps)), batch_size=BATCH)


def ways(images, root, scratch, size):
    """Return name -> a function that goes through all images once."""
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


def with_workers(images, scratch, size, counts):
    """Return (way, workers) -> a function that goes through all images once; workers stay for the next time."""
    whole, small = build_cache(images, scratch / "whole"), build_cache(images, scratch / "small", size)
    opened = {"files": images.open, "whole": whole.open, f"shorter side {size}": small.open}
    options = {"batch_size": BATCH, "seed": 1}
    for name, open_ in opened.items():
        for count in counts:
            train = train_transform("coop", size, *CLIP)
            loader = TrainLoader(images.train, open_, train, workers=count, **options)
            walk(loader.epoch(0))  # workers start
            title = name if name == "files" else f"cache, {name}"
            yield (f"{title}, random crop", count), partial(one_epoch, loader)
    for count in counts:
        test = TestLoader(
            images.train, images.open, test_transform("coop", size, *CLIP), batch_size=BATCH, workers=count
        )
        walk(test)
        yield ("files, centre crop", count), partial(walk, test)


def one_epoch(loader):
    walk(loader.epoch(1))


def cpu_seconds():
    """Return the CPU seconds of this process and of the workers that are alive (Linux; elsewhere without workers)."""
    ticks = 0
    for worker in multiprocessing.active_children():
        stat = Path(f"/proc/{worker.pid}/stat")
        ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) if stat.exists() else 0
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def noted(work, spent):
    """Do the work and append its CPU seconds to `spent`."""
    before = cpu_seconds()
    work()
    spent.append(cpu_seconds() - before)


def timed(ways, repeats):
    """Return name -> median seconds and median CPU seconds of each way, run in turns."""
    spent = defaultdict(list)
    took = medians({name: partial(noted, work, spent[name]) for name, work in ways.items()}, repeats, "cpu")
    return {name: (took[name], statistics.median(spent[name] or [float("nan")])) for name in ways}


def crossing(images, size):
    """Return the bytes that cross from a worker for each image."""
    loader = TrainLoader(images.train, images.open, train_transform("coop", size, *CLIP), batch_size=BATCH, seed=1)
    (pixels, labels), *_ = loader.workers.batches([("1/0", range(min(BATCH, len(images.train))))])
    return pixels.nbytes // len(labels)


def rows(args):
    """Yield one row for each way, measured in turns on as many JPEGs of 500x375 pixels as `args.images` says."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "pictures")
        images = make(root, args.images)
        if args.workers:
            yield "bytes of an image that cross", "", f"{crossing(images, args.size):,}", "", ""
            found = timed(dict(with_workers(images, Path(folder), args.size, args.workers)), args.repeats)
            first = {name: took for (name, count), (took, _) in found.items() if count == args.workers[0]}
        else:
            found = timed(
                {(name, 0): work for name, work in ways(images, root, Path(folder), args.size).items()}, args.repeats
            )
            first = dict.fromkeys((name for name, _ in found), found[PLAIN, 0][0])
    for (name, count), (took, spent) in found.items():
        rate, ratio = args.images / took, first[name] / took
        yield name, str(count), f"{rate:.0f}", f"{ratio:.2f}x", f"{spent / args.images:.4f}"


COLUMNS = ("way", "workers", "images/s", "against the first", "CPU s per image")
