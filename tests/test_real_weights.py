"""Real weights, whose activations have outliers: the folder PROMPTVISION_REAL has the files that docs/results.md names.

A ViT-S/14 (the backbone of a saliency network), EfficientNet-Lite0 of ImageNet, and images of textiles.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vpt
from promptvision.backbones import load_vit
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.run import run
from promptvision.verify.ways import compare_ways

REAL = Path(os.environ.get("PROMPTVISION_REAL", "no such folder"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REAL / "dinov2_s14.safetensors").is_file(), reason="needs the files of PROMPTVISION_REAL"),
]
SHORT = ["INPUT.SIZE", 98, "OPTIM.LR", 0.001, "OPTIM.EPOCHS", 2, "OPTIM.BATCH_SIZE", 2, "TRAIN.THREADS", 1]
PROMPTS = ["METHOD.NAME", "prompt", "METHOD.OPTIONS.NUM_TOKENS", 2, "METHOD.OPTIONS.DEEP", True]


@pytest.fixture(scope="module")
def textiles(tmp_path_factory):
    """Two images of each class for training, one for tests."""
    root = tmp_path_factory.mktemp("real") / "textiles"
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        for kind in ("nominal", "global", "local"):
            (root / split / kind).mkdir(parents=True)
            for file in sorted((REAL / "textiles" / split / kind).iterdir())[:each]:
                shutil.copy(file, root / split / kind)
    return root


@pytest.fixture
def go(textiles, tmp_path):
    """`go("name", *overrides)` trains on the ViT; returns result, rows of metrics and learned tensors."""

    def call(name, *overrides, folder=RunFolder, resume=False):
        (tmp_path / "c.yaml").write_text("METHOD: {FAMILY: vpt, NAME: linear}\nINPUT: {TRAIN: center, TEST: center}")
        data = ["DATASET.NAME", "folder", "DATASET.ROOT", str(textiles), "DATASET.SHOTS", 2]
        words = ["BACKBONE.NAME", str(REAL / "dinov2_s14.safetensors"), *data, *SHORT]
        words += ["CACHE_DIR", str(tmp_path / "cache"), "OUTPUT_DIR", str(tmp_path / name), *overrides]
        with folder(str(tmp_path / name), resume=resume) as opened:
            result = run(load_config(tmp_path / "c.yaml", words, FAMILIES), FAMILIES, opened, progress=False)
            rows = [{key: row[key] for key in row if key != "seconds"} for row in read_rows(opened.metrics)]
        return result, rows, load_file(tmp_path / name / "learned.safetensors")

    return call


class Stopped(RunFolder):
    """Gets a signal after step 4, in the middle of the second epoch."""

    signal = signal.SIGTERM

    def row(self, **values):
        super().row(**values)
        if values["step"] == 4 and not self.resume:
            os.kill(os.getpid(), self.signal)


class Killed(Stopped):
    signal = signal.SIGKILL


@pytest.mark.parametrize(
    ("size", "prompts", "half"), [(98, 1, "fp16"), (98, 50, "bf16"), (126, 10, "bf16"), (224, 10, "bf16")]
)
def test_the_fast_way_is_exact(size, prompts, half):
    """In fp32 measured against float64, in 16 bits against fp32: it errs no more than the plain way does."""
    torch.manual_seed(0)
    tower = load_vit(REAL / "dinov2_s14.safetensors", image_size=size)
    method = vpt.build("prompt", tower, ["a", "b"], num_tokens=prompts, deep=True)
    answer = compare_ways(method, tower, torch.randn(2, 3, size, size), torch.tensor([0, 1]), half)
    assert answer.verdict == "holds", answer


def test_some_channels_are_far_larger_than_most(textiles):
    tower, tokens = load_vit(REAL / "dinov2_s14.safetensors", image_size=98), []
    tower.blocks[9].register_forward_hook(lambda block, given, output: tokens.append(output))
    image = torch.randn(2, 3, 98, 98)
    norms = tower(image).norm(dim=1)
    assert tokens[0].abs().max() > 30 * tokens[0].abs().median() and norms.min() > 35


def test_a_stopped_run_resumes_bit_for_bit(go):
    whole = go("whole", *PROMPTS)
    with pytest.raises(SystemExit, match="143"):
        go("parts", *PROMPTS, folder=Stopped)
    same(go("parts", *PROMPTS, resume=True), whole)


def test_a_killed_run_resumes_bit_for_bit(go):
    every = [*PROMPTS, "TRAIN.CHECKPOINT_EVERY", 1]
    whole, child = go("whole", *every), os.fork()
    if child == 0:
        go("parts", *every, folder=Killed)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    same(go("parts", *every, resume=True), whole)


def same(found, whole):
    (result, rows, learned), (first, first_rows, first_learned) = found, whole
    assert rows == first_rows and result["loss"] == first["loss"] and learned.keys() == first_learned.keys()
    assert all(torch.equal(learned[name], first_learned[name]) for name in learned)


def test_cached_features_change_a_run_by_rounding_only(go):
    """Batches of another size are rounded otherwise; features that are read are, bit for bit, those computed."""
    (_, rows, learned), (_, first, found) = go("off", "TRAIN.CACHE", "off"), go("computed")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in first], rel=1e-5)
    torch.testing.assert_close(found, learned, atol=1e-5, rtol=1e-4)
    _, again, read = go("read")
    assert again == first and all(torch.equal(read[name], found[name]) for name in read)


def test_a_run_in_bf16_learns_nearly_the_same(go):
    (_, single, _), (result, half, _) = go("fp32", *PROMPTS), go("bf16", *PROMPTS, "TRAIN.PRECISION", "bf16")
    losses = [torch.tensor([row["loss"] for row in rows if "loss" in row]) for rows in (single, half)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.0)
    assert result["loss"] > 0


def test_a_run_in_fp16_follows_that_in_fp32(go):
    """Its scaled loss skips steps whose gradients overflow, so that single losses differ, but not most of them."""
    (_, single, _), (_, half, learned) = go("fp32", *PROMPTS), go("fp16", *PROMPTS, "TRAIN.PRECISION", "fp16")
    first, second = (torch.tensor([row["loss"] for row in rows]) for rows in (single, half))
    assert ((second - first).abs() / first).median() < 0.01
    assert all(torch.isfinite(tensor).all() for tensor in learned.values())


def test_a_network_of_imagenet_takes_a_border(go):
    words = ["BACKBONE.NAME", str(REAL / "efficientnet_lite0.safetensors"), "METHOD.NAME", "pad", "INPUT.SIZE", 64]
    _, rows, learned = go("pad", *words)
    assert rows[-1]["loss"] < 3 and torch.isfinite(learned["prompt_embeddings_tb"]).all()
