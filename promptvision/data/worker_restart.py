"""Restarts of DataLoader workers that were killed: new ones continue at the first batch that is missing."""

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
"""Times that workers may die without a batch in between."""


def with_restarts(loader_from: Callable[[int], DataLoader[Any]]) -> Iterator[Any]:
    """Yield the batches of `loader_from(0)`; if a worker dies after n of them, those of `loader_from(n)` follow.

    InputError if workers die again and again.
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
                    f"workers that decode images died {DEATHS} times in a row, perhaps for lack of memory; "
                    "use fewer: TRAIN.WORKERS, or --jobs of tools/data.py"
                ) from error
            LOG.warning("a worker that decodes images died: new workers continue at batch %d", done)


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the loader's iterator without torch's SIGCHLD handler, which would raise anywhere in the main process.

    The iterator itself checks its workers every few seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
