"""INPUT.RESIZE tensor against pillow, on images like photos: time of the resize and of whole recipes, and differences.

Time is the CPU time of this process. A difference is one of a uint8 value, in grey levels.
"""

import time
from functools import partial

import torch
from bench_data import like_photo
from torchvision.transforms import InterpolationMode, v2

from promptvision.cli import positive
from promptvision.data.transforms import RESIZES, test_transform, train_transform

PLAIN = (0.0,) * 3, (1.0,) * 3
RECIPES = ("coop", "fgvc", "l2p", "coda")


def add_options(parser):
    parser.add_argument("--images", type=positive, default=32, help="number of images of 500x375 pixels")
    parser.add_argument("--size", type=positive, default=224, help="side of the input")


def alone(filter, size, image):
    return v2.functional.resize(image, [size], interpolation=filter)


def ways(size):
    """Return name -> what makes pixels with pillow, with tensor, and whether it is given an image of its own kind."""
    for filter in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR):
        yield f"resize alone, {filter.value}", (partial(alone, filter, size),) * 2, True
    for name in RECIPES:
        for side in (train_transform, test_transform):
            made = [side(name, size, *PLAIN, resize=resize).pixels for resize in RESIZES]
            yield f"{name}, {side.__name__.split('_')[0]} side", made, False


def seconds(work, images, repeats):
    """Return the least CPU time of an image, in seconds; NaN without repeats."""
    times = [float("nan")]
    for _ in range(repeats):
        start = time.process_time()
        for image in images:
            work(image)
        times.append((time.process_time() - start) / len(images))
    return min(times[1:] or times)


def rows(args):
    """Yield one row for each way."""
    images = [like_photo(number) for number in range(args.images)]
    loaded = [v2.functional.pil_to_tensor(image) for image in images]
    for name, works, own in ways(args.size):
        given = [images, loaded if own else images]
        found = []
        for work, each in zip(works, given, strict=True):
            torch.manual_seed(0)
            found.append(torch.stack([pixels(work(image)) for image in each]).int())
        pillow, tensor = (seconds(work, each, args.repeats) for work, each in zip(works, given, strict=True))
        apart = (found[0] - found[1]).abs()
        share, two = (apart > 0).float().mean().item(), int((apart > 1).sum())
        yield (
            name,
            f"{1 / pillow:.0f}",
            f"{1 / tensor:.0f}",
            f"{pillow / tensor:.1f}x",
            f"{share:.2%}",
            f"{two}",
            str(int(apart.max())),
        )


def pixels(image):
    return image if isinstance(image, torch.Tensor) else v2.functional.pil_to_tensor(image)


COLUMNS = ("way", "pillow, images/s", "tensor, images/s", "faster", "values that differ", "by more than 1", "at most")
