"""Conversion of models of other libraries: their weights, copied into the model of timm or open_clip that is the same.

So prompts, LoRA, the fast way and other image sizes work as for any model of timm or open_clip. A conversion counts
only if it gives the features that the library's own code gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones.towers import ImageTower

Names = Sequence[tuple[str, str]]
"""Regular expressions and their replacements, applied one after the other."""
ROUND = 1e-6
"""Added to the ratio of two widths, which timm and open_clip multiply again and round down."""
NEAR = 1e-4
"""Largest difference of converted features from the library's own, relative to the largest feature, in float32."""


def renamed(state: Mapping[str, Tensor], names: Names, dropped: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the tensors of a state in float32 under other names, without those that begin with `dropped`."""
    found = dict[str, Tensor]()
    for key, tensor in state.items():
        if not key.startswith(dropped or "\0"):
            for pattern, name in names:
                key = re.sub(pattern, name, key)
            found[key] = tensor.detach().float()
    return found


def fused(state: Mapping[str, Tensor], parts: Sequence[str], joined: str) -> dict[str, Tensor]:
    """Concatenate the tensors that are called as each of `parts` (their `{}` is "weight" or "bias") to `joined`."""
    found, first = dict(state), parts[0].partition("{}")[0]
    for key in [key for key in state if first in key]:
        start, _, kind = key.partition(first)
        found[start + joined.format(kind)] = torch.cat([found.pop(start + part.format(kind)) for part in parts])
    return found


def filled(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Return a model with these weights, None if a name or a shape does not fit."""
    own = model.state_dict()
    if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
        return None
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def agrees(tower: ImageTower, module: nn.Module, features: Callable[[nn.Module, Tensor], Tensor]) -> bool:
    """Return whether a converted tower gives the features (1, E) that `features` computes by the library's own code."""
    size, like = tower.image_size, next(module.parameters())
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return near(tower(image), features(module.eval(), image.to(like)))


def near(found: Tensor, expected: Tensor) -> bool:
    """Return whether two ways to compute features agree up to rounding, in the precision of `expected`."""
    bound = NEAR if expected.dtype == torch.float32 else torch.finfo(expected.dtype).eps ** 0.5
    found, expected = found.cpu().double(), expected.cpu().double()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= bound * expected.abs().max())
