"""FLOPs of a step on a ViT-B/16: no gradient below the first block that learns, none for what is frozen."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vpt

TOKENS, WIDTH, RANK = 197, 768, 16
FACTORS = 16 * WIDTH * RANK + 12 * RANK**2
"""Products of FacT for a token of a block, with U x computed once for queries, keys and values."""
OWN = {"ln": 0, "bias": 0, "diff_fit": 0, "ssf": 0, "fact": 6 * TOKENS * 11 * FACTORS}
"""FLOPs of what a method adds to the tower, forward and backward; in the last block nearly nothing is left of it."""


def counted(work):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", OWN)
def test_a_step_costs_at_most_three_percent_more_than_it_must(name, vit_b16):
    images, labels = torch.empty(1, 3, 224, 224, device="meta"), torch.empty(1, dtype=torch.long, device="meta")
    method = vpt.build(name, vit_b16, ["a", "b"]).to("meta").train()
    step = counted(lambda: method.loss(images, labels).backward())
    vit_b16.requires_grad_(False)
    assert 1 <= step / (floor(vit_b16, images) + OWN[name]) < 1.03


def floor(tower, images):
    """The tower forward, and backward to the tokens that enter its first block."""

    def work():
        tokens = tower.embed(images).requires_grad_()
        tower.pool(tower.run(tower.enter(tokens), first=tower.pooled)).sum().backward()

    return counted(work)
