"""Memory that workers share with the process that started them, in which their batches cross."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.heap import BufferWrapper
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

AHEAD = 2
"""Batches that each worker loads ahead."""


@dataclass(frozen=True)
class Place:
    """A tensor that a worker has left in the shared memory, from byte `first` on."""

    first: int
    shape: torch.Size
    dtype: torch.dtype


class SharedBatches:
    """A collate function for `workers` processes; tensors that come first in its batches cross in memory made once.

    A tensor that crosses by itself costs a new mapping, page faults and a handshake. Each worker has a place of `room`
    bytes for every batch that it loads ahead and one for the batch that was asked for last, and fills them in turn;
    `taken` empties that last one. Pages of a place that is never filled take no memory. Larger tensors cross by
    themselves.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], workers: int, room: int):
        self.collate, self.room, self.filled = collate, room, 0
        self.memory = BufferWrapper(workers * (AHEAD + 1) * room)

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch of `items`, with a place instead of its tensor."""
        batch = self.collate(items)
        if not isinstance(batch, tuple) or not isinstance(batch[0], Tensor) or batch[0].nbytes > self.room:
            return batch
        worker: Any = get_worker_info()
        number = worker.id * (AHEAD + 1) + self.filled % (AHEAD + 1)
        place = Place(number * self.room, batch[0].shape, batch[0].dtype)
        self.filled += 1
        self._at(place).copy_(batch[0])
        return place, *batch[1:]

    def taken(self, batch: Any, pinned: bool) -> Any:
        """Return a batch that has crossed, with a tensor of its own; `pinned`: in page-locked memory."""
        if not isinstance(batch, tuple) or not isinstance(batch[0], Place | Tensor):
            return batch
        found = batch[0] if isinstance(batch[0], Tensor) else self._at(batch[0])
        return found.pin_memory() if pinned else found.clone(), *batch[1:]

    def _at(self, place: Place) -> Tensor:
        memory, count = self.memory.create_memoryview(), math.prod(place.shape)
        return torch.frombuffer(memory, dtype=place.dtype, count=count, offset=place.first).view(place.shape)
