"""Shared parts of tests against the official codes of methods on ViTs: comparisons, towers, images, VPT's names."""

import pytest
import torch
from official import steps
from timm.models.vision_transformer import VisionTransformer

from promptvision.backbones import load_vit
from promptvision.engine.optim import build_optimizer
from vpt.parts.bottleneck import our_names

CLASSES = [f"class {i}" for i in range(7)]
SIZES = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2)
REGISTERS = dict(reg_tokens=4, init_values=0.1, no_embed_class=True)
TOWERS = {
    "class token": lambda: load_vit(VisionTransformer(**SIZES)),
    "DINOv2's registers": lambda: load_vit(VisionTransformer(**SIZES, **REGISTERS)),
    "CLIP's image tower": lambda: load_vit("embedded"),
}
"""Kinds of tower that take prompts, for images of 32 pixels."""


@pytest.fixture(scope="session")
def check_step():
    """`check_step(method, images, labels, expected)` compares loss and the gradient of every learned tensor."""

    def check(method, images, labels, expected):
        for loss, gradients in steps(method, images, labels):
            torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
            for name, gradient in gradients.items():
                if gradient is not None or f"grad/{name}" in expected:
                    torch.testing.assert_close(gradient, expected[f"grad/{name}"], atol=2e-5, rtol=1e-4)

    return check


def ours(tensors, prefix=""):
    """The tensors below `prefix`, with our names in place of the official ones."""
    return our_names({name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)})


def without_key_biases(name, tensor):
    """Set the keys' biases, and SSF's shifts of keys, to zero.

    No output depends on them: their gradients are rounding errors, which AdamW divides by their own size.
    """
    if not name.endswith(("qkv.bias", "attn.ssf_shift_1")):
        return tensor
    query, key, value = tensor.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])


def trained(method, told, tensors):
    """The losses of the official training on the rows of `train_images`, six at a time."""
    optimizer = build_optimizer(told["optimizer"], method.named_parameters(), told["lr"], told["weight_decay"])
    losses = []
    for step in range(told["steps"]):
        rows = slice(step % 2 * 6, step % 2 * 6 + 6)
        loss = method.loss(tensors["train_images"][rows], tensors["train_labels"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.fixture(scope="session")
def check_official(inputs, golden):
    """`check_official(method, facts, expected)`: learned names, count, logits, loss, gradients, the training if it has
    one.

    A learned tensor that the case does not give starts as the method's does; the compact set leaves out gradients and
    learned tensors of some blocks. `settled(name, tensor)`: what of a learned tensor is compared after training.
    """
    batches = golden("vpt/train_trajectory")[1]

    def check(method, facts, expected, settled=without_key_biases):
        method.train()
        images, learned = inputs["images"], ours(dict.fromkeys(facts["trainable"]))
        assert set(method.learned()) - method.remembered == set(learned)
        assert method.learned_parameters() == facts["trainable_count"]
        given = {name: value for name, value in ours(expected).items() if name in learned}
        method.load_learned_state(method.learned_state() | given)
        torch.testing.assert_close(method(images), expected["logits"], atol=5e-5, rtol=0)
        gradients, after = ours(expected, "grad/"), ours(expected, "trajectory/after/")
        for loss, found in steps(method, images, inputs["labels"]):
            torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
            for name, gradient in gradients.items():
                torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=name)
        if "trajectory" not in facts:
            assert gradients
            return
        assert after and after.keys() == (gradients or after).keys()
        losses, state = trained(method, facts["trajectory"], batches), method.learned_state()
        torch.testing.assert_close(losses, expected["trajectory/loss"], atol=1e-4, rtol=0)
        for name, value in after.items():
            torch.testing.assert_close(settled(name, state[name]), settled(name, value), atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(method(images), expected["trajectory/logits_after"], atol=1e-4, rtol=0)

    return check


@pytest.fixture(scope="session")
def l2p(golden):
    """(settings, tensors) of the port; of images the compact set holds the patch embeddings alone."""
    settings, tensors = golden("vpt/l2p")
    tower = load_vit(golden.root / "vpt/backbone.safetensors")
    images = {key.removesuffix(".patches"): with_patches(tower, tensors[key]) for key in tensors if ".patches" in key}
    return settings, {**tensors, **images}


def with_patches(tower, patches):
    """Images (..., 3, 64, 64) that have these patch embeddings (..., 16, D)."""
    convolution = tower.model.patch_embed.proj
    weight, size = convolution.weight.double().flatten(1), convolution.kernel_size[0]
    pixels = (patches.double() - convolution.bias) @ torch.linalg.pinv(weight).T
    grid = pixels.unflatten(-2, (4, 4)).unflatten(-1, (3, size, size))
    return grid.movedim(-3, -5).transpose(-2, -3).flatten(-2).flatten(-3, -2).float()


OFFICIAL_TYPES = {
    "linear": ("linear", {}),
    "tinytl-bias": ("bias", {}),
    "cls": ("cls", {}),
    "cls-reinit": ("cls", {"reinit": True}),
    "prompt": ("prompt", {}),
    "prompt+bias": ("prompt_ablations", {"also": "bias"}),
    "prompt-noupdate": ("prompt_ablations", {"frozen": True}),
    "cls+prompt": ("prompt_ablations", {"also": "cls"}),
    "cls-reinit+prompt": ("prompt_ablations", {"also": "cls-reinit"}),
    "adapter": ("adapter", {}),
    "side": ("side", {}),
    "end2end": ("full", {}),
}
"""MODEL.TRANSFER_TYPE of VPT's code: our method and its options."""


@pytest.fixture(scope="session")
def official_type():
    """`official_type("partial-2")` gives our ("partial", {"blocks": 2})."""

    def find(name):
        kind, _, count = name.partition("-")
        return ("partial", {"blocks": int(count)}) if kind == "partial" else OFFICIAL_TYPES[name]

    return find
