"""Weight files of other projects, converted: tensors get timm's names, and all that is no backbone is left out."""

from __future__ import annotations

import math
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from promptvision.atomic import refuse_damaged
from promptvision.backbones.positions import take_grid
from promptvision.backbones.safe_pickle import check_entries
from promptvision.errors import InputError, counted

CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.")


@dataclass(frozen=True)
class Layout:
    """The backbone in a family of files: keys that begin with `prefix`, except those that begin with `dropped`."""

    title: str
    mark: str
    """Beginning of a key that only files of this layout have."""
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    renamed: tuple[str, str] = ("$^", "")
    """A regular expression and its replacement."""


LAYOUTS = (
    Layout(
        "MoCo-v3: momentum encoder, predictor, projector", "base_encoder.", "base_encoder.", ("base_encoder.head.",)
    ),
    Layout("MoCo and MoCo-v2", "encoder_q.", "encoder_q.", ("encoder_q.fc.",)),
    Layout("DINO, iBOT: projector", "backbone.", "backbone."),
    Layout("DINOv2 in training: blocks in chunks", "blocks.0.0.", renamed=(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")),
    Layout("MAE before fine-tuning: decoder", "decoder_", dropped=("decoder_", "mask_token")),
)
"""Applied from top to bottom, each to what the ones above left, unless the model itself has keys with that beginning
(MobileNet's `blocks.0.0.` are no chunks). timm itself knows the official files of DINOv2, DINOv3, DeiT 3, EVA, Swin,
ConvNeXt and others (`checkpoint_filter_fn`)."""


def fitted(state: dict[str, Tensor], model: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of a timm model without classifier."""
    own = model.state_dict()
    for layout in LAYOUTS:
        if not any(key.startswith(layout.mark) for key in own) and any(key.startswith(layout.mark) for key in state):
            dropped = layout.dropped or "\0"
            kept = [key for key in state if key.startswith(layout.prefix) and not key.startswith(dropped)]
            state = {re.sub(*layout.renamed, key.removeprefix(layout.prefix)): state[key] for key in kept}
    key = "patch_embed.proj.weight"
    needed, stored = own.get(key), state.get(key)
    if needed is not None and stored is not None and stored.dim() == needed.dim() and stored.shape != needed.shape:
        # timm would resample patches of another size without a word
        raise InputError(f"{path}: {key!r} has shape {tuple(stored.shape)}, the model needs {tuple(needed.shape)}")
    take_grid(model, state["pos_embed"].shape[-2] if "pos_embed" in state else 0)
    state = _known_to_timm(state, model, path)
    classifiers = (*CLASSIFIERS, *_classifiers(model))
    state = {key: value for key, value in state.items() if key in own or not key.startswith(classifiers)}
    reset = [key for key in own if key.startswith("fc_norm.")]
    if reset and reset[0] not in state and "norm.weight" not in own and "norm.weight" in state:
        # the final norm of a file, for a model that normalises after pooling: as MAE's fine-tuning and VPT do with
        # MAE's files, `norm` is left out and `fc_norm` starts from (1, 0)
        state = {key: value for key, value in state.items() if not key.startswith("norm.")}
        state |= {key: own[key] for key in reset}
    return state


def _classifiers(model: Any) -> list[str]:
    """Return how the keys of a timm model's classifiers begin; it may have several, or one by another name."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return [f"{name}." for name in ((names,) if isinstance(names, str) else names)]


def fill_from_npz(model: Any, path: Path) -> None:
    """Load an .npz of Google's ViTs through timm, after checking sizes: timm drops what a smaller model lacks."""
    with refuse_damaged(f"{path} is not an .npz of the published ViT layout for this model"):
        with zipfile.ZipFile(path) as archive:
            check_entries(archive, path)
            shapes = {entry.filename.removesuffix(".npy"): _shape(archive, entry) for entry in archive.infolist()}
        _check_npz(shapes, model, path)
        model.load_pretrained(str(path))


def _shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[int, ...]:
    """Return the shape of an array; ValueError unless its entry holds as many numbers as its header says."""
    with archive.open(entry) as file:
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[np.lib.format.read_magic(file)[0]](file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ValueError(f"its array {entry.filename} {shape} is not as large as what the file stores")
    return shape


def _known_to_timm(state: dict[str, Tensor], model: Any, path: Path) -> dict[str, Tensor]:
    """Convert with timm's `checkpoint_filter_fn` of the model's family, if it has one."""
    module = sys.modules[type(model).__module__]
    if not hasattr(module, "checkpoint_filter_fn"):
        return state
    options = {"adapt_layer_scale": True} if hasattr(model, "load_pretrained") else {}
    with refuse_damaged(f"{path} does not fit a {type(model).__name__} of this kind and size"):
        return module.checkpoint_filter_fn(dict(state), model, **options)


def _check_npz(shapes: dict[str, tuple[int, ...]], model: Any, path: Path) -> None:
    """Raise InputError if an .npz with arrays of these shapes has other blocks or patches; take its grid."""
    blocks = {int(found[1]) for key in shapes if (found := re.search(r"encoderblock_(\d+)/", key))}
    if blocks and len(blocks) != len(model.blocks):
        raise InputError(f"{path} holds {counted(len(blocks), 'block')}, the model has {len(model.blocks)}")
    kernel = next((shape for key, shape in shapes.items() if key.endswith("embedding/kernel")), ())
    if kernel:
        own = tuple(model.patch_embed.proj.weight.shape)
        stored = (kernel[3], kernel[2], *kernel[:2])
        if stored != own:
            raise InputError(f"{path}: 'embedding/kernel' has shape {stored} as a convolution, the model needs {own}")
    positions = next((shape for key, shape in shapes.items() if key.endswith("pos_embedding")), ())
    take_grid(model, positions[-2] if len(positions) == 3 else 0)
