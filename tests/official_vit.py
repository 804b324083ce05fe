"""Comparisons with the official codes of the rivals of VPT: a step and a short training of one golden case."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from promptvision.backbones import load_vit
from promptvision.engine.optim import build_optimizer

CLASSES = [f"class {i}" for i in range(7)]
SIZES = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2)
REGISTERS = dict(reg_tokens=4, init_values=0.1, no_embed_class=True)
TOWERS = {
    "class token": lambda: load_vit(VisionTransformer(**SIZES)),
    "DINOv2's registers": lambda: load_vit(VisionTransformer(**SIZES, **REGISTERS)),
    "CLIP's image tower": lambda: load_vit("embedded"),
}
"""Kinds of tower that take prompts, for images of 32 pixels."""


def part(expected, prefix):
    """The tensors below `prefix`, by their names there."""
    return {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}


def ours(method, tensors):
    """Tensors under the official names, under the method's names."""
    kept = method.learned_state()
    method.load_learned_state(tensors)
    renamed = method.learned_state()
    method.load_learned_state(kept)
    return renamed


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
def check_official(inputs, golden, check_step):
    """`check_official(method, facts, expected)`: count, logits, loss, gradients, and where it has one the training.

    `settled(name, tensor)`: what of a learned tensor is compared after training; Adam steps on rounding elsewhere.
    """
    batches = golden("vpt/train_trajectory")[1]

    def check(method, facts, expected, settled=lambda name, tensor: tensor):
        images, labels = inputs["images"], inputs["labels"]
        method.train().load_learned_state({name: expected[name] for name in facts["trainable"]})
        assert method.learned_parameters() == facts["trainable_count"]
        torch.testing.assert_close(method(images), expected["logits"], atol=5e-5, rtol=0)
        gradients = {f"grad/{name}": value for name, value in ours(method, part(expected, "grad/")).items()}
        check_step(method, images, labels, {"loss": expected["loss"], **gradients})
        if "trajectory" not in facts:
            return
        losses = trained(method, facts["trajectory"], batches)
        torch.testing.assert_close(losses, expected["trajectory/loss"], atol=1e-4, rtol=0)
        after = ours(method, part(expected, "trajectory/after/"))
        for name, value in method.learned_state().items():
            pair = settled(name, value), settled(name, after[name])
            torch.testing.assert_close(*pair, atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(method(images), expected["trajectory/logits_after"], atol=1e-4, rtol=0)

    return check
