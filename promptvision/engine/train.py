"""The training loop, one for every method."""

from __future__ import annotations

import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from reprlib import repr as short
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.device import autocast
from promptvision.engine.evaluate import check_labels
from promptvision.engine.log import RunFolder
from promptvision.errors import InputError
from promptvision.method import Method

LOG = logging.getLogger(__name__)


class Loader(Protocol):
    """Batches whose order and views depend on nothing but the epoch."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of an epoch, from batch `start` on."""


class Position(NamedTuple):
    """The step that comes next, and the seconds of training before it."""

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0


def fit(
    method: Method,
    loader: Loader,
    optimizer: Optimizer | None,
    rates: Sequence[float],
    folder: RunFolder,
    *,
    seed: int,
    device: torch.device,
    precision: str = "fp32",
    checkpoint_every: int = 1,
    validate: Callable[[], Mapping[str, Any]] | None = None,
    validate_every: int = 0,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the learned part, one epoch per entry of `rates`, going on from the folder's last.ckpt if it is there.

    The result tells `steps`, `epochs`, `seconds` (of all parts of a resumed run) and the last `loss`. A method that
    learns nothing (`optimizer` None) is left as it is. What a step draws at random depends on (seed, step) alone:
    a run that was stopped or killed ends bit-identical, on the same machine, to one never stopped. `identity` is what
    a checkpoint to go on from must agree with. Ctrl-C and SIGTERM save a checkpoint after the step at hand and
    exit with 130 and 143. A loss that is not finite raises InputError and leaves the last good checkpoint.
    """
    if optimizer is None:
        LOG.info("%s learns nothing: no training", type(method).__name__)
        return {"steps": 0, "epochs": 0, "seconds": 0.0, "loss": None}
    return {}
