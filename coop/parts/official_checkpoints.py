"""Reading the checkpoints that the official codes wrote: Dassl's `model.pth.tar-50`, CLIP-LoRA's `lora_weights.pt`."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from promptvision.backbones.safe_pickle import read_inert
from promptvision.errors import InputError
from promptvision.method import Method

MADE_ANEW = ("token_prefix", "token_suffix")
"""Embeddings of the class names, which every method computes for its own classes."""
WHOLE = {"prompt_learner.ctx", "image_encoder.VPT"}
"""One of these is in the state of IVLP, MaPLe, PromptSRC and VPT, which save the whole model, frozen towers and all."""
DAMAGE = (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


def load_official(path: str | Path, method: Method | None = None) -> dict[str, Tensor]:
    """The learned tensors of an official checkpoint, in float32: `ctx`, and `meta_net.*` of CoCoOp.

    Dassl saves {"state_dict", "epoch", "optimizer", "scheduler"}, with pickled scheduler objects of its own classes;
    none of it but tensors is rebuilt, and no code from the file is run. What CLIP-LoRA saves, {"weights",
    "metadata"}, is told apart by `method.from_official(content)`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint {path}; the official ones are named as in prompt_learner/model.pth.tar-50")
    try:
        content = read_inert(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, *DAMAGE) as error:
        raise InputError(f"{path} is damaged or not a checkpoint of torch 1.6 or later") from error
    if isinstance(content, dict) and "weights" in content:
        return _of_layers(path, content, method)
    tensors = _tensors(content)
    if "ctx" not in tensors and not WHOLE & tensors.keys():
        raise InputError(f"{path} is not a checkpoint of CoOp or CoCoOp: its state_dict holds no 'ctx'")
    return {name: tensor.float() for name, tensor in tensors.items() if _is_learned(name, bool(WHOLE & tensors.keys()))}


def _is_learned(name: str, whole: bool) -> bool:
    """Whether a tensor is one that training changed; PromptSRC's frozen teacher lies within its prompt learner."""
    place, _, last = name.rpartition(".")
    if last in MADE_ANEW or "ZS_image_encoder" in place:
        return False
    return not whole or place.startswith("prompt_learner") or last in ("VPT", "VPT_shallow")


def _tensors(content: Any) -> dict[str, Tensor]:
    state = content.get("state_dict") if isinstance(content, dict) else None
    named = state.items() if isinstance(state, dict) else ()
    return {str(name): value for name, value in named if isinstance(value, Tensor)}


def _of_layers(path: Path, content: dict[str, Any], method: Method | None) -> dict[str, Tensor]:
    translate = getattr(method, "from_official", None)
    if translate is None:
        raise InputError(f"{path} is a checkpoint of CLIP-LoRA: set METHOD.NAME clip_lora")
    try:
        return translate(content)
    except InputError as error:
        raise InputError(f"{path} does not fit: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not laid out as CLIP-LoRA saves its layers") from error
