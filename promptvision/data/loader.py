"""Batches of images, the same whatever the number of worker processes and wherever an epoch is resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from promptvision.data.images import Item
from promptvision.data.transforms import Transform
from promptvision.data.worker_restart import with_restarts
from promptvision.errors import InputError

Open = Callable[[str], Image.Image]
Batch = tuple[Tensor, Tensor]
"""images (B, 3, H, W) float32 and labels (B,) int64."""


@dataclass(frozen=True)
class Views(Dataset):
    """Item i as (pixels, label), or the InputError of a broken image: raised here, a worker would garble it."""

    items: Sequence[Item]
    open: Open
    transform: Transform
    stream: str | None = None
    """Seeds the random choices of every view together with its index; None leaves the generator alone."""

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
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


def _collate(transform: Transform, views: list[tuple[Tensor, int] | InputError]) -> Batch | InputError:
    good = []
    for view in views:
        if isinstance(view, InputError):
            return view
        good.append(view)
    images, labels = zip(*good, strict=True)
    return transform.finish(torch.stack(images)), torch.tensor(labels, dtype=torch.int64)


def _batches(views: Views, indices: list[list[int]], workers: int) -> Iterator[Batch]:
    """The batches of these image indices; a broken image raises its InputError."""
    own = torch.Generator()  # else DataLoader draws from the global generator, and training would depend on it
    collate = partial(_collate, views.transform)

    def rest(start: int) -> DataLoader:
        batches = indices[start:]
        return DataLoader(views, batch_sampler=batches, num_workers=workers, collate_fn=collate, generator=own)

    for batch in with_restarts(rest):
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _chunks(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


class TrainLoader:
    """Shuffled batches of training views.

    The order is a function of (seed, epoch). Epoch e shows view e of every image, or view e modulo `views` if that
    is not 0; a view is a function of (seed, its number, the image's index in `items`). `fixed`: the transform draws
    nothing, so there is one view. An incomplete last batch is dropped, but if it is the only one (Dassl
    `build_data_loader`). `keep` decodes all images now and holds them in memory: for few-shot sets, and a broken
    image is then found before training. `part`: (number, how many) of processes that share every batch, each with
    its own part of it.
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
        views: int = 0,
        fixed: bool = False,
        keep: bool = False,
        part: tuple[int, int] = (0, 1),
    ):
        _check(items, batch_size, workers, "train on")
        self.part = part
        self.items, self.open, self.transform = list(items), open_image, transform
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.views, self.fixed = 1 if fixed else views, fixed
        if keep:
            self.keep()

    def __len__(self) -> int:
        """Batches per epoch."""
        return max(1, len(self.items) // self.batch_size)

    def keep(self) -> None:
        """Decode all images now and hold them in memory."""
        self.open = {path: self.open(path) for path, _, _ in self.items}.__getitem__

    def view_of(self, epoch: int) -> int:
        """Number of the view that an epoch shows."""
        return epoch % self.views if self.views else epoch

    def view(self, number: int, batch_size: int) -> TestLoader:
        """One view of every image, in the order of `items`."""
        stream, workers = self._stream(number), self.workers
        return TestLoader(self.items, self.open, self.transform, batch_size=batch_size, workers=workers, stream=stream)

    def batches(self, epoch: int) -> list[list[int]]:
        """The indices of an epoch's batches, or of this part of each."""
        order, (number, count) = list(range(len(self.items))), self.part
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return [batch[number::count] for batch in _chunks(order, self.batch_size)[: len(self)]]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        views = Views(self.items, self.open, self.transform, self._stream(self.view_of(epoch)))
        return _batches(views, self.batches(epoch)[start:], self.workers)

    def _stream(self, view: int) -> str | None:
        return None if self.fixed else f"{self.seed}/{view}"


class TestLoader:
    """All items in their order; the last batch may be smaller. `stream`: of a training view, see `TrainLoader.view`."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
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
        self.indices = _chunks(range(len(items)), batch_size)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        return _batches(self.views, self.indices, self.workers)


def _check(items: Sequence[Item], batch_size: int, workers: int, purpose: str) -> None:
    if not items:
        raise InputError(f"no images to {purpose}")
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}")
    if workers < 0:
        raise InputError(f"the number of workers must be at least 0, not {workers}")
