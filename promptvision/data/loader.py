"""Batches of images that depend neither on the number of workers nor on where an epoch is resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from promptvision.data.images import Item
from promptvision.data.transforms import Transform
from promptvision.data.worker_restart import batches
from promptvision.errors import InputError

Open = Callable[[str], Image.Image]
Batch = tuple[Tensor, Tensor]
"""images (B, 3, H, W) float32 and labels (B,) int64."""


@dataclass(frozen=True)
class Views(Dataset):
    """One view of every item. `stream` and the index seed its random choices; None leaves the generator alone."""

    items: Sequence[Item]
    open: Open
    transform: Transform
    stream: str | None = None

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
        """Return (pixels, label), or the InputError of a broken image: a worker that raised it would garble it."""
        path, label, _ = self.items[index]
        try:
            image = self.open(path)
        except InputError as error:
            return error
        if self.stream is None:
            return self.transform.pixels(image), label
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random.Random(f"{self.stream}/{index}").getrandbits(63))
            return self.transform.pixels(image), label

    def collate(self, views: list[tuple[Tensor, int] | InputError]) -> Batch | InputError:
        """Return the batch of some views, or the first error among them."""
        good = []
        for view in views:
            if isinstance(view, InputError):
                return view
            good.append(view)
        images, labels = zip(*good, strict=True)
        return self.transform.finish(torch.stack(images)), torch.tensor(labels, dtype=torch.int64)

    def batches(self, indices: list[list[int]], workers: int) -> Iterator[Batch]:
        """Yield a batch for each list of indices; raise the InputError of a broken image."""
        for batch in batches(self, indices, workers, self.collate):
            if isinstance(batch, InputError):
                raise batch
            yield batch


class TrainLoader:
    """Shuffled batches of training views.

    The order is a function of (seed, epoch). Epoch e shows view e of every image, or view e modulo `views` if that
    is not 0; a view is a function of (seed, its number, the image's index in `items`). `fixed`: the transform draws
    nothing, so there is one view. `drop_last`: an incomplete last batch is dropped unless it is the only one (Dassl
    `build_data_loader`). `keep` decodes all images now and holds them in memory: for few-shot sets, where a broken
    image is then found before training. `part`: (number, count) of processes that share every batch.
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
    ):
        _check(items, batch_size, workers, "train on")
        self.items, self.open, self.transform = list(items), open_image, transform
        self.batch_size, self.seed, self.workers, self.part = batch_size, seed, workers, part
        self.drop_last, self.views, self.fixed = drop_last, 1 if fixed else views, fixed
        if keep:
            self.keep()

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return count_batches(len(self.items), self.batch_size, self.drop_last)

    def keep(self) -> None:
        """Decode all images now and hold them in memory."""
        self.open = {path: self.open(path) for path, _, _ in self.items}.__getitem__

    def view_of(self, epoch: int) -> int:
        """Return the number of the view that an epoch shows."""
        return epoch % self.views if self.views else epoch

    def view(self, number: int, batch_size: int) -> TestLoader:
        """Return one view of every image, in the order of `items`."""
        stream, workers = None if self.fixed else f"{self.seed}/{number}", self.workers
        return TestLoader(self.items, self.open, self.transform, batch_size=batch_size, workers=workers, stream=stream)

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the indices of an epoch's batches; of several processes, this one's part of each."""
        order, size, (number, count) = list(range(len(self.items))), self.batch_size, self.part
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        starts = range(0, len(self) * size, size)
        return [order[start : start + size][number::count] for start in starts]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        views = self.view(self.view_of(epoch), self.batch_size).views
        return views.batches(self.batches(epoch)[start:], self.workers)


class TestLoader:
    """All items in their order; the last batch may be smaller. `stream`: of a training view, see `Views`."""

    __test__ = False  # pytest takes it for a test class
    source = "pictures"

    def __init__(
        self,
        items: Sequence[Item],
        open_image: Open,
        transform: Transform,
        *,
        batch_size: int,
        workers: int = 0,
        stream: str | None = None,
    ):
        _check(items, batch_size, workers, "test on")
        self.views = Views(list(items), open_image, transform, stream)
        self.batch_size, self.workers = batch_size, workers
        order = list(range(len(items)))
        self.indices = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        return self.views.batches(self.indices, self.workers)


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
