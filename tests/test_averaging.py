"""The average over epochs (PromptSRC's GPA), a run of it that is stopped and goes on, and what training refuses."""

import math
import os
import signal

import pytest
import torch
from torch import nn
from training import Batches

from coop.parts.averaging import EpochAverage, gaussian_weights
from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.optim import build_optimizer
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError
from promptvision.method import Method

CPU, EPOCHS = torch.device("cpu"), 4


class Averaged(Method):
    """A linear classifier whose end is the average of its epochs."""

    def __init__(self, classes=("a", "b")):
        super().__init__(nn.Identity(), classes)
        torch.manual_seed(3)
        self.head, self.average, self.ends = nn.Linear(12, 2), EpochAverage(), []

    def forward(self, images):
        return self.head(images.flatten(1))

    def end_epoch(self, epoch, epochs):
        self.ends.append((epoch, epochs, self.head.weight.detach().clone()))
        self.average.end_epoch(self, epoch, gaussian_weights(epochs, 3, 1))

    def training_state(self):
        return self.average.tensors

    def load_training_state(self, state):
        self.average.load(self, state)


def train(path, method=None, loader=None, resume=False, **options):
    method = method or Averaged()
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.5, 0, 0.9)
    with RunFolder(path, resume=resume) as folder:
        given = dict(seed=1, device=CPU, progress=False) | options
        fit(method, loader or Batches(), optimizer, [0.5] * EPOCHS, folder, **given)
    return method


def test_training_ends_with_the_gaussian_average_of_the_epochs(tmp_path):
    method = train(tmp_path)
    assert [(epoch, epochs) for epoch, epochs, _ in method.ends] == [(e, EPOCHS) for e in range(EPOCHS)]
    heights = [math.exp(-((epoch - 3) ** 2) / 2) for epoch in (1, 2, 3, 4)]
    weights = [weight for _, _, weight in method.ends]
    by_hand = sum(height / sum(heights) * weight for height, weight in zip(heights, weights, strict=True))
    torch.testing.assert_close(method.head.weight.data, by_hand, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(method.head.weight, weights[-1], rtol=1e-3)
    assert list(method.learned_state()) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("epoch, batch", [(0, 1), (1, 0), (1, 2), (3, 0), (3, 2)])
def test_a_stopped_run_ends_the_same(epoch, batch, tmp_path):
    """Within an epoch, before its last step, and before the last step of all."""
    stop = Batches(lambda e, b: os.kill(os.getpid(), signal.SIGTERM) if (e, b) == (epoch, batch) else None)
    with pytest.raises(SystemExit):
        train(tmp_path / "a", loader=stop)
    found = train(tmp_path / "a", resume=True)
    assert torch.equal(found.head.weight, train(tmp_path / "b").head.weight)


def test_an_epoch_whose_validation_fails_is_not_added_twice(tmp_path):
    """The checkpoint then holds the state after the epoch's last step and its share of the average."""

    def fail(epoch):
        if epoch == 1:
            raise InputError("an image has vanished")
        return {}

    with pytest.raises(InputError, match="vanished"):
        train(tmp_path / "a", validate=fail, validate_every=1)
    found = train(tmp_path / "a", resume=True, validate=lambda epoch: {}, validate_every=1)
    assert [epoch for epoch, _, _ in found.ends] == [2, 3]
    assert torch.equal(found.head.weight, train(tmp_path / "b").head.weight)


@pytest.mark.parametrize("training", [{"head.weight": torch.zeros(2, 12)}, {"head.weight": 3}, 5, None])
def test_an_average_of_something_else_is_refused(training, tmp_path):
    train(tmp_path)
    path = tmp_path / "last.ckpt"
    state = {key: value for key, value in load_checkpoint(path).items() if key != "format"}
    save_checkpoint(path, state | {"training": training})
    with pytest.raises(InputError, match="does not fit this run|not one of what this method learns"):
        train(tmp_path, resume=True)


@pytest.mark.parametrize("epochs, mean, std", [(1, 3, 1), (20, 15, 1), (50, 30, 30), (2, 15, 1), (5, 1000, 0.5)])
def test_weights_sum_to_one_however_far_the_mean_is(epochs, mean, std):
    weights = gaussian_weights(epochs, mean, std)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    assert weights.index(max(weights)) == min(epochs, mean) - 1


@pytest.mark.parametrize("std", [0, -1.0])
def test_a_gaussian_has_a_width(std):
    with pytest.raises(InputError, match="must be positive"):
        gaussian_weights(4, 3, std)


def test_one_class_is_nothing_to_learn_from(tmp_path):
    with pytest.raises(InputError, match="there is only one class, 'cat': training needs at least two"):
        train(tmp_path, Averaged(["cat"]))
