"""Processes that read images and may die: what they were to bring is read again by new ones."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from promptvision.errors import InputError

LOG = logging.getLogger(__name__)
DEATHS = 3
"""Times in a row, without a batch between, that workers may die."""


def outlived(loader_from: Callable[[int], DataLoader[Any]]) -> Iterator[Any]:
    """The batches of `loader_from(0)`; where a worker dies after n of them, those of `loader_from(n)` follow.

    InputError if they die again and again.
    """
    done = deaths = 0
    while True:
        try:
            for batch in _iterator(loader_from(done)):
                done, deaths = done + 1, 0
                yield batch
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            deaths += 1
            if deaths == DEATHS:
                raise InputError(
                    f"processes that read images died {DEATHS} times in a row (perhaps for lack of memory); "
                    "set TRAIN.WORKERS lower, 0 reads in the main process"
                ) from error
            LOG.warning("a process that reads images died: new ones go on from batch %d", done)


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, which looks after its workers every few seconds.

    Without torch's handler of SIGCHLD: it would raise wherever the main process happens to be, even within a step.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
