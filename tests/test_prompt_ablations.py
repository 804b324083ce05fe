"""The paper's ablations against the numbers of the official implementation: values, gradients, learned tensors."""

import pytest
import torch

import vpt
from promptvision.backbones.compute import Compute
from vpt.parts.cls_init import initial_prompts

CLASSES = [f"class {i}" for i in range(7)]
POOLS = {"original": "backbone", "img_pool": "image", "prompt_pool": "prompt", "imgprompt_pool": "image_prompt"}


def options_of(settings):
    """The official PROMPT settings in this project's words."""
    location, deep, last = settings["LOCATION"], settings["DEEP"], settings["REVERSE_DEEP"]
    count = settings["NUM_DEEP_LAYERS"] or 0
    return dict(
        num_tokens=settings["NUM_TOKENS"],
        location="pixel" if "pixel" in location else location.replace("add-1", "add_one"),
        normalize="imgnettransform" in location,
        init="gaussian" if "gaussian" in location else "uniform",
        deep=deep,
        layers=0 if last else count,
        last=count if last else 0,
        keep=not settings["FORWARD_DEEP_NOEXPAND"],
        shared=settings["DEEP_SHARED"],
        pool=POOLS[settings["VIT_POOL_TYPE"]],
        project=settings["PROJECT"],
        delete_patches=last,
    )


def build(vit, settings):
    location = settings["LOCATION"]
    if location == "pad":
        return vpt.build("pad", vit, CLASSES, border=settings["NUM_TOKENS"], positions="official")
    if location == "below":
        return vpt.build("below", vit, CLASSES, num_tokens=settings["NUM_TOKENS"])
    return vpt.build("prompt_ablations", vit, CLASSES, **options_of(settings))


def fill(method, inputs, expected):
    head = {f"head.last_layer.{part}": inputs[f"head.{part}"] for part in ("weight", "bias")}
    method.load_learned_state({**head, **{name: expected[name] for name in method.learned() if name in expected}})


@pytest.fixture(scope="module")
def ablations(golden_cases):
    cases = golden_cases("vpt/vpt_ablations")
    return {name: case for name, case in cases.items() if "prompt_cfg" in case[0]}


def test_values_and_gradients(ablations, golden, inputs, check_step):
    assert len(ablations) >= 10
    for settings, expected in ablations.values():
        method = build(fresh(golden), settings["prompt_cfg"])
        fill(method, inputs, expected)
        if "pos_embed" in expected:
            torch.testing.assert_close(method.backbone.model.pos_embed, expected["pos_embed"], atol=2e-6, rtol=0)
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        check_step(method, inputs["images"], inputs["labels"], expected)


def fresh(golden, **settings):
    return vpt.load_backbone(golden.root / "vpt/backbone.safetensors", **settings)


def test_what_is_learned(ablations, golden):
    """The official list holds `deep_prompt_embeddings` even where nothing uses them: here they do not exist."""
    for settings, expected in ablations.values():
        method, unused = build(fresh(golden), settings["prompt_cfg"]), settings["trainable_without_grad"]
        assert method.learned() == [name for name in settings["trainable"] if name not in unused]
        learned = sum(tensor.numel() for tensor in method.learned_state().values())
        assert learned == settings["trainable_count"] - sum(expected[n].numel() for n in unused if n in expected)


@pytest.mark.parametrize("way", ["auto", "fast", "plain"])
def test_every_way_gives_the_same(way, ablations, golden, inputs):
    for settings, expected in ablations.values():
        options = options_of(settings["prompt_cfg"])
        if options["location"] != "prepend" or options["pool"] != "backbone" or options["delete_patches"]:
            continue
        method = vpt.build("prompt_ablations", fresh(golden, compute=Compute(way)), CLASSES, **options)
        fill(method, inputs, expected)
        torch.testing.assert_close(method.features(inputs["images"]), expected["cls_feature"], atol=5e-5, rtol=0)


def test_prompts_from_class_tokens(golden_cases, golden, inputs, check_step):
    cases = golden_cases("vpt/vpt_ablations")
    embeddings = cases["clsemb"][1]["CLSEMB_PATH"]
    for name, (_, expected) in cases.items():
        if not name.startswith("init_"):
            continue
        init, deep = name.split("_")[1], "_deep_" in name
        first, *others = initial_prompts(embeddings, init)
        assert torch.equal(first[None], expected["prompt_embeddings"])
        if deep:
            assert torch.equal(torch.stack(others), expected["deep_prompt_embeddings"])
        method = vpt.build("prompt_ablations", fresh(golden), CLASSES, num_tokens=len(embeddings), deep=deep, init=init)
        fill(method, inputs, expected)
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        check_step(method, inputs["images"], inputs["labels"], expected)
