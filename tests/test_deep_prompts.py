"""Prompts in both towers (IVLP, MaPLe, PromptSRC) against the numbers of the official implementations."""

import pytest
import torch
import torch.nn.functional as F
from official import near_each, steps

import coop
from coop.parts.averaging import gaussian_weights
from coop.parts.objective import Step
from coop.prompt_src import TEMPLATES
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates

OPTIONS = {
    "N_CTX": "n_ctx",
    "PROMPT_DEPTH": "depth",
    "N_CTX_TEXT": "n_ctx_text",
    "N_CTX_VISION": "n_ctx_vision",
    "PROMPT_DEPTH_TEXT": "depth_text",
    "PROMPT_DEPTH_VISION": "depth_vision",
    "CTX_INIT": "ctx_init",
    "GPA_MEAN": "gpa_mean",
    "GPA_STD": "gpa_std",
}
METHODS = {"IVLP": "ivlp", "MAPLE": "maple", "PROMPTSRC": "prompt_src"}
FILES = {"ivlp": "coop/ivlp/*", "maple": "coop/maple/*", "prompt_src": "coop/promptsrc/*"}
WAYS = pytest.mark.parametrize("way", ["plain", "fast"])


@pytest.fixture(scope="module")
def clips(golden):
    return {}


@pytest.fixture
def learned(golden, clips, computed):
    """`learned(settings, expected, way)` gives the method of a golden file with its tensors."""

    def build(settings, expected, way):
        name = settings["backbone"]
        clips[name] = clips.get(name) or load_clip(golden.root / f"coop/{name}.safetensors")
        options = {OPTIONS[key]: value for key, value in settings["settings"].items()}
        options |= {"teacher_templates": settings["templates"]} if "templates" in settings else {}
        clip = computed(clips[name], way=way)
        method = coop.build(METHODS[settings["section"]], clip, settings["classnames"], **options)
        method.load_learned_state({k.removeprefix("param."): v for k, v in expected.items() if k.startswith("param.")})
        return method

    return build


def check_values(method, expected, coop_inputs):
    torch.testing.assert_close(method(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    names = [name for name in method.learned() if f"grad.{name}" in expected]
    assert "prompt_learner.ctx" in names
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"]):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        near_each({name: found[name] for name in names}, expected, "grad.", 1e-4)


def check_trajectory(method, settings, expected, coop_inputs):
    """Every loss and rate on the way, and the tensors in the end; `before_gpa` are the last step's own."""
    facts = settings["trajectory"]
    epochs, size = facts["epochs"], facts["batches_per_epoch"]
    rates = learning_rates("cosine", facts["lr"], epochs, warmup_epochs=1, warmup_lr=1e-5, warmup_recount=True)
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    optimizer = build_optimizer("sgd", named, facts["lr"], 5e-4, 0.9)
    assert len(expected["traj.loss"]) == epochs * size
    for step, (loss, rate) in enumerate(zip(expected["traj.loss"], expected["traj.lr"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rates[step // size]
        assert rates[step // size] == pytest.approx(rate.item())
        found = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3])
        assert found.item() == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        if (step + 1) % size == 0:
            if step + 1 == epochs * size:
                check_state(method, expected, "traj.before_gpa." if "gpa_weights" in expected else "traj.final.")
            method.end_epoch(step // size, epochs)
    check_state(method, expected, "traj.final.")


def check_state(method, expected, prefix):
    state = {name: value for name, value in method.learned_state().items() if f"{prefix}{name}" in expected}
    assert "prompt_learner.ctx" in state
    for name, value in state.items():
        torch.testing.assert_close(value, expected[f"{prefix}{name}"], rtol=1e-3, atol=1e-5)


@WAYS
@pytest.mark.golden(FILES["ivlp"])
def test_ivlp(case, way, golden, learned, coop_inputs):
    settings, expected = golden(case)
    check_values(learned(settings, expected, way), expected, coop_inputs)
    check_trajectory(learned(settings, expected, way), settings, expected, coop_inputs)


@WAYS
@pytest.mark.golden(FILES["maple"])
def test_maple(case, way, golden, learned, coop_inputs):
    settings, expected = golden(case)
    check_values(learned(settings, expected, way), expected, coop_inputs)
    check_trajectory(learned(settings, expected, way), settings, expected, coop_inputs)


@WAYS
@pytest.mark.golden(FILES["prompt_src"])
def test_prompt_src(case, way, golden, learned, coop_inputs):
    settings, expected = golden(case)
    check_values(learned(settings, expected, way), expected, coop_inputs)
    check_trajectory(learned(settings, expected, way), settings, expected, coop_inputs)


@pytest.mark.golden(FILES["prompt_src"])
def test_terms_of_prompt_src(case, golden, learned, coop_inputs):
    """Each loss by itself, and the teacher it is measured against."""
    settings, expected = golden(case)
    method, images = learned(settings, expected, "auto"), coop_inputs["images"]
    teacher = method.teacher
    fixed, zero_shot = teacher.text_features(method.backbone), teacher.image_features(method.backbone, images)
    torch.testing.assert_close(fixed, expected["fixed_text_embeddings_normalized"], atol=1e-5, rtol=0)
    torch.testing.assert_close(zero_shot, F.normalize(expected["zero_shot_image_features"], dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.logits(method.backbone, images), expected["zero_shot_logits"], atol=1e-4, rtol=0)
    step = Step(images, coop_inputs["labels"], method.image_features(images), method.text_features(), method(images))
    for name, official in (("text", "text_weighted"), ("image", "image_weighted"), ("logits", "logits")):
        weight, term = method.terms[name]
        torch.testing.assert_close(weight * term(step), expected[f"loss_scl_{official}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(F.cross_entropy(step.logits, step.labels), expected["loss_ce"], atol=1e-4, rtol=0)
    assert set(TEMPLATES) == set(settings["templates"]) and len(TEMPLATES) == len(settings["templates"])
    weights = gaussian_weights(settings["trajectory"]["epochs"], method.gpa_mean, method.gpa_std)
    assert weights == pytest.approx(expected["gpa_weights"].tolist(), rel=1e-6)
