"""Prompts on the image itself: a learned border, learned channels (VPT, arXiv:2203.12119, section 4.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.positions import resize_positions
from promptvision.errors import InputError
from vpt.parts.heads import Head, HeadMethod
from vpt.parts.locations import normalized
from vpt.prompt import init_bound


class Pad(HeadMethod):
    """A learned border around every image, and a linear head; for any backbone.

    `border`: width p of the border in pixels; the image grows by twice that. `positions`: method of resizing a ViT's
    position embeddings to the larger image, "timm" or "official" (`resize_positions`); pixels that its patches do not
    divide are left out at the right and lower edge. `head_init`: init of the classifier, "small" or "published". The
    border is in [0, 1], starts from U(0, 1), and is normalised as images are. Learns `prompt_embeddings_tb` (1, 3, 2 p,
    W + 2 p), the rows above and below, `prompt_embeddings_lr` (1, 3, H, 2 p), the columns left and right, and
    `head.last_layer.{weight, bias}`.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        border: int = 16,
        positions: str = "timm",
        head_init: str = "small",
    ):
        if border < 1:
            raise InputError(f"border is {border}; a learned border needs at least one pixel")
        size = backbone.image_size
        larger = resize_positions(backbone, size + 2 * border, positions)
        larger.image_size = size  # that of the images that are loaded
        super().__init__(larger, classes)
        self.border = border
        self.prompt_embeddings_tb = nn.Parameter(torch.rand(1, 3, 2 * border, size + 2 * border))
        self.prompt_embeddings_lr = nn.Parameter(torch.rand(1, 3, size, 2 * border))
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def padded(self, images: Tensor) -> Tensor:
        """Put the border around images: (B, 3, H, W) to (B, 3, H + 2 p, W + 2 p)."""
        if images.shape[-2:] != self.prompt_embeddings_lr.shape[-2:-1] * 2:
            side = self.prompt_embeddings_lr.shape[-2]
            raise InputError(f"the border fits images of {side} pixels, not {tuple(images.shape[-2:])}")
        batch, p = images.shape[0], self.border
        sides, ends = (
            normalized(part, self.backbone).to(images.dtype).expand(batch, -1, -1, -1)
            for part in (self.prompt_embeddings_lr, self.prompt_embeddings_tb)
        )
        wide = torch.cat([sides[..., :p], images, sides[..., p:]], dim=-1)
        return torch.cat([ends[..., :p, :], wide, ends[..., p:, :]], dim=-2)

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(self.padded(images))


class Below(HeadMethod):
    """P learned channels beside red, green and blue, and a linear head; for backbones that begin with a convolution.

    The first convolution takes 3 + P channels and learns, weight and bias (if it has one); its part for red, green and
    blue starts unchanged. `num_tokens`: number of channels P. `head_init`: init of the classifier, "small" or
    "published". Learns `prompt_embeddings` (1, P, H, W), the convolution by its own name, and `head.last_layer.{weight,
    bias}`.
    """

    def __init__(self, backbone: ImageTower, classes: Sequence[str], *, num_tokens: int = 10, head_init: str = "small"):
        if num_tokens < 1:
            raise InputError(f"num_tokens is {num_tokens}; there must be at least one channel to learn")
        tower, bound = _widened(backbone, num_tokens)
        super().__init__(tower, classes)
        self.thaw(getattr(*tower.stem).parameters())
        size = backbone.image_size
        self.prompt_embeddings = nn.Parameter(torch.empty(1, num_tokens, size, size).uniform_(-bound, bound))
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def features(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != self.prompt_embeddings.shape[-2:]:
            side = self.prompt_embeddings.shape[-1]
            raise InputError(f"the channels fit images of {side} pixels, not {tuple(images.shape[-2:])}")
        own = self.prompt_embeddings.to(images.dtype).expand(images.shape[0], -1, -1, -1)
        return self.backbone(torch.cat([images, own], dim=1))


def _widened(backbone: ImageTower, count: int) -> tuple[ImageTower, float]:
    """Return a tower with `count` channels more, other weights shared, and the half-width of their uniform init."""
    tower = copy.deepcopy(backbone, {id(parameter): parameter for parameter in backbone.parameters()})
    conv = getattr(*tower.stem)
    if not isinstance(conv, nn.Conv2d) or conv.in_channels != 3 or conv.groups != 1:
        raise InputError(f"backbone {backbone.name!r} begins with {conv}, which takes no channels beside the colours")
    bound = init_bound(conv.kernel_size[0], conv.out_channels)
    extra = conv.weight.new_empty(conv.out_channels, count, *conv.kernel_size).uniform_(-bound, bound)
    conv.weight = nn.Parameter(torch.cat([conv.weight.detach(), extra], dim=1))
    conv.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
    conv.in_channels += count
    return tower, bound
