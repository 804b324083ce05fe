"""The facts about software and hardware that make a run repeatable."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import promptvision


def facts(device: torch.device) -> dict[str, Any]:
    """Return versions, machine and the location of the code: what makes a run repeatable besides its config."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "promptvision": promptvision.__version__,
        "code": str(Path(promptvision.__file__).resolve().parent),
        "python": platform.python_version(),
        **versions(),
        "platform": platform.platform(),
        "device": gpu or platform.processor() or platform.machine(),
        "computes_on": str(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "tf32": device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages on which numbers depend."""
    found = {}
    for package in ("torch", "torchvision", "timm", "open_clip_torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
