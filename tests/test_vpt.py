"""ViT methods against the numbers of the official implementation: values, gradients, training trajectories."""

import math

import pytest
import torch

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError
from promptvision.learned import learned_name
from vpt.prompt import init_bound

CLASSES = [f"class {i}" for i in range(7)]
HEAD = ("head.last_layer.weight", "head.last_layer.bias")


def prompt_method(vit, inputs, expected, way, dropout=0.0):
    vit.compute = Compute(way)
    deep = "deep_prompt_embeddings" in expected
    tokens = expected["prompt_embeddings"].shape[1]
    project = expected["prompt_proj.weight"].shape[1] if "prompt_proj.weight" in expected else -1
    options = dict(num_tokens=tokens, deep=deep, project=project, dropout=dropout)
    method = vpt.build("prompt", vit, CLASSES, **options)
    head = {f"head.last_layer.{part}": inputs[f"head.{part}"] for part in ("weight", "bias")}
    method.load_learned_state({**head, **{name: expected[name] for name in method.learned() if name in expected}})
    return method


def test_linear(vit, inputs):
    method = vpt.build("linear", vit, CLASSES)
    method.load_learned_state(dict(zip(HEAD, (inputs["head.weight"], inputs["head.bias"]), strict=True)))
    torch.testing.assert_close(method(inputs["images"]), inputs["logits"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_prompts_shallow_deep_and_projected(way, vit, inputs, golden_cases, check_step):
    found = golden_cases("vpt/vpt")
    assert len(found) >= 8
    for settings, expected in found.values():
        method = prompt_method(vit, inputs, expected, way)
        assert method.learned() == settings["trainable"]
        assert sum(tensor.numel() for tensor in method.learned_state().values()) == settings["trainable_count"]
        torch.testing.assert_close(method.features(inputs["images"]), expected["cls_feature"], atol=5e-5, rtol=0)
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        check_step(method, inputs["images"], inputs["labels"], expected)


class Masks(torch.nn.Module):
    """The dropout masks of the reference run, handed out one insertion after the other."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, prompts):
        factor, self.factors = self.factors[0], self.factors.roll(-1, 0)
        return prompts * factor


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_prompt_dropout_is_drawn_per_image_after_projection(way, vit, inputs, golden_cases, check_step):
    for settings, expected in golden_cases("vpt/vpt_dropout").values():
        method = prompt_method(vit, inputs, expected, way, dropout=settings["p"]).train()
        method.prompt_dropout = Masks(expected["dropout_factor"])
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        check_step(method, inputs["images"], inputs["labels"], expected)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_prompt_dropout_comes_after_the_projection(way, vit, inputs, golden_cases):
    """Prompts that are projected by hand and have no projection give the same logits with the same masks."""
    cases = [expected for _, expected in golden_cases("vpt/vpt").values() if "prompt_proj.weight" in expected]
    assert cases
    for expected in cases:
        masks = torch.bernoulli(torch.full((4, 6, expected["prompt_embeddings"].shape[1], 64), 0.6)) / 0.6
        weight, bias = expected["prompt_proj.weight"], expected["prompt_proj.bias"]
        by_hand = {name: value @ weight.T + bias for name, value in expected.items() if name.endswith("embeddings")}
        logits = []
        for case in (expected, by_hand):
            method = prompt_method(vit, inputs, case, way, dropout=0.4).train()
            method.prompt_dropout = Masks(masks)
            logits.append(method(inputs["images"]))
        torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_prompt_dropout_is_off_in_evaluation(vit, inputs):
    method = vpt.build("prompt", vit, CLASSES, num_tokens=5, dropout=0.5)
    images = inputs["images"]
    assert not torch.equal(method.train()(images), method(images))
    assert torch.equal(method.eval()(images), method(images))


def test_initial_values(vit, golden):
    torch.manual_seed(0)
    method = vpt.build("prompt", vit, CLASSES, num_tokens=50, deep=True, project=16, head_init="published")
    bound = init_bound(16, 16)
    assert bound == pytest.approx(math.sqrt(6 / (3 * 16 * 16 + 16)))
    for prompts in (method.prompt_embeddings, method.deep_prompt_embeddings):
        assert prompts.abs().max() <= bound and prompts.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert method.prompt_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert torch.equal(method.head.last_layer.bias, torch.full((7,), -math.log(99)))


def test_prompts_on_the_image_tower_of_a_clip():
    method = vpt.build("prompt", load_clip("embedded").image, ["a", "b"], num_tokens=3, deep=True)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert method.deep_prompt_embeddings.grad.abs().sum() > 0


def test_a_prompted_backbone_is_left_as_it_was(vit, inputs):
    before = vit(inputs["images"])
    vpt.build("prompt", vit, CLASSES, deep=True).loss(inputs["images"], inputs["labels"]).backward()
    assert torch.equal(vit(inputs["images"]), before)
    assert all(parameter.grad is None for parameter in vit.parameters())


CLOSED = ("knn", "simple_cil", "aper", "ran_pac", "ease")
"""Methods whose classifiers no step of training moves."""


@pytest.mark.parametrize("name", [name for name in vpt.METHODS if name not in CLOSED])
def test_only_declared_tensors_move(name, vit, swin, inputs):
    method = vpt.build(name, swin if name == "swin_prompt" else vit, CLASSES).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.01)
    for _ in range(2):  # what is multiplied by zeros at first moves in the second step
        method.loss(inputs["images"], inputs["labels"]).backward()
        optimizer.step()
    moved = {learned_name(key) for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == set(method.learned())
    assert method.backbone.training == (name == "full")


def test_bad_arguments(vit):
    with pytest.raises(InputError, match="unknown vpt method 'promt'; did you mean 'prompt'"):
        vpt.build("promt", vit, CLASSES)
    with pytest.raises(InputError, match="unknown option of prompt 'num_token'; did you mean 'num_tokens'"):
        vpt.build("prompt", vit, CLASSES, num_token=3)
    with pytest.raises(InputError, match="num_tokens is 0"):
        vpt.build("prompt", vit, CLASSES, num_tokens=0)
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        vpt.build("prompt", load_vit("resnet18", pretrained="none"), CLASSES)
    with pytest.raises(InputError, match="did you mean 'published'"):
        vpt.build("linear", vit, CLASSES, head_init="publishd")
    with pytest.raises(InputError, match="tied to the classes"):
        vpt.build("linear", vit, CLASSES).for_classes(["new"])


def test_learned_state_must_fit(vit):
    method = vpt.build("prompt", vit, CLASSES, num_tokens=4)
    state = method.learned_state()
    with pytest.raises(InputError, match="lacks 'prompt_embeddings'"):
        method.load_learned_state({k: v for k, v in state.items() if k != "prompt_embeddings"})
    with pytest.raises(InputError, match=r"'prompt_embeddings' has shape \(1, 5, 64\), this method needs \(1, 4, 64\)"):
        method.load_learned_state({**state, "prompt_embeddings": torch.zeros(1, 5, 64)})
    with pytest.raises(InputError, match="holds 'ctx', which this method does not learn"):
        method.load_learned_state({**state, "ctx": torch.zeros(1)})
