"""What bench.py reads off a piece of work: FLOPs, seconds, bytes kept for backward."""

import gc
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(work):
    """What the work gives, and the FLOPs that torch counts; its hooks make cycles, hence the collection."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    gc.collect()
    return result, counter.get_total_flops()


def seconds(work, device):
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(ways, repeats, device):
    """Median seconds of each of the named pieces of work, run in turns; nan without repeats."""
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(took) if took else float("nan") for name, took in times.items()}


def kept_bytes(work, given=()):
    """Bytes that autograd keeps for backward of what `work()` returns, every storage once.

    Left out are the tensors `given`; without any, all that is a leaf and learns nothing: weights and inputs.
    """
    storages, left_out = {}, {tensor.untyped_storage().data_ptr() for tensor in given}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out if given else not tensor.is_leaf or tensor.requires_grad:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = work()
    del kept
    return sum(storages.values())


def largest_difference(ours, theirs):
    """Largest difference, relative to the largest value, as text."""
    return f"{(ours - theirs).abs().max() / theirs.abs().max():.0e}"
