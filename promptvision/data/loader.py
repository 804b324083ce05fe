"""Batches of images that depend neither on the number of workers nor on where an epoch is resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from promptvision.data.images import Item
from promptvision.data.transforms import Transform
from promptvision.data.worker_restart import Workers
from promptvision.errors import InputError

Open = Callable[[str], Image.Image]
Batch = tuple[Tensor, Tensor]
"""images (B, 3, H, W) float32 and labels (B,) int64."""
View = tuple[Tensor, int]
"""pixels as `Transform.pixels` returns them, and the label."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Views:
    """One view of every item. `stream` and the index seed its random choices; None leaves the generator alone.

    `twice`: two views of every image, (2, 3, H, W), the first of which is the one without `twice`. Pixels cross from
    workers as the transform makes them, mostly uint8, and are normalised here, on `device`.
    """

    items: Sequence[Item]
    open: Open
    transform: Transform
    stream: str | None = None
    device: torch.device = CPU
    twice: bool = False

    def workers(self, count: int) -> Workers:
        """Return `count` processes that load views, of this and any other stream of the same images."""
        return Workers(self, count, self.collate, room=self.room, pinned=self.device.type == "cuda")

    def room(self, wanted: Sequence[tuple[str | None, Sequence[int]]]) -> int:
        """Return the bytes of the largest batch of `wanted`."""
        return (1 + self.twice) * self.transform.bytes_of_image() * max(len(indices) for _, indices in wanted)

    def __getitems__(self, wanted: tuple[str | None, Sequence[int]]) -> list[View | InputError]:
        """Return the views of a stream and some indices, the InputError of a broken image in its place."""
        stream, indices = wanted
        if stream is None:
            return [self._view(index) for index in indices]
        views = []
        with torch.random.fork_rng(devices=[]):
            for index in indices:
                _seed(f"{stream}/{index}")
                views.append(self._view(index, f"{stream}/{index}/second"))
        return views

    def _view(self, index: int, second: str = "") -> View | InputError:
        """Return a view, or the error: a worker that raised it would garble it. `second`: the seed of a second one."""
        path, label, _ = self.items[index]
        try:
            image = self.open(path)
            pixels = self.transform.pixels(image)
            if not self.twice:
                return pixels, label
            if second:
                _seed(second)
            return torch.stack([pixels, self.transform.pixels(image)]), label
        except InputError as error:
            return error

    def collate(self, views: list[View | InputError]) -> tuple[Tensor, list[int]] | InputError:
        """Return pixels and labels of a batch, or the first error."""
        good = []
        for view in views:
            if isinstance(view, InputError):
                return view
            good.append(view)
        images, labels = zip(*good, strict=True)
        return torch.stack([image.contiguous() for image in images]), list(labels)  # PIL's channels come last

    def batches(self, indices: Sequence[Sequence[int]], workers: Workers | None = None) -> Iterator[Batch]:
        """Yield a batch for each list of indices, by workers if given; raise the InputError of a broken image."""
        for batch in (workers or self.workers(0)).batches([(self.stream, each) for each in indices]):
            if isinstance(batch, InputError):
                raise batch
            yield self.normalised(*batch)

    def normalised(self, pixels: Tensor, labels: list[int]) -> Batch:
        """Return what `collate` made as a batch: images on the device, labels on the CPU."""
        pixels = pixels.to(self.device, non_blocking=True)
        return self.transform.finish(pixels), torch.tensor(labels, dtype=torch.int64)


class TrainLoader:
    """Shuffled batches of training views.

    The order is a function of (seed, epoch). Epoch e shows view e of every image, or view e modulo `views` if that
    is not 0; a view is a function of (seed, its number, the image's index in `items`). `fixed`: the transform draws
    nothing, so there is one view. `drop_last`: an incomplete last batch is dropped unless it is the only one (Dassl
    `build_data_loader`). `keep` decodes all images now and holds them in memory: for few-shot sets, where a broken
    image is then found before training. `part`: (number, count) of processes that share every batch. `device`: that
    of the normalised images. `twice`: batches are (images, labels, second views of the images). `one_class`: every
    batch holds images of one class, chosen at random for each among those with images left in the epoch; what is said
    of incomplete batches then holds for each class (Dassl, `RandomClassSampler`).
    """

    source = "pictures"

    def __init__(
        self,
        items: Sequence[Item],
        open_image: Open,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        drop_last: bool = True,
        views: int = 0,
        fixed: bool = False,
        keep: bool = False,
        part: tuple[int, int] = (0, 1),
        device: torch.device = CPU,
        twice: bool = False,
        one_class: bool = False,
    ):
        _check(items, batch_size, workers, "train on")
        self.items, self.open, self.transform, self.device = list(items), open_image, transform, device
        self.batch_size, self.seed, self.part, self.twice = batch_size, seed, part, twice
        self.drop_last, self.views, self.fixed = drop_last, 1 if fixed else views, fixed
        self.groups = groups_of(self.items, one_class)
        self.workers = self._views().workers(workers)
        if keep:
            self.keep()

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return sum(count_batches(len(group), self.batch_size, self.drop_last) for group in self.groups)

    def keep(self) -> None:
        """Decode all images now and hold them in memory."""
        self.open = {path: self.open(path) for path, _, _ in self.items}.__getitem__
        self.workers = self._views().workers(self.workers.count)

    def view_of(self, epoch: int) -> int:
        """Return the number of the view that an epoch shows."""
        return epoch % self.views if self.views else epoch

    def view(self, number: int, batch_size: int) -> TestLoader:
        """Return one view of every image, in the order of `items`."""
        return TestLoader(
            self.items,
            self.open,
            self.transform,
            batch_size=batch_size,
            workers=self.workers,
            stream=None if self.fixed else f"{self.seed}/{number}",
            device=self.device,
        )

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the indices of an epoch's batches; of several processes, this one's part of each."""
        draws, size, (number, count) = random.Random(f"{self.seed}/{epoch}"), self.batch_size, self.part
        left, found = [], []
        for group in self.groups:
            order = group.copy()
            draws.shuffle(order)
            starts = range(0, count_batches(len(order), size, self.drop_last) * size, size)
            left.append([order[start : start + size][number::count] for start in starts])
        while len(left) > 1:
            chosen = draws.randrange(len(left))
            found.append(left[chosen].pop())
            left = [batches for batches in left if batches]
        return found + left[0]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch from number `start` on."""
        views = self._views(self.view_of(epoch))
        for images, labels in views.batches(self.batches(epoch)[start:], self.workers):
            first, *second = (each.contiguous() for each in images.unbind(1)) if self.twice else (images,)
            yield first, labels, *second

    def _views(self, number: int | None = None) -> Views:
        """Return the views of a number, as training sees them, or with the generator left alone."""
        stream = None if self.fixed or number is None else f"{self.seed}/{number}"
        return Views(self.items, self.open, self.transform, stream, self.device, self.twice)


class TestLoader:
    """All items in their order; the last batch may be smaller.

    `workers`: their number, or those of another loader of the same images. `stream`: of a training view, see `Views`.
    `device`: that of the normalised images.
    """

    __test__ = False  # pytest takes it for a test class
    source = "pictures"

    def __init__(
        self,
        items: Sequence[Item],
        open_image: Open,
        transform: Transform,
        *,
        batch_size: int,
        workers: int | Workers = 0,
        stream: str | None = None,
        device: torch.device = CPU,
    ):
        _check(items, batch_size, workers.count if isinstance(workers, Workers) else workers, "test on")
        self.views = Views(list(items), open_image, transform, stream, device)
        self.batch_size = batch_size
        self.workers = workers if isinstance(workers, Workers) else self.views.workers(workers)
        order = list(range(len(items)))
        self.indices = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        return self.views.batches(self.indices, self.workers)


def groups_of(items: Sequence[Item], one_class: bool) -> list[list[int]]:
    """Return the indices of the images that batches are made of: all, or those of each class by itself."""
    groups: dict[int, list[int]] = {}
    for index, (_, label, _) in enumerate(items):
        groups.setdefault(label if one_class else 0, []).append(index)
    return [groups[label] for label in sorted(groups)]


def _seed(text: str) -> None:
    """Seed torch's generator of the CPU by a text."""
    torch.default_generator.manual_seed(random.Random(text).getrandbits(63))


def count_batches(images: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches of a TrainLoader."""
    whole, rest = divmod(images, batch_size)
    return whole if whole and (drop_last or not rest) else whole + 1


def smallest_batch(images: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of images in the smallest batch of a TrainLoader."""
    rest = images % batch_size
    return rest if rest and (images < batch_size or not drop_last) else batch_size


def _check(items: Sequence[Item], batch_size: int, workers: int, purpose: str) -> None:
    """Raise InputError for loader arguments out of range."""
    if not items:
        raise InputError(f"no images to {purpose}")
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}")
    if workers < 0:
        raise InputError(f"the number of workers must be at least 0, not {workers}")
