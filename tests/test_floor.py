"""FLOPs of a step on a ViT-B/16: no gradient below the first block that learns, none for what is frozen.

Closed forms of a stream cost what docs/steps.md says.
"""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vpt
from vpt.parts.closed_form import ClosedForm
from vpt.ran_pac import RIDGES

D, TOKENS, LABELS = 768, 197, ["a", "b"]
SQUARE, PRODUCT, PATCHES = 2 * TOKENS * D**2, 2 * TOKENS**2 * D, 2 * (TOKENS - 1) * D**2
"""A linear layer from D to D for all tokens, a product of all tokens with all, and the patch embedding."""
MLP = 8 * SQUARE


def forward(tokens=TOKENS):
    """The patch embedding and all blocks except the last, which the feature needs of one token alone."""
    return PATCHES * (tokens - 1) / (TOKENS - 1) + 11 * (24 * tokens * D**2 + 4 * tokens**2 * D)


def backward(blocks=11, tokens=TOKENS):
    """Gradients of the tokens that enter so many blocks before the last."""
    return blocks * (24 * tokens * D**2 + 8 * tokens**2 * D)


def learned(parameters):
    """Matrices of so many parameters in each block except the last, forward and both gradients."""
    return 11 * 6 * TOKENS * parameters


def first(tokens=TOKENS):
    """The part of `backward` that belongs to queries, keys and values of the first block's frozen tokens."""
    return 6 * tokens * D**2 + 6 * tokens**2 * D


WHOLE, LAST = forward() + backward(), 12 * SQUARE + 2 * PRODUCT
PROMPTS = 11 * (2 * 10 * 4 * D**2 + 12 * TOKENS * 10 * D)
"""Ten prompts that are keys and values alone, forward and backward, in each block except the last."""
ALEXNET = 2 * (64 * 3 * 121 * 55**2 + (192 * 64 * 25) * 27**2 + (384 * 192 + 256 * 384 + 256 * 256) * 9 * 13**2)
POOL = 25 * 2 * 12 * D**2
"""The last block of L2P's 25 prompts, which are classified; keys and values of all tokens come on top."""
ADAPTERS = forward() + backward(10)
"""Adapters beside or after MLPs: no gradient reaches the first block."""
ROWS = {
    "linear": ({}, forward()),
    "linear, mixture": (dict(mixture=True), forward()),
    "vqt": ({}, forward()),
    "partial": ({}, forward()),
    "bias": ({}, WHOLE),
    "ln": ({}, WHOLE),
    "diff_fit": ({}, WHOLE),
    "cls": ({}, WHOLE),
    "full": ({}, WHOLE + PATCHES + 11 * 12 * SQUARE),
    "ssf": ({}, WHOLE),
    "fact": ({}, WHOLE + learned(16 * D * 16 + 12 * 16**2)),
    "lora": ({}, WHOLE - 3 * SQUARE + learned(2 * 2 * D * 4)),
    "adapter": ({}, ADAPTERS + learned(2 * D * 96)),
    "adapter, AdaptFormer": (dict(parallel=True, bottleneck=64), ADAPTERS + learned(2 * D * 64)),
    "adapter, Houlsby": (
        dict(sequential=True, after_attention=True, bottleneck=8),
        ADAPTERS + MLP + learned(2 * 2 * D * 8),
    ),
    "convpass": ({}, ADAPTERS + MLP + learned(2 * (2 * D * 8 + 9 * 8**2))),
    "repadapter": ({}, WHOLE + learned(2 * (D * 8 + D * 4))),
    "prompt": ({}, forward() + backward() - first() + 11 * (480 * D**2 + 12 * D * (207**2 - 197**2))),
    "prompt, deep": (dict(deep=True), WHOLE - first() + PROMPTS),
    "vfpt": ({}, WHOLE - first() + PROMPTS),
    "e2vpt": ({}, WHOLE - first() + PROMPTS),
    "dtl": ({}, forward() + backward(5) + LAST),
    "pad": ({}, forward(257) + backward(11, 257) + PATCHES * 256 / 196),
    "below": ({}, WHOLE + 12 * PATCHES),
    "side": ({}, forward() + 3 * ALEXNET - 2 * 64 * 3 * 121 * 55**2),
    "l2p": ({}, forward() + forward(222) + backward(11, 222) - first(222) + 2 * POOL + 8 * 222 * D**2),
    "dual_prompt": ({}, forward() + WHOLE - first()),
    "coda_prompt": ({}, forward() + WHOLE - first()),
    "layer_pools": ({}, forward() + WHOLE - first()),
    "aper": (dict(parallel=True, bottleneck=64), ADAPTERS + learned(2 * D * 64)),
    "ran_pac": (dict(parallel=True, bottleneck=64), ADAPTERS + learned(2 * D * 64)),
    "ease": ({}, ADAPTERS + learned(2 * D * 64)),
}
"""Options and FLOPs that a step of one image cannot do without, counted a little too low: terms of one token, small
products and the classifier are left out. A row is `method`, or `method, what`."""
OTHERS = {"knn", "simple_cil", "swin_prompt", "prompt_ablations"}
"""No steps, no class token, or the steps of `prompt`."""


def test_every_method_has_a_row():
    assert {name.partition(",")[0] for name in ROWS} == set(vpt.METHODS) - OTHERS


@pytest.mark.parametrize("name", ROWS)
def test_a_step_costs_at_most_three_percent_more_than_it_must(name, vit_b16):
    options, floor = ROWS[name]
    images, labels = torch.empty(1, 3, 224, 224, device="meta"), torch.empty(1, dtype=torch.long, device="meta")
    method = vpt.build(name.partition(",")[0], vit_b16, LABELS, **options).to("meta").train()
    if isinstance(method, ClosedForm):
        method.head = torch.nn.Linear(D, 2, device="meta")  # autocast knows no such device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        method.loss(images, labels).backward()
    vit_b16.requires_grad_(False)
    assert 1 <= counter.get_total_flops() / floor < 1.03, counter.get_total_flops() / floor


PASSES = {
    "simple_cil": ({}, [1, 1]),
    "aper": (dict(bottleneck=2), [2, 2]),
    "ran_pac": (dict(bottleneck=2, projection=50), [1, 1]),
    "ease": (dict(bottleneck=2), [1, 2]),
}
"""Options, and how often an image goes through the tower in the first task and in the second."""


@pytest.mark.parametrize("name", PASSES)
def test_the_passes_of_a_closed_form(name, vit):
    options, wanted = PASSES[name]
    method, passes = vpt.build(name, vit, ["a", "b", "c", "d"], **options).eval(), []
    vit.blocks[0].register_forward_hook(lambda module, args, output: passes.append(1))
    for task, count in enumerate(wanted):
        method.start_task(task, 2)
        labels = torch.tensor([0, 1, 0, 1]) + 2 * task
        method.finish([(torch.randn(4, 3, 64, 64), labels)], ())
        assert len(passes) == count
        method(torch.randn(4, 3, 64, 64))
        assert len(passes) == 2 * count
        passes.clear()


def test_what_ran_pac_fits_besides(vit):
    """G and Q of all images of a task, and of the 80 % of them that choose lambda, whose 17 heads the rest tests."""

    def fitted(images, dim, width, classes):
        first = 0.8 * images
        chosen = len(RIDGES) * (images - first) * width * classes
        return 2 * (images * dim * width + (images + first) * (width**2 + width * classes) + chosen)

    method = vpt.build("ran_pac", vit, ["a", "b", "c"], host="none", projection=50)
    with FlopCounterMode(display=False) as counter:
        method.fit(torch.randn(10, vit.feature_dim), torch.arange(10) % 3)
    assert counter.get_total_flops() == pytest.approx(fitted(10, vit.feature_dim, 50, 3))
    sums = sum(each.nbytes for each in (method.G, method.Q))
    assert sums == 4 * (50**2 + 50 * 3)
    page = (Path(__file__).parents[1] / "docs/steps.md").read_text(encoding="utf-8")
    assert f"{fitted(1, D, 10000, 100) / 1e9:.3f} GFLOP per image of a task" in page
    assert f"sums of {4 * (10000**2 + 10000 * 100) / 1e6:.0f} MB" in page and f"{len(RIDGES) + 1} linear" in page
