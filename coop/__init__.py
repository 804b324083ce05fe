"""Prompt learning for CLIP: a table of methods, their options, and one way to build them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptvision.config.methods import MethodTable
from promptvision.errors import InputError

if TYPE_CHECKING:  # the table is read without torch
    from torch import Tensor

    from promptvision.backbones import CLIP
    from promptvision.method import Method

METHODS = MethodTable(
    "coop",
    {
        "zero_shot": "coop.zero_shot:ZeroShot",
        "coop": "coop.coop:CoOp",
        "cocoop": "coop.cocoop:CoCoOp",
        "linear_probe": "coop.linear_probe:LinearProbe",
        "tip_adapter": "coop.tip_adapter:TipAdapter",
        "tip_adapter_f": "coop.tip_adapter:TipAdapterF",
        "vpt": "coop.visual_prompt:VisualPrompt",
        "clip_lora": "coop.clip_lora:ClipLora",
        "dapl": "coop.dapl:DAPL",
        "ivlp": "coop.ivlp:IVLP",
        "maple": "coop.maple:MaPLe",
        "co_prompt": "coop.co_prompt:CoPrompt",
        "prompt_src": "coop.prompt_src:PromptSRC",
        "skip_tuning": "coop.skip_tuning:SkipTuning",
        "task_res": "coop.task_res:TaskRes",
        "clip_adapter": "coop.clip_adapter:ClipAdapter",
        "kg_coop": "coop.kg_coop:KgCoOp",
        "pro_grad": "coop.pro_grad:ProGrad",
        "plot": "coop.plot:Plot",
        "tcp": "coop.tcp:TCP",
        "prompt_kd": "coop.prompt_kd:PromptKD",
        "mmrl": "coop.mmrl:MMRL",
        "mmrl_pp": "coop.mmrl_pp:MMRLpp",
        "mma_pp": "coop.mma_pp:MMApp",
        "tpt": "coop.tpt:TPT",
        "gda": "coop.gda:GDA",
        "lp_plus_plus": "coop.lp_plus_plus:LPPlusPlus",
        "clap": "coop.clap:CLAP",
        "two_stage": "coop.two_stage:TwoStage",
        "dept": "coop.dept:DePT",
        "at_prompt": "coop.at_prompt:ATPrompt",
    },
    hosts={
        "dept": ("coop", "kg_coop", "cocoop", "maple", "prompt_src", "at_prompt"),
        "at_prompt": ("coop", "kg_coop", "cocoop", "maple", "prompt_src"),
    },
)
options = METHODS.options


def build(name: str, backbone: CLIP, classes: Sequence[str], **options: Any) -> Method:
    """Build a method on a CLIP for these class names; `options` are the keyword-only arguments of its class."""
    from promptvision.backbones import CLIP

    METHODS.check(name)
    if not isinstance(backbone, CLIP):
        raise InputError(f"coop methods need a CLIP (load_clip), not a {type(backbone).__name__}")
    return METHODS.build(name, backbone, classes, options)


def load_backbone(*args: Any, **options: Any) -> CLIP:
    """Load a CLIP with the arguments of `promptvision.backbones.load_clip`."""
    from promptvision.backbones import load_clip

    return load_clip(*args, **options)


def load_checkpoint(path: str | Path, method: Method | None = None) -> dict[str, Tensor]:
    """Read the learned tensors of a checkpoint that an official code wrote."""
    from coop.parts.official_checkpoints import load_official

    return load_official(path, method)
