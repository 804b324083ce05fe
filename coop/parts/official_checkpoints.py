"""Checkpoints of the official codes: Dassl's `model.pth.tar-50`, CLIP-LoRA's `lora_weights.pt`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from promptvision.atomic import refuse_damaged
from promptvision.backbones.safe_pickle import read_inert
from promptvision.errors import InputError
from promptvision.method import Method

OF_CLASSES = ("token_", "base_text_features")
"""Beginnings of the names of tensors of the class names, which every method computes for its own classes."""
WHOLE = (
    "prompt_learner.ctx",
    "image_encoder.VPT",
    "representation_learner.",
    "adapter_learner.",
    "image_encoder.conv1.weight",
)
"""A state with such a name is that of a whole model with its frozen towers, as IVLP, MaPLe, PromptSRC, MMRL save."""
LEARNERS = (
    "prompt_learner",
    "VPT_image_trans",
    "representation_learner",
    "adapter_learner",
    "film_lp",
    "linear_probe_proj",
)
"""Parts of a whole model that learn."""
BESIDE = ("image_encoder.proj_rep", "image_encoder.A", "image_encoder.B")
"""Learned tensors of MMRL and MMRL++ among those of the frozen image tower."""
WRAPPERS = {"module", "prompt_learner", "adapter_learner"}
"""Parts of a name that depend on which module was saved, and on whether DataParallel wrapped it."""


def load_official(path: str | Path, method: Method | None = None) -> dict[str, Tensor]:
    """Read the learned tensors of an official checkpoint, in float32: `ctx`, and `meta_net.*` of CoCoOp.

    Dassl saves {"state_dict", "epoch", "optimizer", "scheduler"}, with pickled scheduler objects of its own classes;
    only tensors are rebuilt, and no code from the file is run. A bare state {"ctx", ...} is read as well. Names get the
    form of `method`, with `prompt_learner.` or without. `method.from_official(content)` translates what CLIP-LoRA
    saves, {"weights", "metadata"}.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint {path}; the official ones are named as in prompt_learner/model.pth.tar-50")
    with refuse_damaged(f"{path} is damaged or not a checkpoint of torch 1.6 or later"):
        content = read_inert(path)
    if isinstance(content, dict) and "weights" in content:
        return read_layers(path, content, method)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    named = state.items() if isinstance(state, dict) else ()
    tensors = {without(str(name), {"module"}): value for name, value in named if isinstance(value, Tensor)}
    whole = any(name.startswith(WHOLE) for name in tensors)
    ours = {without(name, WRAPPERS): name for name in method.learned()} if method else {}
    if "ctx" not in tensors and not whole and ours.keys().isdisjoint(without(name, WRAPPERS) for name in tensors):
        raise InputError(f"{path} is not a checkpoint of CoOp or CoCoOp: its state_dict holds no 'ctx'")
    learned = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if without(name, WRAPPERS) in ours or is_learned(name, whole)
    }
    return {ours.get(without(name, WRAPPERS), name): tensor for name, tensor in learned.items()}


def without(name: str, parts: Collection[str]) -> str:
    """Return a dotted name without some of its parts."""
    return ".".join(part for part in name.split(".") if part not in parts)


def is_learned(name: str, whole: bool) -> bool:
    """Return whether training changed a tensor; `whole`: the checkpoint is of a whole model.

    PromptSRC's frozen teacher is part of its prompt learner.
    """
    place, _, last = name.rpartition(".")
    if last.startswith(OF_CLASSES) or "ZS_image_encoder" in place:
        return False
    return not whole or place.startswith(LEARNERS) or last in ("VPT", "VPT_shallow") or name in BESIDE


def read_layers(path: Path, content: dict[str, Any], method: Method | None) -> dict[str, Tensor]:
    """Translate the layers of a CLIP-LoRA checkpoint to the names of `method`."""
    translate = getattr(method, "from_official", None)
    if translate is None:
        raise InputError(f"{path} is a checkpoint of CLIP-LoRA: set METHOD.NAME clip_lora")
    try:
        return translate(content)
    except InputError as error:
        raise InputError(f"{path} does not fit: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not laid out as CLIP-LoRA saves its layers") from error
