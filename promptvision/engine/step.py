"""A training step, and the random draws in it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.device import autocast
from promptvision.engine.distributed import part, sum_gradients, total
from promptvision.method import Method

Batch = Sequence[Tensor]
"""Images, labels, and whatever else `Method.loss` is given, on any device."""


class Later:
    """A number on the device as it is now, read without waiting for work that is queued afterwards."""

    def __init__(self, number: Tensor):
        self.host = torch.empty((), dtype=number.dtype, pin_memory=number.is_cuda)
        self.host.copy_(number, non_blocking=True)
        self.ready = torch.cuda.Event() if number.is_cuda else None
        if self.ready:
            self.ready.record()

    def __float__(self) -> float:
        if self.ready:
            self.ready.synchronize()
        return self.host.item()


@dataclass
class Step:
    """An update of the learned tensors by the mean loss over the images of one or more batches.

    `clip`: the largest norm of all gradients together, 0 for any.
    """

    method: Method
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: str
    clip: float

    @property
    def learned(self) -> list[Tensor]:
        """The tensors that the optimiser changes."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def take(self, batches: Sequence[Batch]) -> float | Later:
        """Update the learned tensors once and return the loss; one that is not finite changes nothing."""
        images = total(sum(len(batch[1]) for batch in batches), self.device)
        losses = torch.zeros((), dtype=torch.double, device=self.device)  # read once, not after every batch
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            losses += self.backward(batch, len(batch[1]) / images).double() * len(batch[1])
        value = total(losses.item(), self.device) / images
        if math.isfinite(value):
            sum_gradients(self.learned)
            if self.clip:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.learned, self.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return value

    def renew(self) -> None:
        """Take account of frozen tensors that were replaced; this step looks them up each time."""

    def backward(self, batch: Batch, share: float) -> Tensor:
        """Add the gradients of `share` times the loss of a batch to those of the learned tensors; return the loss."""
        with autocast(self.device, self.precision):
            loss = self.method.loss(*(tensor.to(self.device) for tensor in batch))
        self.scaler.scale(loss * share).backward()
        return loss.detach()


def seed_all(seed: int, step: int) -> None:
    """Seed every global generator by (seed, step) and the process, so that a checkpoint needs no generator state."""
    number = part()[0]
    words = np.random.SeedSequence([seed, step, number] if number else [seed, step]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    seed_torch(int(words[2]))


def seed_torch(seed: int) -> None:
    """Seed torch's generators as `torch.manual_seed` does, which records a stack trace for every kind of device.

    Those of CUDA only once it is in use: a step on it comes after that.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed)
