"""Training with steps that a CPU captures, whose replay is a plain call."""

import pytest
import torch
from torch import nn

from promptvision.engine.capture import graph
from promptvision.engine.evaluate import evaluate
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.method import Method

CPU, BATCHES = torch.device("cpu"), 4


class Net(Method):
    """Two layers with batch statistics on a frozen one; `odd` may do in a step what a graph cannot."""

    def __init__(self, odd=lambda method, logits: logits):
        super().__init__(nn.Linear(12, 16), ["a", "b"])
        self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 2))
        self.odd, self.unused = odd, nn.Parameter(torch.ones(2))

    def forward(self, images):
        return self.odd(self, self.head(self.backbone(images.flatten(1))))


class Loader:
    """Four batches an epoch, the last one smaller; `before` is called as each is read."""

    def __init__(self, before=lambda epoch, batch: None, sizes=(8, 8, 8, 5)):
        self.before, self.sizes = before, sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch, start=0):
        for batch in range(start, len(self)):
            generator = torch.Generator().manual_seed(100 * epoch + batch)
            images = torch.randn(self.sizes[batch], 3, 2, 2, generator=generator)
            images = images * torch.nan if self.before(epoch, batch) == "nan" else images
            yield images, (images.flatten(1).sum(dim=1) > 0).long()


@pytest.fixture
def captured(monkeypatch):
    """Let a CPU capture steps, whose replay is a plain call; yield the steps that are captured."""
    found, start = [], graph.Capture.start
    monkeypatch.setattr(graph, "DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(graph.Capture, "start", lambda self: (found.append(self), start(self)))
    return found


def train(path, how, *, name="sgd", epochs=3, decay=5e-4, method=None, loader=None, resume=False, **options):
    """(method, rows without seconds, optimiser, result) of a run with COMPUTE.GRAPH `how`."""
    torch.manual_seed(3)
    method = method() if method else Net()
    optimizer = build_optimizer(name, method.named_parameters(), 0.05, decay, no_decay={"head.1.bias"})
    rates = learning_rates("cosine", 0.05, epochs, warmup_epochs=1, warmup_lr=1e-3, warmup_type="linear")
    options = {"validate_every": 1, "validate": lambda epoch: evaluate(method, Loader().epoch(99), CPU), **options}
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method, loader or Loader(), optimizer, rates, folder,
            seed=1, device=CPU, progress=False, graph=how, **options,
        )  # fmt: skip
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, optimizer, {key: value for key, value in found.items() if key != "seconds"}


def same_tensors(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, dict):
            same_tensors(value, second[key])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


def same(first, second):
    assert first[1] == second[1] and first[3] == second[3] and len(first[1]) > 3
    same_tensors(first[0].state_dict(), second[0].state_dict())
    same_tensors(first[2].state_dict()["state"], second[2].state_dict()["state"])


def reasons(caplog):
    found = [record.getMessage().partition("CUDA graph: ")[2] for record in caplog.records]
    return [reason for reason in found if reason]
