"""MMRL and MMRL++ against the numbers of their official code: values, gradients, training, starts, presets."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from official import near, near_each, start_of, steps, trained_at

import coop
from promptvision.backbones import load_clip
from promptvision.backbones.image import entered
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan

ROOT = Path(__file__).parents[1]
WAYS = pytest.mark.parametrize("way", ["plain", "fast"])
NAMES = ["cat", "golden_retriever", "Washington D.C."]


@pytest.fixture
def case_of(golden, clip, computed):
    """`case_of("coop/mmrl/layers23_k5_d32", "fast")` gives (method with the case's tensors, its numbers, its facts)."""

    def load(case, way="auto"):
        facts, expected = golden(case)
        own = facts["settings"]
        options = dict(n_tokens=own["N_REP_TOKENS"], dim=own["REP_DIM"], alpha=own["ALPHA"], weight=own["REG_WEIGHT"])
        options |= dict(layers=[n - 1 for n in own["REP_LAYERS"]], templates=[facts["template"]], logit_scale=100.0)
        name = "mmrl"
        if "BETA" in own:
            options |= dict(beta=own["BETA"], rank=own["PROJ_LORA_DIM"], aligner_rank=own["RES_LORA_DIM"])
            name = "mmrl_pp"
        method = coop.build(name, computed(clip, way=way), facts["classnames"], **options)
        method.load_learned_state(start_of(expected))
        return method, expected, facts

    return load


def check_values(method, expected, images, labels):
    features, text = method.image_features(images), method.text_features()
    near(F.normalize(features[:, 0], dim=-1), expected["image_features"])
    near(F.normalize(text, dim=-1), expected["text_features"])
    for found, wanted in zip(method.both_logits(features, text), ("logits", "logits_rep"), strict=True):
        near(found, expected[wanted])
    near(method(images), expected["logits_fusion"])
    near(method.predictor()(images), expected["logits_fusion"])
    for loss, found in steps(method, images, labels):
        near(loss, expected["loss"])
        near_each(found, expected, "grad.", 1e-4)


@WAYS
@pytest.mark.golden("coop/mmrl/*")
def test_mmrl(case_of, coop_inputs, case, way):
    method, expected, facts = case_of(case, way)
    check_values(method, expected, coop_inputs["images"], coop_inputs["labels"])
    trained_at(method, expected, coop_inputs, "adamw", expected["traj.lr"].tolist(), rel=1e-4)


@WAYS
@pytest.mark.golden("coop/mmrlpp/*")
def test_mmrl_pp(case_of, coop_inputs, case, way):
    method, expected, facts = case_of(case, way)
    check_values(method, expected, coop_inputs["images"], coop_inputs["labels"])
    trained_at(method, expected, coop_inputs, "adamw", expected["traj.lr"].tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def batch(coop_inputs):
    return coop_inputs["images"][:4], torch.tensor([0, 1, 2, 1])


def drawn(name, clip, classes=NAMES, **options):
    """A method away from its start, where the tokens' features are those of the class token's projection."""
    torch.manual_seed(5)
    method = coop.build(name, clip, classes, dim=8, **options)
    for parameter in method.trained().values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method


EACH = pytest.mark.parametrize("name", ["mmrl", "mmrl_pp"])


@EACH
def test_new_classes_are_predicted_by_the_class_feature_alone(name, clip, batch):
    method = drawn(name, clip)
    by_class, by_tokens = method.both_logits(method.image_features(batch[0]), method.text_features())
    near(method(batch[0]), 0.7 * by_class + 0.3 * by_tokens)
    some, mixed = method.for_classes(NAMES[:2]), method.for_classes(["cat", "dog"])
    near(some(batch[0]), method(batch[0])[:, :2])
    near(mixed(batch[0])[:, 0], by_class[:, 0])
    near(mixed.for_classes(NAMES)(batch[0]), method(batch[0]))
    unfused = drawn(name, clip, fuse=False)
    near(unfused(batch[0]), by_class)


@EACH
@pytest.mark.parametrize("layers", [(), (0, 2), (1,), (2,), (1, 2)])
def test_both_ways_are_equal_in_double_precision(name, layers, golden, computed, batch):
    clip, found = load_clip(golden.root / "coop/clip_vit_tiny.safetensors").double(), []
    for settings in (dict(way="plain"), dict(way="fast"), dict(way="fast", chunk=2), dict(way="plain", chunk=1)):
        method = drawn(name, computed(clip, **settings), [*NAMES, "dog", "old house"], layers=list(layers)).double()
        loss = method.loss(batch[0].double(), batch[1])
        gradients = torch.autograd.grad(loss, list(method.trained().values()))
        found.append([method(batch[0].double()), loss, *gradients])
    for other in found[1:]:
        for ours, wanted in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-12 * wanted.abs().max().item(), rtol=0)


@EACH
def test_rows_of_what_enters_stand_for_images_in_a_step(name, clip, batch):
    method = drawn(name, clip, weight=2.0, layers=[1, 2])
    rows = entered(clip.image, batch[0], method.frozen_blocks)
    assert method.frozen_blocks and torch.equal(method.loss(rows, batch[1]), method.loss(*batch))
    assert torch.equal(entered(clip.image, rows, method.frozen_blocks), rows)


def test_blocks_below_the_first_are_computed_once(clip, batch, computed):
    """Also where weights change, and only then, what enters is computed again."""
    method, calls = drawn("mmrl", computed(clip, way="fast"), layers=[1, 2]), []
    first = clip.text.blocks[0].forward
    clip.text.blocks[0].forward = lambda *args, **more: calls.append(1) or first(*args, **more)
    try:
        for _ in range(3):
            method.loss(*batch).backward()
    finally:
        del clip.text.blocks[0].forward
    assert 1 <= len(calls) <= 2  # of the texts as such, and of the teacher's


def test_the_projection_of_tokens_starts_as_asked(clip):
    copied, random = (coop.build("mmrl", clip, NAMES, copy_projection=copy) for copy in (True, False))
    torch.testing.assert_close(copied.image_encoder["proj_rep"], clip.image.model.proj)
    width = clip.image.width
    assert random.image_encoder["proj_rep"].std().item() == pytest.approx(width**-0.5, rel=0.1)


WRONG = {
    "templates holds 2 texts": dict(templates=["a {}.", "the {}."]),
    "alpha is a share": dict(alpha=1.5),
    "at least one token": dict(n_tokens=0),
    "dim 0": dict(dim=0),
    "weight is -1; it is 0 or positive": dict(weight=-1.0),
    "logit_scale is -0.5": dict(logit_scale=-0.5),
    "rising numbers from 0 to 2": dict(layers=[2, 1]),
    "layers is \\[3\\]": dict(layers=[3]),
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_options_are_named(said, clip):
    with pytest.raises(InputError, match=said):
        coop.build("mmrl", clip, NAMES, **WRONG[said])


def test_towers_without_blocks_are_refused(golden):
    clip = load_clip(golden.root / "coop/clip_rn_tiny.safetensors")
    with pytest.raises(InputError, match="has no tokens to put prompts among"):
        coop.build("mmrl", clip, NAMES)


def test_wrong_options_of_mmrl_pp(clip):
    with pytest.raises(InputError, match="beta is 2.0"):
        coop.build("mmrl_pp", clip, NAMES, beta=2.0)


def preset(name, *words):
    return load_config(ROOT / f"configs/coop/vit_b16_{name}.yaml", words, FAMILIES)


WEIGHTS = {
    "stanford_cars": 7, "fgvc_aircraft": 6, "sun397": 6, "dtd": 6, "food101": 5, "oxford_flowers": 4, "ucf101": 3,
    "imagenet": 0.5, "caltech101": 0.5, "oxford_pets": 0.2, "eurosat": 0.01,
}  # fmt: skip
SHARES = {
    "imagenet": (0.9, 0.2), "fgvc_aircraft": (0.9, 2), "ucf101": (0.9, 3), "dtd": (0.9, 7), "oxford_pets": (0.7, 0.01),
    "stanford_cars": (0.7, 6), "caltech101": (0.6, 3), "sun397": (0.5, 3), "oxford_flowers": (0.4, 7),
    "eurosat": (0.2, 0.01), "food101": (0.1, 1),
}  # fmt: skip


@pytest.mark.parametrize("card", WEIGHTS)
def test_the_presets_of_each_dataset(card):
    """Epochs, batch and rate: base to new, then few shots."""
    found, whole = [], card == "imagenet"
    for name in ("mmrl", "mmrl_few_shot", "mmrl_pp", "mmrl_pp_few_shot"):
        cfg = preset(name, "DATASET.NAME", card)
        options = cfg.METHOD.OPTIONS
        assert list(range(5, 12)) == options.LAYERS and (options.ALPHA, options.LOGIT_SCALE) == (0.7, 100.0)
        assert (cfg.OPTIM.NAME, cfg.OPTIM.WEIGHT_DECAY, cfg.INPUT.TRAIN) == ("adamw", 5e-4, "tip_adapter")
        found.append((cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.LR))
        if "pp" in name:
            assert (*SHARES[card], 64, 4) == (options.BETA, options.WEIGHT, options.RANK, options.ALIGNER_RANK)
        else:
            dim = 2048 if card == "eurosat" else 512
            assert (WEIGHTS[card], dim, False) == (options.WEIGHT, options.DIM, options.COPY_PROJECTION)
    few = [(5, 32, 1e-3)] * 2 if whole else [(50, 32, 1e-3), (100, 32, 2e-3)]
    base = (5, 32, 1e-3) if whole else (10, 4, 1e-3)
    assert found == [base, few[0], base, few[1]]


TARGETS = {
    "dtd": 0.5, "food101": 0.3, "eurosat": 0.3, "stanford_cars": 0.3, "oxford_flowers": 0.4, "oxford_pets": 0.6,
    "caltech101": 0.6, "sun397": 0.7, "ucf101": 0.9, "fgvc_aircraft": 0.9, "imagenet_a": 0.8, "imagenet_sketch": 0.7,
    "imagenet_v2": 0.9, "imagenet_r": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(("benchmark", "row"), [("cross_dataset", "MMRL++"), ("domain_generalization", "MMRL++")])
def test_transfer_tests_each_target_with_its_share_and_the_class_feature(benchmark, row):
    cells = load_cells(ROOT / f"configs/benchmarks/{benchmark}.yaml")
    (job,) = plan(cells, "out", [], FAMILIES, [f"RUN={row}", "SEED=1"])
    cfg = job.cfg
    assert (cfg.OPTIM.EPOCHS, cfg.OPTIM.WARMUP_EPOCHS, cfg.METHOD.OPTIONS.WEIGHT) == (1, 0, 0.1)
    assert cfg.METHOD.OPTIONS.FUSE and cfg.METHOD.OPTIONS.BETA == 0.9
    for card, own in job.evals.items():
        assert TARGETS[card] == own.METHOD.OPTIONS.BETA and card.startswith("imagenet") != own.METHOD.OPTIONS.FUSE
