"""Convpass: convolutions over the patches beside attention and MLP (Jie and Deng, arXiv:2207.07039)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import unknown
from vpt.parts.beside import Beside, Change
from vpt.parts.heads import Head

INITS = ("delta", "xavier")


class Bypass(nn.Module):
    """The change scale up(g(conv(g(down(x))))) with g(v) = v sigmoid(1.702 v) and a 3 x 3 convolution.

    It starts at zero: `up` and all biases are 0. `down` is Xavier uniform; `init` is that of the convolution: "delta",
    the identity, or "xavier".
    """

    def __init__(self, width: int, hidden: int, scale: float, init: str, dropout: float):
        super().__init__()
        self.adapter_down, self.adapter_up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adapter_conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.activation, self.scale, self.dropout = QuickGELU(), scale, dropout
        nn.init.xavier_uniform_(self.adapter_down.weight)
        nn.init.zeros_(self.adapter_up.weight)
        if init == "delta":
            nn.init.dirac_(self.adapter_conv.weight)
        else:
            nn.init.xavier_uniform_(self.adapter_conv.weight)
        for layer in (self.adapter_down, self.adapter_up, self.adapter_conv):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, prefix: int, aspect: float) -> Tensor:
        """Return the change (B, N, D) of `prefix` tokens, each an image of its own, and of a grid of patches.

        `aspect`: height of the grid over its width. Without patches, only that of the first tokens is computed.
        """
        hidden = self.activation(self.adapter_down(tokens))
        weight, bias = self.adapter_conv.weight, self.adapter_conv.bias
        parts = [F.linear(hidden[:, :prefix], weight[:, :, 1, 1], bias)]
        if tokens.shape[1] > prefix:
            height = round(((tokens.shape[1] - prefix) * aspect) ** 0.5)
            patches = hidden[:, prefix:].transpose(1, 2).unflatten(-1, (height, -1))
            parts.append(self.adapter_conv(patches).flatten(2).transpose(1, 2))
        hidden = F.dropout(self.activation(torch.cat(parts, dim=1)), self.dropout, self.training)
        return self.scale * self.adapter_up(hidden)


class Convpass(Beside):
    """A convolutional bypass of attention and MLP of every block, h + f(norm(h)) + P(norm(h)), and a linear head.

    `bottleneck`: width d of the bypasses. `scale`: their factor s. `attention_only`: attention alone has one, the
    paper's Convpass-attn. `init`: start of the convolutions, "delta" (the identity) or "xavier"; both were published,
    by dataset. `dropout`: dropout before the last layer of a bypass; the official code's is 0.1. `head_init`: init of
    the classifier, "small" or "published". Class token and registers meet the centre of the kernel alone. With
    `drop_path`, a bypass is left out with its attention or MLP; the official code draws for each of the two.
    Learns `blocks.i.adapter_{attn,mlp}.adapter_{down,conv,up}.{weight, bias}` and the head.
    """

    where = "beside"

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        bottleneck: int = 8,
        scale: float = 1.0,
        attention_only: bool = False,
        init: str = "delta",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        if init not in INITS:
            raise unknown("init of Convpass", init, INITS)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.place(partial(Bypass, backbone.width, bottleneck, scale, init, dropout), attention_only)

    def change(self, module: nn.Module, images: Tensor) -> Change:
        return partial(module, prefix=self.backbone.prefix, aspect=images.shape[-2] / images.shape[-1])
