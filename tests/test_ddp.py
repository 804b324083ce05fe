"""One run in two processes, each with half of every batch: it ends as one process with whole batches does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from promptvision.data.loader import TrainLoader
from promptvision.engine.distributed import check, sum_gradients
from promptvision.errors import InputError
from promptvision.method import Method

ROOT = Path(__file__).parents[1]
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", 4, "OPTIM.EPOCHS", 3, "OPTIM.BATCH_SIZE", 13]
QUICK += ["TRAIN.DEVICE", "cpu"]
ALONE, PAIR = [], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def train(how, config, out, *more):
    words = [sys.executable, *how, "tools/train.py", "--config", f"configs/{config}.yaml", *QUICK, *more]
    words += ["OUTPUT_DIR", out, "--no-page"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, words)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["coop/embedded", "vpt/embedded"])
def test_two_processes_end_as_one(config, tmp_path):
    """Prompts in images, and contexts on features, of which the two compute each once between them."""
    features = config.startswith("coop")
    more = ("INPUT.TRAIN", "coop", "TRAIN.VIEWS", 2, "OPTIM.ACCUMULATE", 2, "OPTIM.CLASS_WEIGHTS", "inverse")
    if not features:
        more = ("TRAIN.EVAL_EVERY", 1, "TRAIN.KEEP", "best", "TRAIN.PATIENCE", 1, "OPTIM.EPOCHS", 9)
    for how, out in ((ALONE, "one"), (PAIR, "two")):
        cache = tmp_path / f"{out}_cache" if features else ""
        done = train(how, config, tmp_path / out, *more, "CACHE_DIR", cache)
        assert done.returncode == 0 and done.stderr.count("INFO Epoch 3/") == 1, done.stderr
        files = [file.suffix for file in (tmp_path / f"{out}_cache").glob("features/*")]
        assert files == [".safetensors"] * (3 if features else 0), "two views, and the test images"
    one, two = (load_file(tmp_path / out / "learned.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-6, rtol=1e-5)
    rows = [[json.loads(line) for line in (tmp_path / out / "metrics.jsonl").open()] for out in ("one", "two")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    losses = [[row["loss"] for row in each if "loss" in row] for each in rows]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    results = [json.loads((tmp_path / out / "result.json").read_text()) for out in ("one", "two")]
    assert results[1]["epochs"] == results[0]["epochs"] and (features or results[0]["epochs"] < 9)
    assert results[1]["accuracy"] == pytest.approx(results[0]["accuracy"], abs=0.2)
    assert (tmp_path / "two/log.txt").read_text().count("Started:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["co_prompt", "mma_pp"])
def test_two_processes_draw_the_same_texts(name, tmp_path):
    more = ("OPTIM.EPOCHS", 1, "OPTIM.WARMUP_EPOCHS", 0, "INPUT.TRAIN", "coop", "TRAIN.CACHE", "off")
    if name == "mma_pp":
        more += ("METHOD.OPTIONS.DROPOUT", 0.0)
    for how, out in ((ALONE, "one"), (PAIR, "two")):
        done = train(how, f"coop/embedded_{name}", tmp_path / out, *more)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / out / "learned.safetensors") for out in ("one", "two"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=2e-6, rtol=1e-5, msg=key)


def items(count):
    return [(str(number), 0, "a") for number in range(count)]


def test_parts_of_a_batch_are_the_batch():
    loaders = [
        TrainLoader(items(20), None, None, batch_size=7, seed=3, part=part) for part in ((0, 1), (0, 3), (1, 3), (2, 3))
    ]
    whole, *parts = (loader.batches(5) for loader in loaders)
    assert [sorted(sum(batch, [])) for batch in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]
    assert {len(loader) for loader in loaders} == {2}


class Linear(Method):
    def __init__(self, head):
        super().__init__(nn.Identity(), ["a"])
        self.head = head


@pytest.fixture
def team_of_one(tmp_path, monkeypatch):
    """A team, so that its rules can be asked; its size is told wrongly."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    yield
    dist.destroy_process_group()


def test_what_cannot_be_shared_is_refused(team_of_one):
    check(Linear(nn.Linear(1, 1)), 2)
    with pytest.raises(InputError, match="2 processes cannot share batches of 1"):
        check(Linear(nn.Linear(1, 1)), 1)
    with pytest.raises(InputError, match="Linear has a batch norm in training mode"):
        check(Linear(nn.BatchNorm1d(1)), 2)
    method = Linear(nn.Linear(1, 1))
    method.loss_is_mean = False
    with pytest.raises(InputError, match="not a mean over the images"):
        check(method, 2)


def test_a_tensor_that_no_process_has_a_gradient_of_stays_without(team_of_one):
    """The optimiser then leaves it as it is, as the classifier of 2SFS in the first stage."""
    learning, waiting = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    (3 * learning).sum().backward()
    sum_gradients([learning, waiting])
    assert learning.grad.tolist() == [3, 3] and waiting.grad is None
