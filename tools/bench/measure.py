"""Types of options of bench.py, and its measurements: FLOPs, kernels, seconds, bytes kept for backward."""

import statistics
import time
from argparse import ArgumentTypeError
from collections import Counter
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from promptvision.engine.device import choose_device
from promptvision.errors import InputError


def device(word):
    """Return the name of a device that torch has here; the type of `--device`."""
    try:
        return str(choose_device(word))
    except InputError as error:
        raise ArgumentTypeError(str(error)) from None


def listed(names):
    """Return the names with commas between, those with a comma of their own in quotes."""
    return ", ".join(f'"{name}"' if "," in name else f"{name}" for name in names)


class Flops(TorchDispatchMode):
    """Counts FLOPs by torch's formulas; torch's own counter cannot follow a step that calls `autograd.grad`."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        formula = flop_registry.get(func.overloadpacket)
        self.total += formula(*args, **kwargs or {}, out_val=out) if formula else 0
        return out


def counted(work):
    """Return the result of the work and its FLOPs, with attention written out.

    Torch has no formula for the fused attention of a CPU nor for the fast path of `nn.MultiheadAttention`. Autograd
    keeps other tensors for attention written out: measure bytes in a run of their own.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), Flops() as counter:
            return work(), counter.total
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Kernels(TorchDispatchMode):
    """Counts operations that launch a kernel: those that give a tensor on memory of its own or change one in place.

    Views and other metadata, `detach`, and memory that is only allocated (`empty`) are left out. An operation counts
    once, however many kernels a device needs for it (matrix products split over K, reductions).
    """

    def __init__(self):
        super().__init__()
        self.by_name = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        given, made = (
            {leaf.untyped_storage()._cdata for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
            for values in ((args, kwargs), out)
        )
        name = func.overloadpacket.__name__
        if func._schema.is_mutable or (made - given and "empty" not in name):
            self.by_name[name] += 1
        return out


def kernels(work):
    """Return the number of operations during the work that launch a kernel (`Kernels`), in forward and backward."""
    with Kernels() as counter:
        work()
    return counter.by_name.total()


def seconds(work, device):
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(ways, repeats, device):
    """Return the median seconds of each of the named pieces of work, run in turns; NaN without repeats."""
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(took) if took else float("nan") for name, took in times.items()}


class Kept:
    """Bytes that autograd keeps for backward, every storage once: `most` at any time inside a `with`.

    Left out are the tensors `given`; without any, all that is a leaf and learns nothing: weights and inputs.
    """

    def __init__(self, given=()):
        self.left_out = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.holders, self.now, self.most = Counter(), 0, 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(partial(_Saved, self), lambda saved: saved.tensor)

    def __enter__(self):
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def counts(self, tensor):
        if self.left_out:
            return tensor.untyped_storage().data_ptr() not in self.left_out
        return not tensor.is_leaf or tensor.requires_grad

    def change(self, storage, by):
        key = storage.data_ptr()
        before, self.holders[key] = self.holders[key], self.holders[key] + by
        if not before or not self.holders[key]:
            self.now += by * storage.nbytes()
            self.most = max(self.most, self.now)


class _Saved:
    """A tensor for as long as autograd keeps it."""

    def __init__(self, kept, tensor):
        self.kept, self.tensor, self.counts = kept, tensor, kept.counts(tensor)
        if self.counts:
            kept.change(tensor.untyped_storage(), 1)

    def __del__(self):
        if self.counts:
            self.kept.change(self.tensor.untyped_storage(), -1)


def kept_bytes(work, given=()):
    """Return the most bytes that autograd keeps for backward during the work (`Kept`)."""
    with Kept(given) as kept:
        work()
    return kept.most


def largest_difference(ours, theirs):
    """Return the largest difference, relative to the largest value, as text."""
    return f"{(ours - theirs).abs().max() / theirs.abs().max():.0e}"
