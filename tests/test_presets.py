"""Every config loads, and the presets say what the official ones say."""

import re
import shlex
from pathlib import Path

import pytest

import coop
import vpt
from coop.parts.teacher import ENSEMBLES
from promptvision.config import load_config
from promptvision.experiment.schedule import rates
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
CONFIGS = [name for name in CONFIGS if "/grids/" not in name and "/benchmarks/" not in name]
RUNNABLE = [name for name in CONFIGS if not name.endswith("base.yaml")]

COOP = {  # name: backbone, number of contexts, their words, epochs (KaiyangZhou/CoOp, configs/trainers/CoOp)
    "rn50": ("RN50", 16, "", 200),
    "rn50_ctxv1": ("RN50", 4, "a photo of a", 200),
    "rn50_ep100": ("RN50", 16, "", 100),
    "rn50_ep50": ("RN50", 16, "", 50),
    "rn50_ep50_ctxv1": ("RN50", 4, "a photo of a", 50),
    "rn101": ("RN101", 16, "", 200),
    "rn101_ep50": ("RN101", 16, "", 50),
    "vit_b32": ("ViT-B-32", 16, "", 200),
    "vit_b32_ep50": ("ViT-B-32", 16, "", 50),
    "vit_b16": ("ViT-B-16", 16, "", 200),
    "vit_b16_ctxv1": ("ViT-B-16", 4, "a photo of a", 200),
    "vit_b16_ep100": ("ViT-B-16", 16, "", 100),
    "vit_b16_ep100_ctxv1": ("ViT-B-16", 4, "a photo of a", 100),
    "vit_b16_ep50": ("ViT-B-16", 16, "", 50),
    "vit_b16_ep50_ctxv1": ("ViT-B-16", 4, "a photo of a", 50),
}
COCOOP = {  # the same, of configs/trainers/CoCoOp
    "cocoop_vit_b16_c4_ep10_batch1": ("ViT-B-16", 4, "", 10),
    "cocoop_vit_b16_c4_ep10_batch1_ctxv1": ("ViT-B-16", 4, "a photo of a", 10),
    "cocoop_vit_b16_c8_ep10_batch1": ("ViT-B-16", 8, "", 10),
    "cocoop_vit_b16_c16_ep10_batch1": ("ViT-B-16", 16, "", 10),
}


def load(name, *words):
    return load_config(ROOT / name, words, FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads(name):
    cfg = load(name)
    assert cfg.METHOD.NAME in FAMILIES[cfg.METHOD.FAMILY].METHODS


@pytest.mark.parametrize("name", [name for name in RUNNABLE if name.startswith("configs/coop")])
def test_the_first_comment_holds_a_command_that_is_understood(name):
    first = (ROOT / name).read_text().partition("\n")[0]
    assert first.startswith("#") and "python tools/train.py" in first
    words = shlex.split(first[first.index("python") :])
    assert words[3] == name
    cfg = load(name, *words[4:])
    named = [other for other in RUNNABLE if f" OUTPUT_DIR {cfg.OUTPUT_DIR}\n" in (ROOT / other).read_text()]
    assert cfg.OUTPUT_DIR.startswith("out/") and named == [name], "each command has a folder of its own"


@pytest.mark.parametrize("name", [name for name in RUNNABLE if "/embedded" not in name])
def test_the_first_comment_has_the_number_to_expect_or_says_that_none_was_published(name):
    comment = re.match(r"(#.*\n)+", (ROOT / name).read_text())[0]
    assert re.search(r"(Expected|Published).*\d\d\.\d|\bno (\w+ )*number", comment, re.S | re.I)


@pytest.mark.parametrize("name", COOP | COCOOP)
def test_presets_are_the_official_ones(name):
    cfg = load(f"configs/coop/{name}.yaml")
    expected = (COOP | COCOOP)[name]
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    found = (cfg.BACKBONE.NAME, options.N_CTX, options.CTX_INIT, optim.EPOCHS)
    assert found == expected
    method, batch = (cfg.METHOD.NAME, optim.BATCH_SIZE)
    assert (method, batch) == (("coop", 32) if name in COOP else ("cocoop", 1))
    assert (optim.NAME, optim.LR, optim.MOMENTUM, optim.WEIGHT_DECAY) == ("sgd", 0.002, 0.9, 5e-4)
    assert (cfg.BACKBONE.PRETRAINED, cfg.INPUT.SIZE, cfg.INPUT.TRAIN, cfg.INPUT.TEST) == ("openai", 224, "coop", "coop")
    assert (cfg.TEST.BATCH_SIZE, cfg.TEST.SPLIT, cfg.TRAIN.VIEWS) == (100, "test", 0)
    if name in COOP:
        assert not options.CSC and options.CLASS_TOKEN_POSITION == "end"
    each = rates(cfg)
    assert each[:2] == [1e-5, 0.002] and len(each) == expected[-1] and each[-1] > 0


def test_the_published_rates_of_ten_epochs():
    """Read off the official code's run (in units of 1e-3)."""
    found = [1000 * rate for rate in rates(load("configs/coop/cocoop_vit_b16_c4_ep10_batch1.yaml"))]
    assert found == pytest.approx([0.01, 2.0, 1.951, 1.809, 1.588, 1.309, 1.0, 0.691, 0.412, 0.191], abs=5e-4)


def test_every_number_in_a_comment_names_its_paper():
    for name in RUNNABLE:
        comment = "".join(line for line in (ROOT / name).read_text().splitlines() if line.startswith("#"))
        if "Expected" in comment:
            assert re.search(
                r"\((arXiv|Co[A-Z]\w+|SkipT|MaPLe|PromptSRC|TCP|KgCoOp|PromptKD|Tip-Adapter|TPT|CLIP-LoRA|DAPL|E?2?VPT|VFPT"
                r"|DTL|DePT|ATPrompt|GDA|LP\+\+|CLAP|SSF|FacT|2SFS|MM\w+)",
                comment,
            ), name


TASK_RES = {  # dataset, shots: rate, epochs, alpha, templates (geekyutao/TaskRes, train_regular.sh)
    ("dtd", 4): (0.002, 100, 0.5, 0),
    ("dtd", 8): (0.002, 200, 0.5, 0),
    ("oxford_flowers", 1): (0.002, 100, 1.0, 0),
    ("imagenet", 2): (2e-4, 100, 0.5, 8),
    ("imagenet", 16): (2e-4, 200, 0.5, 8),
}


@pytest.mark.parametrize("place", TASK_RES)
def test_task_res_follows_its_script(place):
    cfg = load("configs/coop/rn50_task_res.yaml", "DATASET.NAME", place[0], "DATASET.SHOTS", place[1])
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert (optim.LR, optim.EPOCHS, options.ALPHA, len(options.TEMPLATES)) == TASK_RES[place]
    assert (optim.NAME, optim.BATCH_SIZE, optim.WEIGHT_DECAY, cfg.BACKBONE.NAME) == ("adam", 256, 5e-4, "RN50")
    if options.TEMPLATES:
        assert list(options.TEMPLATES) == [*ENSEMBLES["select"], "a photo of a {}."]


def test_task_res_adds_its_residuals_to_the_features_they_were_trained_on():
    """The shifts of ImageNet are tested with the eight templates of training."""
    cells = load_cells(ROOT / "configs/benchmarks/domain_generalization.yaml")
    (job,) = plan(cells, "out", [], FAMILIES, ["RUN=TaskRes", "SEED=1"])
    trained = job.cfg.METHOD.OPTIONS
    assert (len(trained.TEMPLATES), job.cfg.OPTIM.LR, job.cfg.OPTIM.EPOCHS) == (8, 2e-4, 200)
    assert len(job.evals) == 4 and all(trained == cfg.METHOD.OPTIONS for cfg in job.evals.values())


TIP_ADAPTER = {  # dataset: first alpha, ends of the search for beta and alpha (gaopengcuhk/Tip-Adapter, configs)
    "imagenet": (1.17, [7, 3]),
    "caltech101": (3, [12, 5]),
    "oxford_pets": (1.17, [7, 3]),
    "stanford_cars": (3, [20, 10]),
    "oxford_flowers": (10, [50, 50]),
    "food101": (1.17, [10, 10]),
    "fgvc_aircraft": (5, [30, 30]),
    "sun397": (1.17, [12, 10]),
    "dtd": (2, [13, 13]),
    "eurosat": (2, [12, 10]),
    "ucf101": (3, [7, 3]),
}


@pytest.mark.parametrize("shots", [1, 16])
def test_two_stage_follows_its_settings(shots):
    cfg = load("configs/coop/vit_b16_two_stage.yaml", "DATASET.SHOTS", str(shots))
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert (options.TUNE, options.ENCODER, options.OUTER_NORMS, options.STAGE_ONE) == ("ln", "both", False, 0.6)
    assert options.TEMPLATES == ["a photo of a {}."] and (options.VISION_START, options.TEXT_START) == (0, 0)
    assert (optim.NAME, optim.LR, optim.WEIGHT_DECAY, optim.BATCH_SIZE) == ("adamw", 2e-4, 0.01, 32)
    each = rates(cfg, 25, (0.6, 0.4))
    assert len(each) == 300 * shots and each[0] == each[180 * shots] == 2e-4
    assert each[180 * shots - 1] < 2e-6 and each[-1] < 2e-6 and min(each) > 1e-6


@pytest.mark.parametrize("name", ["dtd", "imagenet"])
def test_heads_follow_their_settings(name):
    imagenet = name == "imagenet"
    for preset, tower, covariance in (("rn50_gda", "RN50", "pooled"), ("vit_b16_gda", "ViT-B-16", "classwise")):
        cfg = load(f"configs/coop/{preset}.yaml", "DATASET.NAME", name)
        options = cfg.METHOD.OPTIONS
        assert (
            tower,
            covariance,
            10,
            100,
        ) == (cfg.BACKBONE.NAME, options.COVARIANCE, options.VIEWS, options.LOGIT_SCALE)
        assert (0 if tower == "RN50" else 64) == options.NEIGHBOURS and options.COPIES == 16 and not options.ALPHA
        assert (("select", "test") if imagenet else ("", "all")) == (options.ENSEMBLE, cfg.DATASET.VALIDATION)
    cfg = load("configs/coop/rn50_lp_plus_plus.yaml", "DATASET.NAME", name)
    options = cfg.METHOD.OPTIONS
    assert (options.EPOCHS, options.VIEWS, options.ALPHA_EVERY, options.MOMENTUM) == (300, 1, 10, 0.9)
    assert options.SUMS and options.RANDOM_BIAS and options.ACCUMULATE_ALPHA
    cfg = load("configs/coop/rn50_clap.yaml", "DATASET.NAME", name)
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert (options.CONSTRAINT, options.VIEWS, cfg.TRAIN.VIEWS) == ("l2", 20, 20)
    assert (("select", ["a photo of a {}."]) if imagenet else ("", [])) == (options.ENSEMBLE, options.TEMPLATES)
    assert (optim.NAME, optim.LR, optim.WEIGHT_DECAY, optim.EPOCHS, optim.BATCH_SIZE) == ("sgd", 0.1, 0, 300, 256)


@pytest.mark.parametrize("name", TIP_ADAPTER)
@pytest.mark.parametrize("preset", ["rn50_tip_adapter", "rn50_tip_adapter_f"])
def test_tip_adapter_follows_its_configs(preset, name):
    cfg = load(f"configs/coop/{preset}.yaml", "DATASET.NAME", name)
    options, optim, imagenet = cfg.METHOD.OPTIONS, cfg.OPTIM, name == "imagenet"
    assert TIP_ADAPTER[name] == (options.ALPHA, options.SEARCH)
    assert (options.BETA, options.VIEWS, options.LOGIT_SCALE) == (1, 10, 100)
    assert (("select", "test") if imagenet else ("", "all")) == (options.ENSEMBLE, cfg.DATASET.VALIDATION)
    assert (cfg.INPUT.TRAIN, cfg.INPUT.TEST, cfg.BACKBONE.NAME) == ("tip_adapter", "coop", "RN50")
    if preset == "rn50_tip_adapter_f":
        assert (optim.NAME, optim.LR, optim.EPS, optim.WEIGHT_DECAY) == ("adamw", 0.001, 1e-4, 0.01)
        assert (256, False, 100 if name == "eurosat" else 20) == (optim.BATCH_SIZE, optim.DROP_LAST, optim.EPOCHS)
        assert (cfg.TRAIN.KEEP, cfg.TRAIN.EVAL_EVERY) == ("best_test", 1)
        each = rates(cfg, 3)
        assert len(each) == 3 * optim.EPOCHS and each[0] == 0.001 and 0.001 > each[1] > each[2]


SKIP_TUNING = {  # preset: rate of the text tower, of the image tower, of the warm-up, epochs (Koorye/SkipTuning)
    "skip_tuning_vit_b16": (2e-5, 5e-6, 1e-6, 20),
    "skip_tuning_vit_b16_cross_datasets": (1e-5, 1e-6, 1e-8, 20),
    "skip_tuning_vit_b16_few_shot": (1e-5, 1e-5, 1e-5, 40),
}


@pytest.mark.parametrize("name", SKIP_TUNING)
@pytest.mark.parametrize(("dataset", "shots"), [("dtd", 16), ("imagenet", 4), ("food101", 2), ("sun397", 1)])
def test_skip_tuning_follows_its_scripts(name, dataset, shots):
    cfg = load(f"configs/coop/{name}.yaml", "DATASET.NAME", dataset, "DATASET.SHOTS", shots)
    options, optim, each = cfg.METHOD.OPTIONS, cfg.OPTIM, rates(load(f"configs/coop/{name}.yaml"))
    text, image, first, epochs = SKIP_TUNING[name]
    assert (optim.LR, each[0], len(each)) == (text, first, epochs)
    assert pytest.approx(image) == options.IMAGE_RATE * optim.LR
    assert (epochs if dataset == "dtd" else epochs / 4) == optim.EPOCHS
    found = (options.START_LAYER, options.TOP_RATIO, options.MAX_TOP, options.DECAY, optim.BATCH_SIZE, optim.NAME)
    assert found == (6, 0.5, 50, 0.3, 4, "sgd") and (shots >= 4) == optim.ONE_CLASS
    assert (options.REDRAW, options.KEEP_LABELS, options.FP16_WEIGHTS) == (False, False, True)
    assert list(options.TEMPLATES) == ["itap of a {}."] if dataset == "dtd" else len(options.TEMPLATES) == 1


OF_A_TEST = {"TEMPLATES", "PROMPT", "CTX_INIT", "BETA", "FUSE", "AUGMIX", "STRENGTH"}
"""Options that a benchmark's tests on other datasets may change: none of them shapes what is learned there."""


@pytest.mark.parametrize("benchmark", ["cross_dataset", "domain_generalization", "base_to_new"])
def test_a_test_on_another_dataset_keeps_what_a_run_learned(benchmark):
    jobs = plan(load_cells(ROOT / f"configs/benchmarks/{benchmark}.yaml"), "out", [], FAMILIES, ["SEED=1"])
    for job in jobs:
        trained = job.cfg.METHOD.OPTIONS
        for place, test in job.evals.items():
            changed = {name for name, value in test.METHOD.OPTIONS.items() if value != trained[name]}
            assert changed <= OF_A_TEST, (job.title, place, changed)
