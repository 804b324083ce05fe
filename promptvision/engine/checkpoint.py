"""Checkpoints to resume from, and learned tensors to keep."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from promptvision.atomic import parse_json, refuse_damaged, refuse_special, write_atomically
from promptvision.errors import InputError

FORMAT = "promptvision checkpoint 1"
NAMES = ("classes", "named")
"""Metadata of learned tensors that are lists of class names: those of training, and others that it was given since."""


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU; run no code from the file, refuse a damaged or foreign one."""
    if not Path(path).exists():
        raise InputError(f"checkpoint {path} does not exist")
    refuse_special(path, f"checkpoint {path}")
    damaged = f"{path} is damaged or not a checkpoint of promptvision", "delete it to start from scratch"
    with refuse_damaged(*damaged), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()  # torch compresses nothing, so no entry can grow when it is read
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        fits = sum(entry.file_size for entry in entries) <= os.path.getsize(path)
        if stored and fits and archive.testzip() is None:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(state, dict) and state.get("format") == FORMAT:
                return state
    raise InputError(": ".join(damaged))


def save_learned(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write learned tensors as safetensors, with a checksum of everything.

    `metadata`: the lists of NAMES are kept as JSON; all else as text.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    texts = {name: json.dumps(value) if name in NAMES else str(value) for name, value in metadata.items()}
    texts = {name: text.encode(errors="backslashreplace").decode() for name, text in texts.items()}
    texts["format"] = "pt"
    texts["sha256"] = _checksum(tensors, texts)
    content = safetensors.torch.save(tensors, texts)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()  # the library's order is random
    header += b" " * (-len(header) % 8)
    write_atomically(path, len(header).to_bytes(8, "little") + header + content[end:])


def load_learned(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors by name, metadata) as `save_learned` wrote them; a file without a checksum is not checked."""
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; has the run finished?")
    refuse_special(path, str(path))
    with refuse_damaged(f"{path} is damaged or not a safetensors file"), safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    if metadata.pop("sha256", None) not in (None, _checksum(state, metadata)):
        raise InputError(f"{path} is damaged: its checksum does not match")
    if "classes" not in metadata:
        raise InputError(f"{path} was not written by promptvision: its metadata lacks 'classes'")
    lists = {
        key: parse_json(metadata[key], f"{path} is damaged: its metadata {key!r}") for key in NAMES if key in metadata
    }
    for names in lists.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path} was not written by promptvision: its classes are not a list of names")
    return state, {**metadata, **lists}


def _checksum(state: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors on the CPU with their names, types and shapes, and of the texts."""
    digest = hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
