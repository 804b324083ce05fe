"""The device and the precision of computations."""

from __future__ import annotations

import os
import re
import sys

import torch

from promptvision.errors import InputError, counted, unknown

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device `auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`; InputError if it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:0"))
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"TRAIN.DEVICE {name}: torch {torch.__version__} sees {counted(count, 'CUDA device')}; use auto or cpu"
        )
    return device


def repeatable(wanted: bool) -> None:
    """Allow only algorithms that give the same bits every time, or any; call it before the GPU is first used.

    An operation without such an algorithm warns. cuBLAS needs its own workspace for it
    (docs.nvidia.com/cuda/cublas, "Results Reproducibility").
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a precision: fp32 (autocast off), fp16 or bf16."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes so far of GPU memory in tensors, or of main memory in this process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
