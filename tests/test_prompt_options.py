"""The options of prompt tuning: how they start, what learns, which go together, on every tower with known tokens."""

import copy
import functools

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.errors import InputError
from vpt.parts.cls_init import class_token_embeddings, layerwise_class_tokens

CLASSES = ["a", "b", "c"]
LABELS = torch.tensor([0, 1, 2, 1])
EACH = {
    "last": dict(deep=True, last=2),
    "first": dict(deep=True, layers=2),
    "removed": dict(deep=True, layers=2, keep=False),
    "removed at once": dict(keep=False),
    "shared": dict(deep=True, shared=True, project=16),
    "shared last": dict(deep=True, shared=True, last=2),
    "add": dict(location="add", deep=True, dropout=0.3),
    "add to the last": dict(location="add", deep=True, last=1),
    "add one": dict(location="add_one", project=8),
    "pixel": dict(location="pixel", normalize=True),
    "gaussian pixel": dict(location="pixel", init="gaussian"),
    "image pool": dict(pool="image"),
    "prompt pool": dict(pool="prompt", deep=True),
    "both pools": dict(pool="image_prompt", init="gaussian"),
    "cls pool": dict(pool="cls"),
    "prefix": dict(prefix=True, deep=True),
    "prefix of the last": dict(prefix=True, deep=True, last=2, project=8, dropout=0.3),
    "bias": dict(also="bias"),
    "cls": dict(also="cls", deep=True),
    "cls anew": dict(also="cls-reinit"),
    "frozen": dict(frozen=True, deep=True),
    "deleting": dict(deep=True, last=3, delete_patches=True),
}


def timm_vit(**options):
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    return load_vit(VisionTransformer(**{**sizes, **options}))


TOWERS = {
    "timm": timm_vit,
    "registers, average pool": lambda: timm_vit(reg_tokens=2, global_pool="avg"),
    "clip": lambda: copy.deepcopy(shipped(True)),
    "embedded": lambda: copy.deepcopy(shipped(False)),
}


@functools.cache
def shipped(projected):
    return load_clip("embedded").image if projected else load_vit("embedded")


def gradients(method, images):
    method.zero_grad()
    method.loss(images, LABELS).backward()
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", EACH)
def test_every_option_learns_on_every_tower(name, tower):
    method = vpt.build("prompt_ablations", TOWERS[tower](), CLASSES, num_tokens=3, **EACH[name]).train()
    images = torch.randn(4, 3, 32, 32)
    own = {key: grad for key, grad in gradients(method, images).items() if "prompt" in key or "prefix" in key}
    assert own or EACH[name].get("frozen")
    for key, grad in own.items():
        assert grad is not None and grad.abs().sum() > 0, key
    again = vpt.build("prompt_ablations", TOWERS[tower](), CLASSES, num_tokens=3, **EACH[name])
    again.load_learned_state(method.learned_state())
    assert torch.equal(again.eval()(images), method.eval()(images))


def test_prompts_of_the_last_blocks_push_no_patch_away():
    """Unlike the official code: the sequence grows by the prompts, and every patch is still attended to."""
    images = torch.randn(1, 3, 32, 32).requires_grad_()
    for delete, seen in ((False, 16), (True, 13)):
        tower = timm_vit(depth=1)
        method = vpt.build("prompt_ablations", tower, CLASSES, num_tokens=3, deep=True, last=1, delete_patches=delete)
        (slope,) = torch.autograd.grad(method(images).sum(), images)
        per_patch = slope.unflatten(2, (4, 8)).unflatten(4, (4, 8)).abs().sum((0, 1, 3, 5)).flatten()
        assert (per_patch > 0).sum() == seen


def test_shared_prompts_are_deep_prompts_that_are_equal():
    images = torch.randn(2, 3, 32, 32)
    shared = vpt.build("prompt_ablations", timm_vit(), CLASSES, num_tokens=3, deep=True, shared=True)
    deep = vpt.build("prompt_ablations", timm_vit(), CLASSES, num_tokens=3, deep=True)
    equal = shared.prompt_embeddings.detach()
    deep.load_learned_state({**shared.learned_state(), "deep_prompt_embeddings": equal.repeat(2, 1, 1)})
    torch.testing.assert_close(shared(images), deep(images))
    assert shared.learned()[0] == "prompt_embeddings" and "deep_prompt_embeddings" not in shared.learned()


def test_initial_values():
    torch.manual_seed(0)
    strip = vpt.build("prompt_ablations", timm_vit(), CLASSES, location="pixel", normalize=True).prompt_embeddings
    assert strip.shape == (1, 3, 8, 80) and strip.min() >= 0 and strip.max() <= 1 and strip.std() > 0.25
    wide = vpt.build("prompt_ablations", timm_vit(), CLASSES, location="pixel", init="gaussian").prompt_embeddings
    assert wide.std().item() == pytest.approx(1, rel=0.1)
    narrow = vpt.build("prompt_ablations", timm_vit(), CLASSES, num_tokens=50, init="gaussian").prompt_embeddings
    assert narrow.std().item() == pytest.approx(0.02, rel=0.1)
    added = vpt.build("prompt_ablations", timm_vit(), CLASSES, location="add").prompt_embeddings
    assert added.shape == (1, 17, 32)


def test_layerwise_class_tokens(golden_cases, vit, inputs):
    expected = golden_cases("vpt/vpt_ablations")["clsemb"][1]["forward_cls_layerwise_image0"]
    found = layerwise_class_tokens(vit, inputs["images"])
    assert found.shape == (6, 5, 64)
    torch.testing.assert_close(found[0], expected, atol=5e-5, rtol=0)


def test_means_of_class_tokens():
    tower, images, labels = timm_vit(), torch.randn(6, 3, 32, 32), torch.tensor([2, 0, 1, 1, 2, 0])
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    each = layerwise_class_tokens(tower, images)
    means = class_token_embeddings(tower, batches, classes=3, count=3)
    torch.testing.assert_close(means, torch.stack([each[labels == label].mean(0) for label in range(3)]))
    torch.testing.assert_close(class_token_embeddings(tower, batches, 3, 1)[0], each.mean(0))
    apart = class_token_embeddings(tower, batches, 3, 6)
    torch.testing.assert_close(apart, each[[1, 2, 0, 5, 3, 4]])
    with pytest.raises(InputError, match="too few to start 7 prompts"):
        class_token_embeddings(tower, batches, 3, 7)


@pytest.mark.parametrize("options", [{}, dict(deep=True), dict(deep=True, last=2), dict(frozen=True)])
def test_prepare_starts_prompts_from_class_tokens(options):
    method = vpt.build("prompt_ablations", timm_vit(), CLASSES, num_tokens=2, init="cls-nolastl", **options)
    batches = [(torch.randn(4, 3, 32, 32), LABELS)]
    method.prepare(batches, [])
    embeddings = class_token_embeddings(method.backbone, batches, 3, 2)
    state = method.learned_state()
    if options.get("last"):
        torch.testing.assert_close(state["deep_prompt_embeddings"], embeddings[:, 1:3].transpose(0, 1))
    else:
        torch.testing.assert_close(state["prompt_embeddings"][0], embeddings[:, 0])
    if "deep" in options and not options.get("last"):
        torch.testing.assert_close(state["deep_prompt_embeddings"], embeddings[:, 1:3].transpose(0, 1))


def test_frozen_prompts_are_kept_but_do_not_learn():
    method = vpt.build("prompt_ablations", timm_vit(), CLASSES, deep=True, frozen=True)
    trained = [name for name, p in method.named_parameters() if p.requires_grad]
    assert trained == ["head.last_layer.weight", "head.last_layer.bias"]
    assert {"prompt_embeddings", "deep_prompt_embeddings"} < set(method.learned_state())


def test_what_learns_with_the_prompts():
    torch.manual_seed(0)
    bias = vpt.build("prompt_ablations", timm_vit(), CLASSES, also="bias").learned()
    assert {"patch_embed.proj.bias", "blocks.2.attn.qkv.bias", "norm.bias"} < set(bias)
    assert not any(name.endswith("weight") for name in bias if not name.startswith("head."))
    method = vpt.build("prompt_ablations", timm_vit(), CLASSES, also="cls-reinit")
    assert "cls_token" in method.learned() and 0 < method.backbone.model.cls_token.abs().max() < 1e-5
    clip = vpt.build("prompt_ablations", load_clip("embedded").image, CLASSES, also="bias")
    assert {"transformer.resblocks.0.attn.in_proj_bias", "ln_pre.bias"} < set(clip.learned())
    assert "class_embedding" in vpt.build("prompt_ablations", load_vit("embedded"), CLASSES, also="cls").learned()


EXCLUDED = {
    "layers is 2, but only deep prompts": dict(layers=2),
    "layers is 4; the backbone has 3 blocks": dict(layers=4, deep=True),
    "last is -1; the backbone has 3 blocks": dict(last=-1, deep=True),
    "choose the first or the last blocks, not both": dict(layers=1, last=1, deep=True),
    "unknown location 'prepand'; did you mean 'prepend'": dict(location="prepand"),
    "unknown init 'final_cls'; did you mean 'final-cls'": dict(init="final_cls"),
    "unknown pool 'images'; did you mean 'image'": dict(pool="images"),
    "unknown also 'biases'; did you mean 'bias'": dict(also="biases"),
    "num_tokens is 0": dict(num_tokens=0),
    "dropout is 1": dict(dropout=1.0),
    "the fast way knows prepended prompts": dict(location="add"),
    "pool: backbone only; set COMPUTE.WAY": dict(pool="image"),
    "enter at the first block": dict(location="pixel", deep=True),
    "set deep to false, dropout to 0": dict(location="pixel", dropout=0.1),
    "set deep to false, dropout to 0, project to -1": dict(location="pixel", project=8),
    "normalize is for pixels, not for location: prepend": dict(normalize=True),
    r"added prompts are no tokens \(pool: prompt\)": dict(location="add", pool="prompt"),
    "and set keep to true": dict(location="add_one", keep=False),
    "init: final-cls is for prepended prompts without project": dict(init="final-cls", project=8),
    "init: final-cls is for prepended prompts": dict(init="final-cls", location="add"),
    "init: cls-nolastl is for prepended prompts": dict(init="cls-nolastl", prefix=True, deep=True),
    "init: cls-nolastl is for .* without project, prefix and shared": dict(init="cls-nolastl", shared=True, deep=True),
    "shared prompts enter every block": dict(shared=True),
    "frozen prompts have no projection": dict(frozen=True, project=8),
    "delete_patches repeats": dict(delete_patches=True),
    "are learned layer by layer": dict(prefix=True),
    "which COMPUTE.WAY plain does not": dict(prefix=True, deep=True),
    "have no outputs": dict(prefix=True, deep=True, pool="cls"),
    "needs prompts after the last block": dict(pool="prompt", deep=True, layers=2, keep=False),
}


WAYS = {
    "the fast way knows prepended prompts": "fast",
    "pool: backbone only; set COMPUTE.WAY": "fast",
    "which COMPUTE.WAY plain does not": "plain",
}


@pytest.mark.parametrize("sentence", EXCLUDED)
def test_options_that_exclude_each_other_are_refused(sentence):
    tower = load_vit(timm_vit(), compute=Compute(WAYS.get(sentence, "auto")))
    with pytest.raises(InputError, match=sentence):
        vpt.build("prompt_ablations", tower, CLASSES, **EXCLUDED[sentence])


def test_backbones_without_what_is_needed():
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        vpt.build("prompt_ablations", load_vit("resnet18", pretrained="none"), CLASSES)
    without = timm_vit(class_token=False, global_pool="avg")
    with pytest.raises(InputError, match="has no class token to tune"):
        vpt.build("prompt_ablations", without, CLASSES, also="cls")
    with pytest.raises(InputError, match="has no class token to tune"):
        method = vpt.build("prompt_ablations", without, CLASSES, init="final-cls")
        method.prepare([(torch.randn(2, 3, 32, 32), LABELS[:2])], [])
    with pytest.raises(InputError, match="block 0 of backbone .* is not known: prefixes"):
        vpt.build("prompt_ablations", timm_vit(qk_norm=True), CLASSES, prefix=True, deep=True)
