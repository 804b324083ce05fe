"""One file of features: safetensors, mapped into memory, that tells what it holds; whole, or not used at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptvision.atomic import locked, replacing
from promptvision.backbones.fingerprint import as_bytes

LOG = logging.getLogger(__name__)
KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""dtype -> its name in a safetensors file."""
ALIGNMENT = 64
UNKNOWN = "0" * 64
"""Stands for the checksum until all rows are written."""
ABANDONED = 24 * 3600
"""Seconds after which a temporary file must be of a process that was killed."""


def write(path: Path, key: str, count: int, parts: Iterator[Tensor]) -> None:
    """`parts` (B, E), one after the other, as the rows of a file for `key`; no more than one is in memory at a time.

    `count`: the number of rows in all. The file appears at once when it is whole; two processes may write it at the
    same time. OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    with replacing(path) as file:
        for number, part in enumerate(parts):
            if number == 0:
                shape, kind = (count, part.shape[1]), KINDS[part.dtype]
                file.write(_header(key, kind, shape, UNKNOWN))
                digest = hashlib.sha256(f"{kind}{shape}".encode())
            digest.update(as_bytes(part))
            file.write(as_bytes(part))
        file.seek(0)
        file.write(_header(key, kind, shape, digest.hexdigest()))


def read(path: Path, key: str) -> Tensor | None:
    """(N, E), mapped into memory, if the file is there, was written for `key`, and is as it was written."""
    if not os.path.isfile(path):  # a folder that may not be entered holds nothing either
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata, features = file.metadata() or {}, file.get_tensor("features")
        if metadata.get("key") == key and metadata.get("sha256") == _checksum(features):
            return features
        reason = "its contents are not what was written"
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error)
    LOG.warning("%s is damaged (%s): its features are computed anew", path, reason)
    return None


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Keep other processes from computing the same file; yield whether this one waited for another that did.

    Where files cannot be locked, all compute what they need: the file appears whole or not at all.
    """
    place, waited = path.with_name(f".{path.name}.lock"), False
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = f"waiting for another process, which computes {path}"
            waited = stack.enter_context(locked(place, busy, wait=True))
            stack.callback(place.unlink, missing_ok=True)
        yield waited


def _checksum(features: Tensor) -> str:
    shape, kind = tuple(features.shape), KINDS[features.dtype]
    digest = hashlib.sha256(f"{kind}{shape}".encode())
    digest.update(as_bytes(features))
    return digest.hexdigest()


def _header(key: str, kind: str, shape: tuple[int, int], checksum: str) -> bytes:
    """What stands before the rows in a safetensors file, padded so that they begin at a multiple of ALIGNMENT."""
    size = shape[0] * shape[1] * next(dtype for dtype in KINDS if KINDS[dtype] == kind).itemsize
    rows = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"format": "pt", "key": key, "sha256": checksum}, "features": rows}).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for file in folder.glob(".*.safetensors.*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()
