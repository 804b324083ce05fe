"""Where to compute and how precisely."""

from __future__ import annotations

import os
import re
import resource
import sys

import torch

from promptvision.errors import InputError, unknown

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`, refused if this machine lacks it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:0"))
    device = torch.device(name)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise InputError(
            f"TRAIN.DEVICE {name}: torch {torch.__version__} sees {there or 'no'} CUDA device{'s' * (there != 1)}; "
            "take auto or cpu"
        )
    return device


def repeatable(wanted: bool) -> None:
    """Take only algorithms that give the same bits every time, or any; before the first use of the GPU.

    An operation that has no such algorithm warns. cuBLAS needs a workspace of its own for it
    (docs.nvidia.com/cuda/cublas, "Results Reproducibility").
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the backbone computes: fp32 (autocast off), fp16 or bf16."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the GPU's memory by tensors, or of main memory by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
