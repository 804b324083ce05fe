"""The presets of VPT's table say what its configs say, and their commands are understood."""

import math
import shlex
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

import coop
import vpt
from promptvision.config import load_config
from promptvision.experiment.schedule import rates

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
RIVALS = ("linear", "mlp3", "side", "bias", "partial1", "adapter", "full")
LINEAR, FINETUNE = ("sgd", 10, 1024), ("vpt_adamw", 5, 384)
"""Optimiser, epochs of warm-up and batch of KMnP/vpt's configs base-linear and base-finetune."""
QUERIES = ("vfpt", "e2vpt", "vqt", "dtl", "dtl_plus")
STUDY = ("ln", "bitfit", "diff_fit", "houlsby", "pfeiffer", "adaptformer_vtab1k")
"""Presets of arXiv:2409.16434."""
EMBEDDED = (
    *("mlp", "partial", "bias", "ln", "diff_fit", "ssf", "fact", "adapter", "lora", "side", "full", "knn"),
    *("vfpt", "e2vpt", "vqt", "dtl", "convpass", "repadapter"),
)


def load(name, *words):
    return load_config(ROOT / name, words, FAMILIES)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_are_set_as_published(name):
    cfg = load(f"configs/vpt/vit_b16_{name}.yaml")
    optim = cfg.OPTIM
    found = (optim.NAME, optim.WARMUP_EPOCHS, optim.BATCH_SIZE)
    assert found == (LINEAR if name in ("linear", "mlp3", "side") else FINETUNE)
    assert (optim.EPOCHS, optim.MOMENTUM, optim.SCHEDULE, optim.SCALE_LR) == (100, 0.9, "vpt_cosine", True)
    assert cfg.METHOD.OPTIONS.HEAD_INIT == "published"
    assert cfg.BACKBONE.NAME == "vit_base_patch16_224.orig_in21k" and cfg.DATASET.SHOTS == 0
    assert cfg.INPUT.MEAN == [0.485, 0.456, 0.406] and (cfg.INPUT.TRAIN, cfg.INPUT.TEST) == ("vtab", "vtab")
    each = rates(cfg)
    assert each[0] == 0 and max(each) == pytest.approx(optim.LR / 256 * optim.BATCH_SIZE)


def test_the_options_that_make_each_rival():
    options = {name: load(f"configs/vpt/vit_b16_{name}.yaml").METHOD.OPTIONS for name in RIVALS}
    assert options["mlp3"].HIDDEN_LAYERS == 2
    assert options["partial1"].BLOCKS == 1
    assert (options["adapter"].REDUCTION, options["adapter"].INIT) == (8, "published")
    assert options["full"].DROPOUT == 0.1
    assert options["side"].SIDE_WEIGHTS == "default"


def test_adapt_former_is_set_as_in_its_image_runs():
    """main_image.py: 64 units, rate 0.1 per 256 images from 0 over 20 of 100 epochs, 48 steps each, then a cosine."""
    cfg = load("configs/vpt/vit_b16_adaptformer.yaml")
    options, each = cfg.METHOD.OPTIONS, rates(cfg, 48)
    assert options.BOTTLENECK == 64 and options.PARALLEL and options.READS == "stream"
    assert (options.SCALE, options.LEARNED_SCALE, options.NORM, options.DROPOUT) == (0.1, False, "none", 0.1)
    assert options.HEAD_NORM and (cfg.OPTIM.NAME, cfg.OPTIM.MOMENTUM, cfg.OPTIM.WEIGHT_DECAY) == ("sgd", 0.9, 0.0)
    assert len(each) == 4800 and each[0] == 0 and each[480] == pytest.approx(0.2)
    assert max(each) == each[960] == pytest.approx(0.4) and each[2880] == pytest.approx(0.2)


BY_TASK = {
    "ssf": (
        ("OPTIM.LR", "OPTIM.WEIGHT_DECAY", "METHOD.OPTIONS.DROP_PATH"),
        "caltech101 1e-3/5e-2/0.1 cifar100 5e-3/5e-5/0 clevr_count 2e-3/5e-2/0.1 clevr_distance 5e-2/5e-2/0.1 "
        "diabetic_retinopathy 5e-3/5e-5/0.2 dmlab 5e-3/5e-5/0.1 dsprites_location 1e-2/5e-5/0 dsprites_orientation "
        "5e-3/5e-5/0.2 dtd 5e-3/5e-5/0 eurosat 3e-3/5e-2/0.2 oxford_flowers102 5e-3/5e-5/0 kitti_distance 1e-2/5e-5/0 "
        "patch_camelyon 5e-3/5e-5/0 oxford_iiit_pet 5e-3/5e-5/0 resisc45 2e-3/5e-5/0.1 smallnorb_azimuth 2e-2/5e-5/0.1 "
        "smallnorb_elevation 5e-3/5e-2/0.2 sun397 5e-3/5e-5/0 svhn 1e-2/5e-5/0 ",
    ),
    "fact_tt": (
        ("METHOD.OPTIONS.RANK", "METHOD.OPTIONS.SCALE"),
        "caltech101 16/10 cifar100 8/1 clevr_count 16/1 clevr_distance 4/10 diabetic_retinopathy 8/1 dmlab 16/10 "
        "dsprites_location 16/100 dsprites_orientation 16/1 dtd 8/0.01 eurosat 8/100 kitti_distance 16/10 "
        "oxford_flowers102 16/1 oxford_iiit_pet 8/1 patch_camelyon 8/10 resisc45 8/0.1 smallnorb_azimuth 16/100 "
        "smallnorb_elevation 8/10 sun397 8/1 svhn 16/100 ",
    ),
    "fact_tk": (
        ("METHOD.OPTIONS.RANK", "METHOD.OPTIONS.SCALE"),
        "caltech101 32/10 cifar100 32/0.1 clevr_count 32/10 clevr_distance 16/10 diabetic_retinopathy 16/1 dmlab "
        "32/10 dsprites_location 32/100 dsprites_orientation 32/1 dtd 16/0.01 eurosat 32/100 kitti_distance 32/10 "
        "oxford_flowers102 32/1 oxford_iiit_pet 16/10 patch_camelyon 32/10 resisc45 32/10 smallnorb_azimuth 32/100 "
        "smallnorb_elevation 16/10 sun397 16/1 svhn 32/100 ",
    ),
    "convpass": (
        ("METHOD.OPTIONS.SCALE", "METHOD.OPTIONS.INIT"),
        "caltech101 1/delta cifar100 0.1/delta clevr_count 1/delta clevr_distance 0.1/xavier diabetic_retinopathy "
        "1/delta dmlab 10/delta dsprites_location 100/xavier dsprites_orientation 0.1/xavier dtd 0.01/xavier eurosat "
        "10/delta kitti_distance 10/xavier oxford_flowers102 0.1/xavier oxford_iiit_pet 1/xavier patch_camelyon "
        "10/delta resisc45 10/delta smallnorb_azimuth 100/xavier smallnorb_elevation 1/xavier sun397 0.1/delta svhn "
        "100/xavier ",
    ),
    "repadapter": (
        ("METHOD.OPTIONS.SCALE",),
        "caltech101 5 cifar100 0.1 clevr_count 0.5 clevr_distance 0.1 diabetic_retinopathy 0.1 dmlab 5 "
        "dsprites_location 5 dsprites_orientation 0.1 dtd 1 eurosat 1 kitti_distance 5 oxford_flowers102 0.5 "
        "oxford_iiit_pet 0.1 patch_camelyon 1 resisc45 5 smallnorb_azimuth 10 smallnorb_elevation 1 sun397 0.1 svhn "
        "10 ",
    ),
}
"""Keys and their published values on each task of VTAB-1k (SSF, JieShibo/PETL-ViT, luogen1996/RepAdapter)."""


@pytest.mark.parametrize("name", BY_TASK)
def test_settings_of_each_task_are_those_of_the_official_code(name):
    keys, text = BY_TASK[name]
    tasks = dict(zip(text.split()[::2], text.split()[1::2], strict=True))
    assert len(tasks) == 19
    for task, values in tasks.items():
        cfg = load(f"configs/vpt/vit_b16_{name}.yaml", "DATASET.NAME", f"vtab_{task}")
        found = [reduce(getitem, key.split("."), cfg) for key in keys]
        assert found == [float(value) if value[0].isdigit() else value for value in values.split("/")], task


def test_ssf_has_rates_of_its_own_on_fine_grained_images():
    wanted = {"cub": 1e-2, "nabirds": 2e-4, "oxford_flowers": 1e-2, "stanford_cars": 2e-2, "stanford_dogs": 2.5e-4}
    for task, rate in wanted.items():
        cfg = load("configs/vpt/vit_b16_ssf.yaml", "DATASET.NAME", f"fgvc_{task}")
        found = cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY, cfg.INPUT.TRAIN, cfg.INPUT.TEST
        assert found == (rate, 5e-2, "fgvc", "fgvc")


@pytest.mark.parametrize("name", ["fact_tt", "fact_tk", "convpass", "repadapter"])
def test_training_is_as_in_petl_vit(name):
    cfg = load(f"configs/vpt/vit_b16_{name}.yaml")
    optim, each = cfg.OPTIM, rates(cfg)
    assert (optim.NAME, optim.LR, optim.WEIGHT_DECAY, optim.BATCH_SIZE) == ("adamw", 1e-3, 1e-4, 64)
    assert each[:2] == [1e-6, 1e-6] and max(each) == pytest.approx(9.76e-4, rel=1e-3) and len(each) == 100
    assert (cfg.TRAIN.KEEP, cfg.TRAIN.EVAL_EVERY, cfg.DATASET.TRAIN, optim.DROP_LAST) == (
        "best_test",
        10,
        "train+val",
        True,
    )
    assert (cfg.METHOD.OPTIONS.DROPOUT, cfg.METHOD.OPTIONS.DROP_PATH) == (0.1, 0.1)


@pytest.mark.parametrize("name", STUDY)
def test_the_study_of_vit_peft_vision_has_one_protocol(name):
    """timm's rates: 1e-6 in the first of 10 epochs of warm-up, then a cosine of 100 epochs that counts them."""
    cfg = load(f"configs/vpt/vit_b16_{name}.yaml")
    optim, each = cfg.OPTIM, rates(cfg)
    assert (optim.NAME, optim.WEIGHT_DECAY, optim.BATCH_SIZE, optim.SCALE_LR) == ("adamw", 1e-4, 64, False)
    assert cfg.METHOD.OPTIONS.DROP_PATH == 0.1
    assert cfg.INPUT.MEAN == [0, 0, 0] and cfg.INPUT.STD == [1, 1, 1]
    assert (cfg.INPUT.TRAIN, cfg.INPUT.TEST, cfg.TRAIN.KEEP) == ("petl", "petl", "last")
    assert each[:2] == pytest.approx([1e-6, 1e-6 + 0.1 * 9.99e-4])
    assert each[10] == max(each) == pytest.approx(1e-5 + 9.9e-4 * (1 + math.cos(math.pi / 10)) / 2)
    assert len(each) == 100 and each[-1] == pytest.approx(1e-5 + 9.9e-4 * (1 + math.cos(0.99 * math.pi)) / 2)


@pytest.mark.parametrize(
    ("name", "length", "rate", "epochs", "port", "votes"),
    [
        ("cifar100", 5, 0.03, 5, False, True),
        ("cifar100_port", 5, 0.03, 5, True, True),
        ("imagenet_r", 20, 0.005, 50, False, False),
        ("imagenet_r_port", 20, 0.005, 50, True, False),
    ],
)
def test_dual_prompt_is_set_as_in_both_codes(name, length, rate, epochs, port, votes):
    cfg = load(f"configs/vpt/dual_prompt_{name}.yaml")
    wanted = {"G_LAYERS": [0, 1], "E_LAYERS": [2, 3, 4], "G_LENGTH": 5, "E_LENGTH": length, "SIZE": 10, "PULL": 1.0}
    wanted |= {"SHARED_POOL": True, "WHOLE_POOL": True, "PORT_RESHAPE": port, "BATCHWISE_TEST": votes}
    wanted |= dict.fromkeys(("INIT", "HEAD_INIT"), "port" if port else "original")
    assert dict(cfg.METHOD.OPTIONS) == wanted
    found = cfg.OPTIM.LR * 256 / 24, cfg.OPTIM.EPOCHS, cfg.OPTIM.CLIP
    assert found == pytest.approx((rate, epochs, 1.0))
    assert (cfg.CONTINUAL.TASKS, cfg.CONTINUAL.CLASS_MASK, cfg.CONTINUAL.COMPETE) == (10, True, "all")


@pytest.mark.parametrize("name", ["l2p_cifar100", "l2p_cifar100_port", "l2p_5datasets", "dual_prompt_cifar100"])
def test_streams_train_on_all_training_images_as_in_their_codes(name):
    assert load(f"configs/vpt/{name}.yaml").DATASET.TRAIN == "train+val"


@pytest.mark.parametrize(("name", "epochs"), [("cifar100", 20), ("imagenet_r", 50)])
def test_coda_prompt_is_set_as_in_the_released_commands(name, epochs):
    cfg = load(f"configs/vpt/coda_prompt_{name}.yaml")
    options, each = cfg.METHOD.OPTIONS, rates(cfg)
    assert (options.SIZE, options.LENGTH, options.ORTHO, options.LAYERS) == (100, 8, 0.0, [0, 1, 2, 3, 4])
    assert (cfg.OPTIM.NAME, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.WEIGHT_DECAY) == ("adam", 128, 0.0)
    assert len(each) == epochs and each[:2] == [0.001, 0.001] and 0 < each[-1] < 2e-4
    assert cfg.CONTINUAL.COMPETE == "seen" and (cfg.INPUT.TRAIN, cfg.INPUT.TEST) == ("coda", "coda")


@pytest.mark.parametrize(
    "name",
    [
        *(f"vit_b16_{rival}" for rival in (*RIVALS, "adaptformer", "lora", *QUERIES, *STUDY, *BY_TASK)),
        *(f"embedded_{m}" for m in EMBEDDED),
    ],
)
def test_the_first_comment_holds_a_command_that_is_understood(name):
    first = (ROOT / f"configs/vpt/{name}.yaml").read_text().partition("\n")[0]
    words = shlex.split(first[first.index("python") :])
    assert first.startswith("#") and words[1:4] == ["tools/train.py", "--config", f"configs/vpt/{name}.yaml"]
    assert load(words[3], *words[4:]).OUTPUT_DIR.startswith("out/")
