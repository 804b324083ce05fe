"""Batches from DataLoader workers that may be killed: new workers continue at the first missing batch."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from promptvision.errors import InputError, as_called

LOG = logging.getLogger(__name__)
DEATHS = 3
"""Times that workers may die without a batch in between."""


def batches(
    items: Dataset[Any], indices: Sequence[Sequence[int]], workers: int, collate: Callable[[list[Any]], Any]
) -> Iterator[Any]:
    """Yield collate([items[i], ...]) for each list of indices, in order, loaded by `workers` processes (0: this one).

    If a worker is killed, new ones load what is missing; InputError if workers die again and again.
    """
    done = deaths = 0
    own = torch.Generator()  # else DataLoader draws from the global generator, and training would depend on it
    while True:
        rest = map(list, indices[done:])
        loader = DataLoader(items, batch_sampler=rest, num_workers=workers, collate_fn=collate, generator=own)
        try:
            for batch in _iterator(loader):
                done, deaths = done + 1, 0
                yield batch
            return
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
