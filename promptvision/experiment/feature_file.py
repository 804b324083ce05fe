"""One file of features: safetensors mapped into memory, with a key and a checksum; a damaged file is not used."""

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
"""Placeholder of the checksum until all rows are written."""
ABANDONED = 24 * 3600
"""Age in seconds from which a temporary file must belong to a killed process."""


def cache_folder(name: str) -> Path | None:
    """Return `features` in CACHE_DIR, None if that is "" or there is no home.

    "auto" is $PROMPTVISION_CACHE, else promptvision in the user's cache.
    """
    if name == "auto":
        users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "promptvision")
        name = os.environ.get("PROMPTVISION_CACHE") or str(users)
    try:
        return Path(name, "features").expanduser() if name else None
    except RuntimeError:
        return None


def write(path: Path, key: str, count: int, parts: Iterator[Tensor]) -> None:
    """Write `parts` (B, E) one after the other as the rows of a file for `key`; only one is in memory at a time.

    `count`: the total number of rows. The file appears when it is complete; two processes may write it at the same
    time. OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(".*.safetensors.*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                old.unlink()
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
    """Return the features (N, E), mapped into memory, if the file exists, was written for `key`, and is undamaged."""
    if not os.path.isfile(path):  # also in a folder that may not be entered
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata, features = file.metadata() or {}, file.get_tensor("features")
        digest = hashlib.sha256(f"{KINDS[features.dtype]}{tuple(features.shape)}".encode())
        digest.update(as_bytes(features))
        if metadata.get("key") == key and metadata.get("sha256") == digest.hexdigest():
            return features
        reason = "its checksum does not match"
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error)
    LOG.warning("%s is damaged (%s): its features are computed again", path, reason)
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
            busy = f"Waiting for another process, which computes {path}"
            waited = stack.enter_context(locked(place, busy, wait=True))
            stack.callback(place.unlink, missing_ok=True)
        yield waited


def _header(key: str, kind: str, shape: tuple[int, int], checksum: str) -> bytes:
    """Return the header of a safetensors file, padded so that the rows start at a multiple of ALIGNMENT."""
    size = shape[0] * shape[1] * next(dtype for dtype in KINDS if KINDS[dtype] == kind).itemsize
    rows = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"format": "pt", "key": key, "sha256": checksum}, "features": rows}).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
