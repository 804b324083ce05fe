"""Visual prompt tuning of ViTs and its rivals: a table of methods, their options, and one way to build them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptvision.config.methods import MethodTable

if TYPE_CHECKING:  # the table is read without torch
    from torch import nn

    from promptvision.backbones import ImageTower
    from promptvision.method import Method

METHODS = MethodTable(
    "vpt",
    {
        "linear": "vpt.fine_tune:Linear",
        "partial": "vpt.fine_tune:Partial",
        "bias": "vpt.fine_tune:Bias",
        "ln": "vpt.fine_tune:LayerNorms",
        "diff_fit": "vpt.diff_fit:DiffFit",
        "cls": "vpt.fine_tune:ClassToken",
        "full": "vpt.fine_tune:Full",
        "adapter": "vpt.adapter:Adapter",
        "convpass": "vpt.convpass:Convpass",
        "repadapter": "vpt.repadapter:RepAdapter",
        "lora": "vpt.lora:Lora",
        "ssf": "vpt.ssf:SSF",
        "fact": "vpt.fact:FacT",
        "side": "vpt.side:Side",
        "knn": "vpt.knn:NearestNeighbours",
        "prompt": "vpt.prompt:Prompt",
        "prompt_ablations": "vpt.prompt_ablations:PromptAblations",
        "vfpt": "vpt.vfpt:VFPT",
        "e2vpt": "vpt.e2vpt:E2VPT",
        "vqt": "vpt.vqt:VQT",
        "dtl": "vpt.dtl:DTL",
        "swin_prompt": "vpt.swin_prompt:SwinPrompt",
        "pad": "vpt.pixels:Pad",
        "below": "vpt.pixels:Below",
        "l2p": "vpt.l2p:L2P",
        "dual_prompt": "vpt.dual_prompt:DualPrompt",
        "coda_prompt": "vpt.coda_prompt:CODAPrompt",
        "layer_pools": "vpt.layer_pools:LayerPools",
        "simple_cil": "vpt.simple_cil:SimpleCIL",
        "aper": "vpt.aper:APER",
        "ran_pac": "vpt.ran_pac:RanPAC",
        "ease": "vpt.ease:EASE",
    },
    aliases={"bitfit": "bias"},
    hosts={"aper": ("adapter", "prompt", "lora", "ssf"), "ran_pac": ("adapter", "prompt", "lora", "ssf", "none")},
)
options = METHODS.options


def build(name: str, backbone: ImageTower | nn.Module, classes: Sequence[str], **options: Any) -> Method:
    """Build a method on an image tower for these class names; `options` are the keyword-only arguments of its class."""
    name = METHODS.aliases.get(name, name)
    METHODS.check(name)
    return METHODS.build(name, load_backbone(backbone), classes, options)


def load_backbone(*args: Any, **options: Any) -> ImageTower:
    """Load an image tower with the arguments of `promptvision.backbones.load_vit`."""
    from promptvision.backbones import load_vit

    return load_vit(*args, **options)
