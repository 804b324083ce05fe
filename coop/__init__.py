"""Prompt learning for CLIP: a table of methods, their options, and one way to build them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coop.clip_adapter import ClipAdapter
from coop.clip_lora import ClipLora
from coop.cocoop import CoCoOp
from coop.coop import CoOp
from coop.dapl import DAPL
from coop.ivlp import IVLP
from coop.kg_coop import KgCoOp
from coop.linear_probe import LinearProbe
from coop.maple import MaPLe
from coop.parts.official_checkpoints import load_official
from coop.plot import Plot
from coop.pro_grad import ProGrad
from coop.prompt_kd import PromptKD
from coop.prompt_src import PromptSRC
from coop.task_res import TaskRes
from coop.tcp import TCP
from coop.tip_adapter import TipAdapter, TipAdapterF
from coop.tpt import TPT
from coop.visual_prompt import VisualPrompt
from coop.zero_shot import ZeroShot
from promptvision.backbones import CLIP, load_clip
from promptvision.errors import InputError
from promptvision.method import Method, build_method, find_method, option_defaults

METHODS: dict[str, type[Method]] = {
    "zero_shot": ZeroShot,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "linear_probe": LinearProbe,
    "tip_adapter": TipAdapter,
    "tip_adapter_f": TipAdapterF,
    "vpt": VisualPrompt,
    "clip_lora": ClipLora,
    "dapl": DAPL,
    "ivlp": IVLP,
    "maple": MaPLe,
    "prompt_src": PromptSRC,
    "task_res": TaskRes,
    "clip_adapter": ClipAdapter,
    "kg_coop": KgCoOp,
    "pro_grad": ProGrad,
    "plot": Plot,
    "tcp": TCP,
    "prompt_kd": PromptKD,
    "tpt": TPT,
}
load_backbone = load_clip
load_checkpoint = load_official


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults, as METHOD.OPTIONS spells them."""
    return option_defaults(find_method("coop", METHODS, name))


def build(name: str, backbone: CLIP, classes: Sequence[str], **options: Any) -> Method:
    """A method on a CLIP for these class names; options are the keyword-only arguments of its class."""
    method = find_method("coop", METHODS, name)
    if not isinstance(backbone, CLIP):
        raise InputError(f"coop methods need a CLIP (load_clip), not a {type(backbone).__name__}")
    return build_method(method, name, backbone, classes, options)
