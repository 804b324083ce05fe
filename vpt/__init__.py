"""Visual prompt tuning of ViTs and its rivals: a table of methods, their options, and one way to build them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from promptvision.backbones import ImageTower, load_vit
from promptvision.method import Method, build_method, find_method, option_defaults
from vpt.adapter import Adapter
from vpt.coda_prompt import CODAPrompt
from vpt.dual_prompt import DualPrompt
from vpt.fine_tune import Bias, ClassToken, Full, Linear, Partial
from vpt.knn import NearestNeighbours
from vpt.l2p import L2P
from vpt.lora import Lora
from vpt.pixels import Below, Pad
from vpt.prompt import Prompt
from vpt.prompt_ablations import PromptAblations
from vpt.side import Side
from vpt.swin_prompt import SwinPrompt

METHODS: dict[str, type[Method]] = {
    "linear": Linear,
    "partial": Partial,
    "bias": Bias,
    "cls": ClassToken,
    "full": Full,
    "adapter": Adapter,
    "lora": Lora,
    "side": Side,
    "knn": NearestNeighbours,
    "prompt": Prompt,
    "prompt_ablations": PromptAblations,
    "swin_prompt": SwinPrompt,
    "pad": Pad,
    "below": Below,
    "l2p": L2P,
    "dual_prompt": DualPrompt,
    "coda_prompt": CODAPrompt,
}
load_backbone = load_vit


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults, as METHOD.OPTIONS spells them."""
    return option_defaults(find_method("vpt", METHODS, name))


def build(name: str, backbone: ImageTower | nn.Module, classes: Sequence[str], **options: Any) -> Method:
    """A method on an image tower for these class names; options are the keyword-only arguments of its class."""
    method = find_method("vpt", METHODS, name)
    return build_method(method, name, load_vit(backbone), classes, options)
