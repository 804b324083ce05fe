"""The memory that is free, and how many classes fit into it (COMPUTE.CHUNK auto)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from promptvision.errors import InputError

LOG = logging.getLogger(__name__)
SAMPLE = 4
"""Tiles or prompts whose memory is measured."""
SHARE = 0.5
"""Part of the free memory that backward may keep; the rest is for what comes and goes within a block."""
LIMITS = (
    ("", "", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Both versions of control groups: kind, mount, limit, what is in use, and the part of it that can be given back."""


def free_memory(device: torch.device, system: Path = Path("/")) -> int:
    """Return the bytes that are free on a device; on a CPU no more than its control group leaves to this process."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    lines = _lines(system / "proc/meminfo")
    if "MemAvailable" not in lines:
        raise InputError("COMPUTE.CHUNK auto: this system does not tell how much memory is free; set a number")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # those that torchrun started here share it
    return max(0, min([1024 * lines["MemAvailable"], *_left_by_groups(system)])) // processes


def _left_by_groups(system: Path) -> Iterator[int]:
    """Yield the bytes that each control group of this process, and each that holds it, leaves."""
    groups = system / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, kinds, place = line.split(":", 2)
        for kind, mount, most, used, unneeded in LIMITS:
            inner = system / "sys/fs/cgroup" / mount / place.lstrip("/")
            for folder in (inner, *inner.parents) if kind in kinds.split(",") else ():
                limit = folder / most
                if limit.is_file() and limit.read_text().strip() != "max":
                    back = _lines(folder / "memory.stat").get(unneeded, 0)
                    yield int(limit.read_text()) - int((folder / used).read_text()) + back


def _lines(file: Path) -> dict[str, int]:
    """Return the "NAME 12" and "NAME: 12 kB" lines of a file of the system; nothing if it is missing."""
    rows = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


class Room:
    """The amount of some work that fits into the free memory at once, decided at its first call and kept."""

    def __init__(self) -> None:
        self.found: dict[tuple[object, ...], int] = {}

    def pieces(self, kind: tuple[object, ...], tower: nn.Module, work: Callable[[int], Tensor], count: int) -> int:
        """Return how many of `count` pieces of a kind of work fit; `work(n)` computes n of them through the tower."""
        if kind not in self.found:
            some, room = min(SAMPLE, count), SHARE * free_memory(next(tower.parameters()).device)
            kept = kept_bytes(lambda: work(some), tower.parameters())
            self.found[kind] = min(count, max(1, int(room * some / max(1, kept))))
            if self.found[kind] < count:
                LOG.info("COMPUTE.CHUNK auto: %.3g of the classes at once", self.found[kind] / count)
        return self.found[kind]


def kept_bytes(work: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of some work, without weights, every storage once."""
    kept, left_out = dict[int, int](), {weight.untyped_storage().data_ptr() for weight in weights}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = work()
    del found
    return sum(size for place, size in kept.items() if place not in left_out)
