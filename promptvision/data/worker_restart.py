"""Processes that load batches and may be killed: new ones continue at the first missing batch."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from promptvision.data.shared_batches import AHEAD, SharedBatches
from promptvision.errors import InputError, as_called

LOG = logging.getLogger(__name__)
DEATHS = 3
"""Times that workers may die without a batch in between."""


class Loads(Protocol):
    """A dataset whose items are loaded a batch at a time."""

    def __getitems__(self, wanted: Any) -> list[Any]:
        """Return the items of one batch; `wanted` is whatever names it."""


class Workers:
    """`count` processes that load batches of `items` and stay for the next epoch; with 0 this process loads them.

    `collate` makes a batch of a list of items, in the process that loads them; a tensor may come first in it. `room`:
    returns the bytes that this tensor may need, for some of `wanted`. `pinned`: it arrives in page-locked memory, from
    which it is copied to a GPU while this process continues.
    """

    def __init__(
        self,
        items: Loads,
        count: int = 0,
        collate: Callable[[list[Any]], Any] = list,
        *,
        room: Callable[[Sequence[Any]], int] = lambda wanted: 0,
        pinned: bool = False,
    ):
        self.items, self.count, self.collate, self.room, self.pinned = items, count, collate, room, pinned
        self._idle: DataLoader[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_idle": None}

    def batches(self, wanted: Sequence[Any]) -> Iterator[Any]:
        """Yield a batch for each of `wanted`, in order.

        If a worker is killed, new ones load what is missing; InputError if workers die again and again.
        """
        if not self.count or not wanted:
            yield from (self.collate(self.items.__getitems__(each)) for each in wanted)
            return
        done = deaths = 0
        while True:
            loader, self._idle = self._idle or self._start(wanted), None
            shared: Any = loader.collate_fn
            loader.batch_sampler[:] = wanted[done:]  # type: ignore[index]
            try:
                for batch in _iterator(loader):
                    done, deaths = done + 1, 0
                    yield shared.taken(batch, self.pinned)
                self._idle = loader
                return
            except GeneratorExit:
                self._idle = loader  # batches on their way are dropped when it starts again
                raise
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                deaths += 1
                if deaths == DEATHS:
                    raise InputError(
                        f"workers that decode images died {DEATHS} times in a row, perhaps for lack of memory; "
                        + as_called("use fewer: TRAIN.WORKERS, or --jobs of `python tools/data.py`")
                    ) from error
                LOG.warning("a worker that decodes images died: new workers continue at batch %d", done)

    def _start(self, wanted: Sequence[Any]) -> DataLoader[Any]:
        """Return a loader of the batches that its `batch_sampler`, a list, will hold, such as `wanted`."""
        own = torch.Generator()  # else DataLoader draws from the global generator, and training would depend on it
        return DataLoader(
            self.items,  # type: ignore[arg-type]
            batch_sampler=[],
            num_workers=self.count,
            collate_fn=SharedBatches(self.collate, self.count, self.room(wanted)),
            prefetch_factor=AHEAD,
            generator=own,
            persistent_workers=True,
        )


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the loader's iterator without torch's SIGCHLD handler, which would raise anywhere in the main process.

    The iterator itself checks its workers every few seconds.
    """
    if sys.platform == "win32":
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return iterator
