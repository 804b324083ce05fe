"""AugMix: an image mixed with chains of simple changes of itself (Hendrycks et al., ICLR 2020, arXiv:1912.02781).

Severity 1, as TPT has it (azshue/TPT, data/datautils.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

CHAINS = 3
LONGEST = 3
"""Operations of a chain, at most."""

Operation = Callable[[Image.Image, float, float], Image.Image]
"""(image, level 0.1 to 1, coin 0 to 1) to the changed image; a coin above one half turns the direction."""
Link = tuple[str, float, float]
"""An operation's name, level and coin."""


def _sign(coin: float) -> int:
    return -1 if coin > 0.5 else 1


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, level, coin: ImageOps.autocontrast(image),
    "equalize": lambda image, level, coin: ImageOps.equalize(image),
    "posterize": lambda image, level, coin: ImageOps.posterize(image, 4 - int(0.4 * level)),  # bits
    "rotate": lambda image, level, coin: image.rotate(_sign(coin) * int(3 * level), Image.Resampling.BILINEAR),
    "solarize": lambda image, level, coin: ImageOps.solarize(image, 256 - int(25.6 * level)),
    "shear_x": lambda image, level, coin: _affine(image, 1, _sign(coin) * 0.03 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level, coin: _affine(image, 1, 0, 0, _sign(coin) * 0.03 * level, 1, 0),
    "translate_x": lambda image, level, coin: _affine(
        image, 1, 0, _sign(coin) * int(0.1 * level * image.width / 3), 0, 1, 0
    ),
    "translate_y": lambda image, level, coin: _affine(
        image, 1, 0, 0, 0, 1, _sign(coin) * int(0.1 * level * image.height / 3)
    ),
}


def mixed(image: Image.Image, share: float, weights: Sequence[float], chains: Sequence[Sequence[Link]]) -> Tensor:
    """Mix an RGB image, by its `share`, with the changed images of `chains`, by their `weights`, (3, H, W) in 0..1.

    The original mixes normalised images; as the weights sum to 1, normalising the mixture is the same.
    """
    mixture = share * unit(image)
    for weight, chain in zip(weights, chains, strict=True):
        changed = image
        for name, level, coin in chain:
            changed = OPERATIONS[name](changed, level, coin)
        mixture += (1 - share) * weight * unit(changed)
    return mixture


def augmix(image: Image.Image) -> Tensor:
    """Mix an RGB image with three random chains of one to three operations, (3, H, W) float32 in 0..1.

    Weights are drawn from Dirichlet(1, 1, 1), the image's share from Beta(1, 1), all by torch's global generator.
    """
    weights = torch.distributions.Dirichlet(torch.ones(CHAINS)).sample().tolist()
    share, names = torch.rand(()).item(), list(OPERATIONS)
    chains = []
    for length in torch.randint(1, LONGEST + 1, (CHAINS,)).tolist():
        levels, coins = (0.1 + 0.9 * torch.rand(length)).tolist(), torch.rand(length).tolist()
        picked = [names[index] for index in torch.randint(len(names), (length,)).tolist()]
        chains.append(list(zip(picked, levels, coins, strict=True)))
    return mixed(image, share, weights, chains)


def unit(image: Image.Image) -> Tensor:
    """Return an RGB image as float32 (3, H, W) in 0..1, as torchvision's ToTensor does."""
    return F.pil_to_tensor(image).float().div_(255)
