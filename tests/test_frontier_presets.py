"""The presets of methods on CLIP since 2024 have the published settings of each protocol and dataset."""

from pathlib import Path

import pytest

import coop
from promptvision.config import load_config
from promptvision.experiment.schedule import rates

ROOT = Path(__file__).parents[1]
SETS = "imagenet caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101"
SETS = SETS.split()
SGD, ADAMW = ("sgd", 0.9, 5e-4, "coop"), ("adamw", 0.9, 5e-4, "tip_adapter")
"""Optimiser, momentum, decay, and recipe of training images: crops of 0.08 to 1 of an image, or of 0.5 to 1."""
TRAINING = {  # preset: SGD or ADAMW, rate, batch, epochs (of some datasets others), warm-up (ViT-B/16, cosine)
    "vit_b16_mma_pp": (SGD, 0.3, 16, 50, False),
    "vit_b16_mma_pp_texts": (SGD, 0.2, 16, 50, False),
    "vit_b16_mma_pp_cross_datasets": (SGD, 0.3, 16, 15, False),
    "vit_b16_mmrl": (ADAMW, 1e-3, (4, 32), (10, "imagenet", 5), True),
    "vit_b16_mmrl_few_shot": (ADAMW, 1e-3, 32, (50, "imagenet", 5), True),
    "vit_b16_mmrl_cross_datasets": (ADAMW, 1e-3, 32, 1, False),
    "vit_b16_mmrl_pp": (ADAMW, 1e-3, (4, 32), (10, "imagenet", 5), True),
    "vit_b16_mmrl_pp_few_shot": (ADAMW, (2e-3, 1e-3), 32, (100, "imagenet", 5), True),
    "vit_b16_mmrl_pp_cross_datasets": (ADAMW, 1e-3, 32, 1, False),
    "vit_b16_dept_coop": (SGD, 0.0035, 4, 10, True),
    "vit_b16_dept_kg_coop": (SGD, 0.0035, 4, 10, True),
    "vit_b16_dept_maple": (SGD, 0.0035, 4, 10, True),
    "vit_b16_dept_cocoop": (SGD, 0.002, 1, 10, True),
    "vit_b16_dept_prompt_src": (SGD, 0.0025, 4, 20, True),
    "vit_b16_dept_prompt_src_cross_datasets": (SGD, 0.0025, 4, 20, True),
    "vit_b16_dept_at_prompt": (SGD, 0.0035, 4, 10, True),
    "vit_b16_at_prompt_coop": (SGD, 0.002, 32, (100, "imagenet", 10), True),
    "vit_b16_at_prompt_coop_cross_datasets": (SGD, 0.002, 32, 10, True),
    "vit_b16_at_prompt_cocoop": (SGD, 0.002, 1, 10, True),
    "vit_b16_at_prompt_cocoop_cross_datasets": (SGD, 0.002, 1, 5, True),
    "vit_b16_at_prompt_maple": (SGD, 0.0035, 4, (5, "caltech101 oxford_pets oxford_flowers eurosat", 10), True),
    "vit_b16_at_prompt_maple_cross_datasets": (SGD, 0.0035, 4, 2, True),
}
MMA = dict(LAYERS=[*range(4, 12)], DIM=32, TRAIN_SCALE=0.01)
MMRL = dict(N_TOKENS=5, LAYERS=[*range(5, 12)], DIM=512, ALPHA=0.7, LOGIT_SCALE=100.0, TEMPLATES=[])
PLUS = MMRL | dict(RANK=64, ALIGNER_RANK=4)
DEPT = dict(LINEAR_WEIGHT=0.7, RATE_FACTOR=6.5)
DEEP = dict(N_CTX_TEXT=4, N_CTX_VISION=4, DEPTH_TEXT=9, DEPTH_VISION=9, TEXT_WEIGHT=25, IMAGE_WEIGHT=10, GPA_MEAN=15)
AT, WORDS = dict(N_ATT=0, ONE_TOKEN=True), "a photo of a"
OPTIONS = {  # those that all datasets share
    "vit_b16_mma_pp": MMA | dict(WEIGHT=2.5, TEST_SCALE=0.0065, DROPOUT=0.2, ENSEMBLE="imagenet"),
    "vit_b16_mma_pp_texts": MMA | dict(WEIGHT=2.5, TEST_SCALE=0.0065, DROPOUT=0.1),
    "vit_b16_mma_pp_cross_datasets": MMA | dict(WEIGHT=1.0, TEST_SCALE=0.005, DROPOUT=0.1),
    "vit_b16_mmrl": {key: MMRL[key] for key in MMRL if key != "DIM"} | dict(COPY_PROJECTION=False, FUSE=True),
    "vit_b16_mmrl_cross_datasets": MMRL | dict(COPY_PROJECTION=False, WEIGHT=0.2, FUSE=True),
    "vit_b16_mmrl_pp": PLUS | dict(FUSE=True),
    "vit_b16_mmrl_pp_few_shot": PLUS | dict(FUSE=True),
    "vit_b16_mmrl_pp_cross_datasets": PLUS | dict(WEIGHT=0.1),
    "vit_b16_dept_coop": DEPT | dict(HOST="coop", N_CTX=16, CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end"),
    "vit_b16_dept_kg_coop": DEPT | dict(HOST="kg_coop", N_CTX=4, CTX_INIT=WORDS, WEIGHT=4.0),
    "vit_b16_dept_maple": DEPT | dict(HOST="maple", N_CTX=2, DEPTH=9, CTX_INIT=WORDS),
    "vit_b16_dept_cocoop": DEPT | dict(HOST="cocoop", N_CTX=4, CTX_INIT=WORDS),
    "vit_b16_dept_prompt_src": DEPT | DEEP | dict(HOST="prompt_src", GPA_STD=1, CTX_INIT=WORDS),
    "vit_b16_dept_prompt_src_cross_datasets": DEPT | dict(HOST="prompt_src", DEPTH_TEXT=3, DEPTH_VISION=3, GPA_MEAN=6),
    "vit_b16_dept_at_prompt": AT | dict(HOST="at_prompt", RATE_FACTOR=1.0, CTX_INIT="", CSC=False),
    "vit_b16_at_prompt_coop": AT | dict(HOST="coop", CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end"),
    "vit_b16_at_prompt_coop_cross_datasets": AT | dict(HOST="coop", N_CTX=4, ATTRIBUTES=["color", "shape"]),
    "vit_b16_at_prompt_cocoop": AT | dict(HOST="cocoop", CTX_INIT=""),
    "vit_b16_at_prompt_cocoop_cross_datasets": AT | dict(HOST="cocoop", N_CTX=4, ATTRIBUTES=["color", "shape"]),
    "vit_b16_at_prompt_maple": AT | dict(HOST="maple", DEPTH=9, CTX_INIT=""),
    "vit_b16_at_prompt_maple_cross_datasets": AT
    | dict(HOST="maple", DEPTH=9, N_CTX=4, CTX_INIT="", ATTRIBUTES=["color", "shape"]),
}
OPTIONS["vit_b16_mmrl_few_shot"] = OPTIONS["vit_b16_mmrl"]
ATTRIBUTES = (
    "color,shape shape,size playfulness,energy luxury color,habitat,growth flavor,preparation design,range function "
    "pattern,color,design habitat precision"
)
BY_SET = {  # an option of a preset on each of SETS, in their order
    ("vit_b16_mmrl", "WEIGHT"): "0.5 0.5 0.2 7 4 5 6 6 6 0.01 3",
    ("vit_b16_mmrl", "DIM"): "512 512 512 512 512 512 512 512 512 2048 512",
    ("vit_b16_mmrl_pp", "BETA"): "0.9 0.6 0.7 0.7 0.4 0.1 0.9 0.5 0.9 0.2 0.9",
    ("vit_b16_mmrl_pp", "WEIGHT"): "0.2 3 0.01 6 7 1 2 3 7 0.01 3",
    ("vit_b16_mmrl_pp_cross_datasets", "BETA"): "0.9 0.6 0.6 0.3 0.4 0.3 0.9 0.7 0.5 0.3 0.9",
    ("vit_b16_at_prompt_coop", "N_CTX"): "2 2 2 2 2 2 2 2 4 2 2",
    ("vit_b16_at_prompt_coop", "ATTRIBUTES"): ATTRIBUTES,
    ("vit_b16_at_prompt_cocoop", "N_CTX"): "2 2 2 6 6 2 2 2 2 6 4",
    ("vit_b16_at_prompt_cocoop", "ATTRIBUTES"): ATTRIBUTES,
    ("vit_b16_at_prompt_maple", "N_CTX"): "4 4 4 4 4 4 2 4 4 4 2",
    ("vit_b16_at_prompt_maple", "ATTRIBUTES"): ATTRIBUTES,
    ("vit_b16_dept_at_prompt", "N_CTX"): "4 4 2 2 4 4 4 4 4 4 4",
    ("vit_b16_dept_at_prompt", "ATTRIBUTES"): ATTRIBUTES,
    ("vit_b16_dept_at_prompt", "LINEAR_WEIGHT"): "0.7 0.6 0.7 0.6 0.7 0.7 0.7 0.7 0.6 0.7 0.5",
}
BY_SET |= {(f"{name}_few_shot", key): BY_SET[name, key] for name in ("vit_b16_mmrl", "vit_b16_mmrl_pp")
           for key in ("WEIGHT", "DIM", "BETA") if (name, key) in BY_SET}  # fmt: skip


def load(preset, dataset, *words):
    return load_config(ROOT / f"configs/coop/{preset}.yaml", ["DATASET.NAME", dataset, *words], {"coop": coop})


def of_set(value, dataset):
    """A value that some datasets have another one of: (usual, their names, theirs), (usual, ImageNet's), or all's."""
    usual, names, theirs = value if len(value) == 3 else (value[0], "imagenet", value[1])
    return theirs if dataset in names.split() else usual


@pytest.mark.parametrize("preset", TRAINING)
def test_training_is_as_published(preset):
    kind, *of_sets, warm_up = TRAINING[preset]
    for dataset in SETS:
        cfg = load(preset, dataset)
        optim, data = cfg.OPTIM, cfg.DATASET
        rate, batch, epochs = (of_set(each, dataset) if isinstance(each, tuple) else each for each in of_sets)
        assert kind == (optim.NAME, optim.MOMENTUM, optim.WEIGHT_DECAY, cfg.INPUT.TRAIN)
        assert (rate, batch, epochs, "last") == (optim.LR, optim.BATCH_SIZE, optim.EPOCHS, cfg.TRAIN.KEEP), dataset
        assert (cfg.BACKBONE.NAME, cfg.INPUT.TEST, data.SHOTS, data.VALIDATION) == ("ViT-B-16", "coop", 16, "own")
        each = rates(cfg)
        assert len(each) == epochs and each[0] == (1e-5 if warm_up else rate)
        assert epochs == 1 or (each[1] == rate if warm_up else each[1] < rate)


@pytest.mark.parametrize("preset", OPTIONS)
def test_options_are_as_published(preset):
    for dataset in SETS:
        options = load(preset, dataset).METHOD.OPTIONS
        assert {key: options[key] for key in OPTIONS[preset]} == OPTIONS[preset], dataset


@pytest.mark.parametrize(("preset", "option"), BY_SET)
def test_settings_of_each_dataset_are_as_published(preset, option):
    for dataset, value in zip(SETS, BY_SET[preset, option].split(), strict=True):
        found = load(preset, dataset).METHOD.OPTIONS[option]
        assert found == (value.split(",") if option == "ATTRIBUTES" else float(value)), dataset


def test_variants_of_imagenet_are_named_as_published():
    """MMRL by the class feature alone, MMRL++ with a beta of each, DePT with its head."""
    betas = dict(imagenet_v2=0.9, imagenet_sketch=0.7, imagenet_a=0.8, imagenet_r=0.9)
    for dataset, beta in betas.items():
        plain, plus = (load(f"vit_b16_{name}_cross_datasets", dataset).METHOD.OPTIONS for name in ("mmrl", "mmrl_pp"))
        assert not plain.FUSE and not plus.FUSE and beta == plus.BETA


TEMPLATES = dict(zip(SETS, (
    "a photo of a {}.", "itap of a {}.", "a bad photo of a {}, a type of pet.", "a photo of the {}, a type of car.",
    "a close-up photo of a {}.", "a photo of the nice {}.", "a bright photo of a {}, a type of aircraft.",
    "a photo of a {}.", "itap of a {}.", "a centered satellite photo of {}.", "a photo of a {}, a type of sport.",
), strict=True)) | {"imagenet_sketch": "a sketch of a {}.", "imagenet_a": "a bad photo of a {}.",
                    "imagenet_r": "a rendition of a {}."}  # fmt: skip


@pytest.mark.parametrize("dataset", TEMPLATES)
def test_templates_of_skip_tuning_are_as_published(dataset):
    for protocol in ("", "_cross_datasets", "_few_shot"):
        assert [TEMPLATES[dataset]] == load(f"skip_tuning_vit_b16{protocol}", dataset).METHOD.OPTIONS.TEMPLATES


@pytest.mark.parametrize("shots", [1, 16])
@pytest.mark.parametrize("dataset", SETS)
def test_lp_plus_plus_validates_on_as_many_images_as_shots(dataset, shots):
    """On ImageNet, which has no validation images, on training images that were not picked."""
    data = load("rn50_lp_plus_plus", dataset, "DATASET.SHOTS", shots).DATASET
    assert ("held_out" if dataset == "imagenet" else "own") == data.VALIDATION and shots <= data.VALIDATION_SHOTS


@pytest.mark.parametrize("preset", ["rn50_gda", "vit_b16_gda", "rn50_lp_plus_plus", "rn50_clap", "vit_b16_two_stage"])
def test_heads_crop_as_published(preset):
    for dataset in SETS:
        cfg = load(preset, dataset)
        crops = "coop" if preset in ("rn50_clap", "vit_b16_two_stage") else "tip_adapter"
        assert (crops, "coop") == (cfg.INPUT.TRAIN, cfg.INPUT.TEST)
        assert cfg.METHOD.OPTIONS.get("TEMPLATES") in ([], ["a photo of a {}."])
