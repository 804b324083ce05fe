"""The presets of class-incremental streams say what LAMDA-PILOT's and RanPAC's settings say."""

import shlex
from pathlib import Path

import pytest

import coop
import vpt
from promptvision.config import load_config
from promptvision.experiment.schedule import rates

ROOT = Path(__file__).parents[1]
IN21K, IN1K = "vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k_ft_in1k"
FIRST_TASK = (0.01, 5e-4, 20, 48)
"""Rate, decay, epochs and batch."""
PRESETS = {
    "simple_cil_cifar100": (IN21K, "coop", None),
    "simple_cil_imagenet_r": (IN1K, "l2p", None),
    "ran_pac_cifar100": (IN21K, "coop", FIRST_TASK),
    "ran_pac_cifar100_frozen": (IN21K, "coop", None),
    "ran_pac_imagenet_r": (IN1K, "l2p", FIRST_TASK),
    "ran_pac_imagenet_r_frozen": (IN1K, "l2p", None),
    "aper_cifar100": (IN21K, "l2p", FIRST_TASK),
    "aper_vpt_deep_cifar100": (IN21K, "l2p", FIRST_TASK),
    "aper_imagenet_r": (IN21K, "l2p", (0.05, 5e-3, 10, 16)),
    "ease_cifar100": (IN21K, "l2p", (0.025, 5e-4, 20, 48)),
    "ease_imagenet_r": (IN21K, "l2p", (0.05, 5e-3, 20, 16)),
}
"""Preset: backbone, recipe of test images, and what tunes the first task."""
EMBEDDED = ("embedded_simple_cil", "embedded_aper", "embedded_ran_pac", "embedded_ease")


def load(name, *words):
    return load_config(ROOT / name, words, {"coop": coop, "vpt": vpt})


@pytest.mark.parametrize("name", PRESETS)
def test_streams_are_set_as_published(name):
    cfg, (backbone, test, _) = load(f"configs/vpt/{name}.yaml"), PRESETS[name]
    assert backbone == cfg.BACKBONE.NAME and test == cfg.INPUT.TEST
    assert cfg.INPUT.MEAN == [0, 0, 0] and cfg.INPUT.STD == [1, 1, 1] and cfg.INPUT.TRAIN == "l2p"
    assert (cfg.CONTINUAL.TASKS, cfg.CONTINUAL.SEED, cfg.CONTINUAL.COMPETE) == (10, 1993, "seen")
    assert ("train+val" in cfg.DATASET.TRAIN) == ("cifar" in name) and cfg.CONTINUAL.CLASS_MASK


@pytest.mark.parametrize("name", [name for name, (*_, train) in PRESETS.items() if train])
def test_training_is_set_as_published(name):
    cfg = load(f"configs/vpt/{name}.yaml")
    options, optim, each = cfg.METHOD.OPTIONS, cfg.OPTIM, rates(cfg)
    assert PRESETS[name][-1] == (optim.LR, optim.WEIGHT_DECAY, optim.EPOCHS, optim.BATCH_SIZE)
    assert (optim.NAME, optim.MOMENTUM, optim.DROP_LAST) == ("sgd", 0.9, False)
    assert each[0] == optim.LR and each[optim.EPOCHS // 2] == pytest.approx(optim.LR / 2)
    if options.get("HOST") == "prompt":
        assert (options.NUM_TOKENS, options.DEEP) == (5, True)
    if "ease" in name or options.get("HOST") == "adapter":
        assert (options.BOTTLENECK, options.SCALE, options.DROPOUT) == (64, 0.1, 0.1)
        assert options.get("PARALLEL", True) and options.get("READS", "stream") == "stream"
    if "ease" in name:
        assert (options.ALPHA, options.BETA) == (0.1, 0.0)
    else:
        assert options.HEAD_INIT == "cosine"


def test_ran_pac_projects_to_ten_thousand():
    hosts = {name: load(f"configs/vpt/{name}.yaml").METHOD.OPTIONS for name in PRESETS if "ran_pac" in name}
    assert {options.PROJECTION for options in hosts.values()} == {10000}
    assert [options.HOST for options in hosts.values()] == ["adapter", "none", "ssf", "none"]


@pytest.mark.parametrize("name", [*PRESETS, *EMBEDDED])
def test_the_first_comment_holds_a_command_that_is_understood(name):
    first = (ROOT / f"configs/vpt/{name}.yaml").read_text().partition("\n")[0]
    words = shlex.split(first[first.index("python") :])
    assert first.startswith("#") and words[1:4] == ["tools/train.py", "--config", f"configs/vpt/{name}.yaml"]
    assert load(words[3], *words[4:]).OUTPUT_DIR.startswith("out/")
