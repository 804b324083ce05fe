"""Weight files of other projects: tensors get the names that timm has for them, what is no backbone is left out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from promptvision.backbones.positions import take_grid
from promptvision.errors import InputError

CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.")


@dataclass(frozen=True)
class Layout:
    """How a family of files stores its backbone: keys that begin with `prefix`, but those that begin with `dropped`."""

    title: str
    mark: str
    """A file with a key that begins so is of this layout."""
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    renamed: tuple[str, str] = ("$^", "")
    """A regular expression and what takes its place."""


LAYOUTS = (
    Layout(
        "MoCo-v3: momentum encoder, predictor, projector", "base_encoder.", "base_encoder.", ("base_encoder.head.",)
    ),
    Layout("MoCo and MoCo-v2", "encoder_q.", "encoder_q.", ("encoder_q.fc.",)),
    Layout("DINO, iBOT: projector", "backbone.", "backbone."),
    Layout("DINOv2 in training: blocks in chunks", "blocks.0.0.", renamed=(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")),
    Layout("MAE before fine-tuning: decoder", "decoder_", dropped=("decoder_", "mask_token")),
)
"""Tried from top to bottom, each on what the ones above left. timm itself knows the official files of DINOv2, DINOv3,
DeiT 3, EVA, Swin, ConvNeXt and others (`checkpoint_filter_fn`)."""


def fitted(state: dict[str, Tensor], model: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names that a timm model without classifier has for them."""
    for layout in LAYOUTS:
        if any(key.startswith(layout.mark) for key in state):
            state = _stored(layout, state)
    _check_patches(state, model, path)
    take_grid(model, state["pos_embed"].shape[-2] if "pos_embed" in state else 0)
    state = _known_to_timm(state, model, path)
    own = model.state_dict()
    state = {key: value for key, value in state.items() if key in own or not key.startswith(CLASSIFIERS)}
    return _fresh_fc_norm(state, own)


def fill_from_npz(model: Any, path: Path) -> None:
    """Load an .npz of Google's ViTs through timm, which leaves out what a smaller model has no place for: checked."""
    try:
        with np.load(path) as file:
            shapes = {key: file[key].shape for key in file.files if "encoderblock" in key or "embedding" in key}
        _check_npz(shapes, model, path)
        model.load_pretrained(str(path))
    except (ValueError, KeyError, OSError, AssertionError, AttributeError, RuntimeError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not an .npz of the published ViT layout for this model ({error})") from error


def _stored(layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {k: v for k, v in state.items() if k.startswith(layout.prefix) and not k.startswith(layout.dropped or "\0")}
    return {re.sub(*layout.renamed, key.removeprefix(layout.prefix)): value for key, value in kept.items()}


def _check_patches(state: dict[str, Tensor], model: Any, path: Path) -> None:
    """Refuse patches of another size or width: timm would resample them without a word."""
    key = "patch_embed.proj.weight"
    own, stored = model.state_dict().get(key), state.get(key)
    if own is not None and stored is not None and stored.dim() == own.dim() and stored.shape != own.shape:
        raise InputError(f"{path}: {key!r} has shape {tuple(stored.shape)}, the model needs {tuple(own.shape)}")


def _known_to_timm(state: dict[str, Tensor], model: Any, path: Path) -> dict[str, Tensor]:
    module = sys.modules[type(model).__module__]
    if not hasattr(module, "checkpoint_filter_fn"):
        return state
    options = {"adapt_layer_scale": True} if hasattr(model, "load_pretrained") else {}
    try:
        return module.checkpoint_filter_fn(dict(state), model, **options)
    except (RuntimeError, KeyError, ValueError, AttributeError, IndexError, AssertionError) as error:
        raise InputError(f"{path} does not fit a {type(model).__name__} of this kind and size ({error})") from error


def _fresh_fc_norm(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file with the final norm only, for a model that norms after the pooling: that norm starts anew (1, 0).

    So MAE's fine-tuning and VPT treat MAE's files (`fc_norm` new, `norm` left out).
    """
    names = [key for key in own if key.startswith("fc_norm.")]
    if not names or names[0] in state or "norm.weight" in own or "norm.weight" not in state:
        return state
    return {**{k: v for k, v in state.items() if not k.startswith("norm.")}, **{name: own[name] for name in names}}


def _check_npz(shapes: dict[str, tuple[int, ...]], model: Any, path: Path) -> None:
    blocks = {int(found[1]) for key in shapes if (found := re.search(r"encoderblock_(\d+)/", key))}
    if blocks and len(blocks) != len(model.blocks):
        raise InputError(f"{path} holds {len(blocks)} blocks, the model has {len(model.blocks)}")
    kernel = _ending("embedding/kernel", shapes)
    if kernel and "conv_root" not in " ".join(shapes):
        own = tuple(model.patch_embed.proj.weight.shape)
        stored = (kernel[3], kernel[2], *kernel[:2])
        if stored != own:
            raise InputError(f"{path}: 'embedding/kernel' has shape {stored} as a convolution, the model needs {own}")
    positions = _ending("pos_embedding", shapes)
    take_grid(model, positions[-2] if len(positions) == 3 else 0)


def _ending(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    matches: Iterable[tuple[int, ...]] = (shape for key, shape in shapes.items() if key.endswith(name))
    return next(iter(matches), ())
