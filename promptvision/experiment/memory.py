"""Errors of a run with the keys that help: sizes to lower if memory is exhausted, images to leave out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from yacs.config import CfgNode

from promptvision.data.decode import BadImage
from promptvision.errors import InputError, lacks_memory

SIZES = ("OPTIM.BATCH_SIZE", "TEST.BATCH_SIZE", "INPUT.SIZE", "COMPUTE.CHUNK", "COMPUTE.IMAGES_AT_ONCE")
"""Settings that decide how much memory a run takes, beside the whole numbers among the method's options."""
P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def sizes_named(cfg: CfgNode) -> Iterator[None]:
    """Raise an InputError that names the sizes to lower when the memory is exhausted."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not lacks_memory(error):
            raise
        raise InputError(sentence(cfg, error)) from error


def naming_sizes(compute: Callable[Concatenate[CfgNode, P], T]) -> Callable[Concatenate[CfgNode, P], T]:
    """Run a function of a config in `sizes_named`."""

    @wraps(compute)
    def computed(cfg: CfgNode, *args: P.args, **options: P.kwargs) -> T:
        with sizes_named(cfg):
            return compute(cfg, *args, **options)

    return computed


def suggesting_skip(compute: Callable[Concatenate[CfgNode, P], T]) -> Callable[Concatenate[CfgNode, P], T]:
    """Add to the error of a function about an image that cannot be read the key that leaves such images out."""

    @wraps(compute)
    def computed(cfg: CfgNode, *args: P.args, **options: P.kwargs) -> T:
        try:
            return compute(cfg, *args, **options)
        except BadImage as error:
            if cfg.INPUT.ON_BAD_IMAGE == "skip":  # it was read when the run started
                raise
            raise BadImage(f"{error}; INPUT.ON_BAD_IMAGE skip leaves out such images") from error

    return computed


def sentence(cfg: CfgNode, error: BaseException) -> str:
    """Return what is out of memory, and the sizes to lower with their present values."""
    sizes = {name: cfg[name.partition(".")[0]][name.partition(".")[2]] for name in SIZES}
    sizes |= {f"METHOD.OPTIONS.{name}": value for name, value in cfg.METHOD.OPTIONS.items() if type(value) is int}
    given = [f"{name} ({value})" for name, value in sizes.items() if value == "auto" or value > 0]
    unset = [name for name, value in sizes.items() if not value and name.startswith("COMPUTE.")]
    amount = re.search(r"allocate ([\d.,]+ ?[KMGTP]?i?B(?:ytes)?)", str(error), re.IGNORECASE)
    where = "the GPU is" if re.search("cuda|cublas|cudnn", str(error), re.IGNORECASE) else "the machine is"
    more = f", {amount[1]} more were needed" if amount else ""
    chunks = f"; or set {' or '.join(unset)}, to compute less at once" if unset else ""
    again = "" if cfg.COMPUTE.CHECKPOINT else "; COMPUTE.CHECKPOINT True keeps less of an image tower for backward"
    return f"{where} out of memory{more}: lower {', '.join(given)}{chunks}{again}"
