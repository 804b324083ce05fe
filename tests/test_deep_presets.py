"""The presets of prompts in both towers say what the official ones say (facts of their repositories' configs)."""

from pathlib import Path

import pytest

import coop
from promptvision.config import load_config
from promptvision.experiment.schedule import rates

ROOT = Path(__file__).parents[1]
WORDS = "a photo of a"
PRESETS = {  # file: method, learning rate, epochs, options
    "maple_vit_b16_c2_ep5_batch4_2ctx": ("maple", 0.0035, 5, dict(N_CTX=2, DEPTH=9)),
    "maple_vit_b16_c2_ep5_batch4_2ctx_cross_datasets": ("maple", 0.0026, 2, dict(N_CTX=2, DEPTH=3)),
    "co_prompt_vit_b16_c2_ep8_batch4_2ctx": (
        "co_prompt",
        0.0035,
        8,
        dict(N_CTX=2, DEPTH=9, WEIGHT=1, IMAGE_RATIO=0.1, TEXT_RATIO=0.2, REDUCTION=4, SAME_TEXT=True),
    ),
    "ivlp_vit_b16_c2_ep5_batch4_2_2ctx": (
        "ivlp",
        0.0035,
        5,
        dict(N_CTX_TEXT=2, N_CTX_VISION=2, DEPTH_TEXT=12, DEPTH_VISION=12),
    ),
    "ivlp_vit_b16_c2_ep5_batch4_4ctx_language_only": (
        "ivlp",
        0.0025,
        5,
        dict(N_CTX_TEXT=4, DEPTH_TEXT=12, DEPTH_VISION=0),
    ),
    "ivlp_vit_b16_c2_ep20_batch4_4_4ctx": (
        "ivlp",
        0.0025,
        20,
        dict(N_CTX_TEXT=4, N_CTX_VISION=4, DEPTH_TEXT=9, DEPTH_VISION=9),
    ),
}
WEIGHTS = dict(N_CTX_TEXT=4, N_CTX_VISION=4, TEXT_WEIGHT=25, IMAGE_WEIGHT=10, LOGITS_WEIGHT=1)
SRC = "prompt_src_vit_b16_c2_ep{}_batch4_4_4ctx{}"
PRESETS |= {
    SRC.format(20, ""): (
        "prompt_src",
        0.0025,
        20,
        dict(DEPTH_TEXT=9, DEPTH_VISION=9, GPA_MEAN=15, GPA_STD=1) | WEIGHTS,
    ),
    SRC.format(20, "_cross_datasets"): (
        "prompt_src",
        0.0025,
        20,
        dict(DEPTH_TEXT=3, DEPTH_VISION=3, GPA_MEAN=6, GPA_STD=10) | WEIGHTS,
    ),
    SRC.format(50, "_few_shot"): (
        "prompt_src",
        0.0025,
        50,
        dict(DEPTH_TEXT=9, DEPTH_VISION=9, GPA_MEAN=30, GPA_STD=30) | WEIGHTS,
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_official_ones(name):
    method, rate, epochs, options = PRESETS[name]
    cfg = load_config(ROOT / f"configs/coop/{name}.yaml", [], {"coop": coop})
    optim, each = cfg.OPTIM, rates(cfg)
    expected = (method, "ViT-B-16", "openai", rate, epochs, 4)
    found = (cfg.METHOD.NAME, cfg.BACKBONE.NAME, cfg.BACKBONE.PRETRAINED, optim.LR, optim.EPOCHS, optim.BATCH_SIZE)
    assert found == expected
    assert (optim.NAME, optim.MOMENTUM, optim.WEIGHT_DECAY) == ("sgd", 0.9, 5e-4)
    assert each[:2] == [1e-5, rate] and len(each) == epochs
    assert {key: cfg.METHOD.OPTIONS[key] for key in options} == options
    assert cfg.METHOD.OPTIONS.CTX_INIT == WORDS and cfg.COMPUTE.WAY == "auto"
    assert (cfg.INPUT.SIZE, cfg.DATASET.SHOTS, cfg.TEST.BATCH_SIZE) == (224, 16, 100)
