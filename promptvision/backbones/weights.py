"""Weight files, read as plain tensors: no code in a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from promptvision.atomic import refuse_damaged
from promptvision.backbones.safe_pickle import Inert, check_entries, check_tensor, is_torchscript, read_inert
from promptvision.errors import InputError

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state", "teacher")
"""Keys of the weights in the .pth files of training scripts."""


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a .safetensors, .pth, .pt, .bin or TorchScript file, and a safetensors file's metadata."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weight file {path}")
    with refuse_damaged(f"cannot read weights from {path}"):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if is_torchscript(path):
            return _module_tensors(read_inert(path, scripted=True)), {}
        return _pickled_tensors(path), {}


def expand_rows(state: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Expand the token rows of a compact checkpoint, which holds those in use only, to a table of `vocabulary` rows.

    Rows of words that the model never saw are random, N(0, 0.02), and the same every time.
    """
    if vocabulary > 1_000_000:
        raise InputError(f"a vocabulary of {vocabulary:,} tokens, which no model has")
    state = dict(state)
    rows, ids = state.pop("token_embedding.rows"), state.pop("token_embedding.ids").long()
    table = torch.randn(vocabulary, rows.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02
    table[ids] = rows.to(table.dtype)
    return {**state, "token_embedding.weight": table.to(rows.dtype)}


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Load `state` into `model`; raise InputError for the first name or shape that does not fit."""
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own:
            verb = "lacks" if key in own else "holds the unexpected"
            raise InputError(f"{path} {verb} {key!r}; is it a {type(model).__name__} of the same kind and size?")
        if state[key].shape != own[key].shape:
            theirs, ours = tuple(state[key].shape), tuple(own[key].shape)
            raise InputError(f"{path}: {key!r} has shape {theirs}, the model needs {ours}")
    model.load_state_dict(state)
    return model


def _pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a pickle, which training scripts nest under WRAPPERS.

    torch's reader also knows the files of torch < 1.6; files with more than plain values become `Inert` objects.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_entries(archive, path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        content = read_inert(path)
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no named tensors")
    return {name.removeprefix("module."): check_tensor(value) for name, value in tensors.items()}


def _module_tensors(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a scripted module and its submodules by name."""
    found: dict[str, Tensor] = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, Inert):
            found |= _module_tensors(value, f"{prefix}{name}.")
    return found
