"""A small training loop whose runs can be compared bit for bit."""

import os
import random
import signal
import time

import numpy as np
import torch
from torch import nn

from promptvision.engine.evaluate import evaluate
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.method import Method

CPU, EPOCHS, BATCHES = torch.device("cpu"), 4, 3


class Tiny(Method):
    """A head with batch statistics and dropout on a frozen layer; draws from all three generators."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.9)), ["a", "b"])
        self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, images):
        features = self.backbone(images.flatten(1))
        if self.training:
            features = features * (0.5 + random.random()) + np.random.rand()
        return self.head(features)


class Batches:
    """Three batches an epoch, each a function of (epoch, batch); draws from the global generator as loaders do."""

    def __init__(self, before=lambda epoch, batch: None):
        self.before = before

    def __len__(self):
        return BATCHES

    def epoch(self, epoch, start=0):
        torch.rand(())
        for batch in range(start, BATCHES):
            self.before(epoch, batch)
            images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(100 * epoch + batch))
            yield images, (images.flatten(1).sum(dim=1) > 0).long()


def train(
    path, *, resume=False, loader=None, precision="fp32", name="adam", lr=0.05, epochs=EPOCHS, val=None, **options
):
    """(method, rows without seconds, result) of a run; the same start whatever was drawn before."""
    torch.manual_seed(3)
    method = Tiny()
    torch.manual_seed(random.randrange(2**31))
    optimizer = build_optimizer(name, method.named_parameters(), lr, 5e-4)
    rates = learning_rates("cosine", lr, epochs, warmup_epochs=1, warmup_lr=1e-3)
    val = val or list(Batches().epoch(99))
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method,
            loader or Batches(),
            optimizer,
            rates,
            folder,
            seed=1,
            device=CPU,
            precision=precision,
            validate=lambda epoch: evaluate(method, val, CPU),
            progress=False,
            **{"validate_every": 2, **options},
        )
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, found


def same(first, second):
    (method, rows, _), (other, other_rows, _) = first, second
    state, other_state = method.learned_state(), other.learned_state()
    assert rows == other_rows
    assert state.keys() == other_state.keys() and all(torch.equal(state[name], other_state[name]) for name in state)


def stop_at(epoch, batch, number=signal.SIGTERM):
    return Batches(lambda e, b: os.kill(os.getpid(), number) if (e, b) == (epoch, batch) else None)


def wait_for_rows(path, count):
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.002)
