"""Data-parallel training of one run by several processes, started by torchrun: each takes a share of every batch.

Every process holds the whole method and makes the same steps; with a single process nothing here has an effect.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError, counted
from promptvision.method import Method

PATIENCE = timedelta(hours=12)
"""Longest wait for the first process, which alone evaluates."""


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connect the processes that torchrun started. `device`: TRAIN.DEVICE."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def part() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Return whether this process is the one that evaluates and writes."""
    return part()[0] == 0


@contextmanager
def run_folder(path: str | Path, *, resume: bool, overwrite: bool = False) -> Iterator[RunFolder]:
    """Open the run folder; ranks above 0 get a temporary copy of the files needed to resume."""
    if is_first():
        with RunFolder(path, resume=resume, overwrite=overwrite) as folder:
            if dist.is_initialized():
                dist.barrier()
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="promptvision-") as own:
        dist.barrier()
        for name in ("config.yaml", "last.ckpt", "best.safetensors"):
            if resume and Path(path, name).is_file():
                shutil.copy(Path(path, name), own)
        with RunFolder(own, resume=resume) as folder:
            yield folder


def check(method: Method, batch: int, accumulate: int = 1) -> None:
    """Raise InputError if several processes, or `accumulate` batches per step, would not learn what one batch does."""
    count = part()[1]
    if count == 1 and accumulate == 1:
        return
    if batch < count:
        raise InputError(f"{count} processes cannot share batches of {counted(batch, 'image')}; start at most {batch}")
    norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if norms or not method.loss_is_mean or method.wants_unlabelled:
        why = "a batch norm in training mode" if norms else "a loss that is not a mean over the images of a batch"
        shared = "processes cannot share a batch; start one process"
        split = "a step cannot be made of several batches; set OPTIM.ACCUMULATE 1"
        raise InputError(f"{type(method).__name__} has {why}, so {shared if count > 1 else split}")


def start_alike(parameters: Iterable[Tensor]) -> None:
    """Copy the parameters of the first process to all others."""
    if dist.is_initialized():
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def total(number: float, device: torch.device) -> float:
    """Return the sum of a number over the processes."""
    if not dist.is_initialized():
        return number
    found = torch.tensor(number, dtype=torch.double, device=device)
    dist.all_reduce(found)
    return found.item()


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over the processes; what no process has a gradient of stays without."""
    if not dist.is_initialized() or not parameters:
        return
    present = torch.tensor([each.grad is not None for each in parameters], device=parameters[0].device).int()
    dist.all_reduce(present)
    for parameter, here in zip(parameters, present.tolist(), strict=True):
        if here:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)


def agreed(signals: Sequence[int], device: torch.device) -> list[int]:
    """Return the signals that any process has received, so that all stop after the same step."""
    if not dist.is_initialized():
        return list(signals)
    found = torch.tensor([max(signals, default=0)], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [number for number in found.tolist() if number]
