"""The facts that make a run repeatable."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import promptvision


def facts(device: torch.device) -> dict[str, Any]:
    """What makes a run repeatable besides its config: versions, machine, and where the code lies."""
    packages = ("torch", "torchvision", "timm", "open_clip_torch", "numpy")
    versions = {name: _version(name) for name in packages}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "promptvision": promptvision.__version__,
        "code": str(Path(promptvision.__file__).resolve().parent),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "device": gpu or platform.processor() or platform.machine(),
        "computes_on": str(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "tf32": device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
