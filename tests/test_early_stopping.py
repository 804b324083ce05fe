"""Runs of several batches per step, and runs that end early."""

import os
import signal

import pytest
import torch
from small_run import Line, config

from promptvision.config.families import FAMILIES
from promptvision.engine.checkpoint import load_checkpoint
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.experiment.schedule import base_rate, epochs, rates, steps

CPU = torch.device("cpu")


class Loader:
    """Five batches of two images an epoch, or those joined `together` at a time."""

    def __init__(self, together=1, stop=None):
        self.together, self.stop = together, stop

    def __len__(self):
        return -(-5 // self.together)

    def epoch(self, epoch, start=0):
        generator = torch.Generator().manual_seed(epoch)
        images = torch.randn(10, 3, 2, 2, generator=generator)
        labels = (images.flatten(1).sum(dim=1) > 0).long()
        parts = list(zip(images.split(2 * self.together), labels.split(2 * self.together), strict=True))
        for number in range(start, len(parts)):
            if self.stop == (epoch, number):
                os.kill(os.getpid(), signal.SIGTERM)
            yield parts[number]


def train(path, loader, *, resume=False, per_step=False, scores=(), count=4, **options):
    """(method, rows, what fit returns) of a run of 3 steps an epoch; validation of epoch e gives `scores[e]`."""
    torch.manual_seed(0)
    method = Line(["a", "b"])
    optimizer = build_optimizer("adam", method.named_parameters(), 0.1, 0.0)
    if scores:
        options |= {"validate": lambda epoch: {"accuracy": scores[epoch]}, "validate_every": 1}
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method, loader, optimizer, learning_rates("cosine", 0.1, count), folder,
            seed=1, device=CPU, per_step=per_step, progress=False, **options,
        )  # fmt: skip
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, {key: value for key, value in found.items() if key != "seconds"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("per_step", [False, True])
def test_a_run_of_small_batches_is_that_of_large_ones(tmp_path, per_step, precision):
    """Steps, rates and the scale of mixed precision count steps, the last of an epoch is of one batch."""
    more = {"per_step": per_step, "count": 8 if per_step else 4, "precision": precision, "clip": 0.5}
    large = train(tmp_path / "large", Loader(2), **more)
    small = train(tmp_path / "small", Loader(), accumulate=2, **more)
    assert small[2]["steps"] == large[2]["steps"] == (8 if per_step else 12)
    for ours, theirs in zip(small[1], large[1], strict=True):
        assert ours | {"loss": 0} == theirs | {"loss": 0}
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5 if precision == "fp32" else 2e-3)
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    torch.testing.assert_close(small[0].head.weight, large[0].head.weight, rtol=tolerance, atol=tolerance)
    scales = [load_checkpoint(tmp_path / name / "last.ckpt")["scaler"] for name in ("small", "large")]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("stop", [(0, 1), (1, 2), (2, 4)])
def test_a_run_of_several_batches_per_step_resumes_exactly(tmp_path, stop):
    whole = train(tmp_path / "whole", Loader(), accumulate=2)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", Loader(stop=stop), accumulate=2)
    again = train(tmp_path / "parts", Loader(), accumulate=2, resume=True)
    assert again[1:] == whole[1:] and torch.equal(again[0].head.weight, whole[0].head.weight)


def test_the_schedule_counts_steps(tmp_path):
    cfg = config(tmp_path, "OPTIM.ACCUMULATE", "2", "OPTIM.SCALE_LR", "true", "OPTIM.BATCH_SIZE", "64")
    assert base_rate(cfg) == cfg.OPTIM.LR / 256 * 128
    assert (steps(cfg, 5), epochs(cfg, 5), len(rates(cfg, 5))) == (18, 6, 6)
    cfg = config(tmp_path, "OPTIM.ACCUMULATE", "2", "OPTIM.ITERATIONS", "7")
    assert (steps(cfg, 5), epochs(cfg, 5), len(rates(cfg, 5))) == (7, 3, 7)
    assert len(set(rates(cfg, 5)[:3])) == 1 and len(set(rates(cfg, 5))) == 3


# early stopping

SCORES = [10.0, 30.0, 20.0, 30.0, 30.0, 90.0]


@pytest.mark.parametrize(("patience", "trained"), [(0, 6), (1, 3), (2, 4), (3, 5), (4, 6)])
def test_training_ends_when_the_best_epoch_is_long_ago(tmp_path, patience, trained):
    sparse = {"count": 6, "patience": patience, "checkpoint_every": 9}
    method, rows, found = train(tmp_path / "run", Loader(), scores=SCORES, **sparse)
    assert (found["epochs"], found["steps"]) == (trained, 5 * trained)
    assert [row["epoch"] for row in rows if "val" in row] == list(range(trained))
    again = train(tmp_path / "run", Loader(), scores=[0] * 6, resume=True, **sparse)
    assert again[1:] == (rows, found), "a run that has ended early is not trained on"
    assert torch.equal(again[0].head.weight, method.head.weight)


@pytest.mark.parametrize("stop", [(0, 3), (2, 0), (2, 4), (3, 1)])
def test_early_stopping_resumes_exactly(tmp_path, stop):
    whole = train(tmp_path / "whole", Loader(), scores=SCORES, count=6, patience=2)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", Loader(stop=stop), scores=SCORES, count=6, patience=2)
    again = train(tmp_path / "parts", Loader(), scores=SCORES, count=6, patience=2, resume=True)
    assert again[1:] == whole[1:] and torch.equal(again[0].head.weight, whole[0].head.weight)


def test_epochs_without_a_validation_count(tmp_path):
    found = train(tmp_path, Loader(), count=9, patience=3, validate=lambda epoch: {"accuracy": 5.0}, validate_every=2)
    assert found[2]["epochs"] == 6, "the best epoch is 1, and epoch 5 is the first validated one three later"


# configured runs


def test_a_configured_run_ends_early_with_its_best_epoch(tmp_path):
    words = ["TRAIN.PATIENCE", "1", "TRAIN.KEEP", "best", "TRAIN.EVAL_EVERY", "1", "OPTIM.LR", "1e-6"]
    words += ["OPTIM.LABEL_SMOOTHING", "0.1", "OPTIM.ACCUMULATE", "2", "DATASET.IMBALANCE", "2"]
    cfg = config(tmp_path, *words, "OPTIM.CLASS_WEIGHTS", "inverse")
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["epochs"] == result["best_epoch"] + 2 < 6
    kept = load_checkpoint(tmp_path / "run/last.ckpt") if (tmp_path / "run/last.ckpt").exists() else None
    assert kept is None or kept["patience"]["best"] == result["best_epoch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["TRAIN.PATIENCE", "2"], "TRAIN.PATIENCE 2 needs evaluations on the validation images: set TRAIN.EVAL_EVERY"),
        (["TRAIN.PATIENCE", "2", "TRAIN.EVAL_EVERY", "1", "DATASET.VALIDATION", "none"], "has no val images"),
        (["METHOD.NAME", "knn", "OPTIM.LABEL_SMOOTHING", "0.1"], "but knn learns nothing step by step here"),
        (
            ["OPTIM.EPOCHS", "0", "OPTIM.CLASS_WEIGHTS", "inverse"],
            'step by step here; set OPTIM.CLASS_WEIGHTS ""',
        ),
    ],
)
def test_what_a_run_cannot_heed_is_refused(tmp_path, words, said):
    cfg = config(tmp_path, *words)
    with RunFolder(cfg.OUTPUT_DIR) as folder, pytest.raises(InputError, match=said):
        run(cfg, FAMILIES, folder, progress=False)
