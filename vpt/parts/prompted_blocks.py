"""Where prompts go: at which blocks, and what becomes of them behind the last (VPT, arXiv:2203.12119, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

from promptvision.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Prompts enter the blocks `start` to `start` + `count` - 1; `keep`: they stay among the tokens afterwards."""

    depth: int
    start: int
    count: int
    keep: bool = True

    @property
    def left(self) -> bool:
        """Whether prompts stand among the tokens behind the last block."""
        return self.keep or self.start + self.count >= self.depth


def schedule(depth: int, *, deep: bool, layers: int = 0, last: int = 0, keep: bool = True) -> Schedule:
    """The blocks of a network of `depth` that prompts enter.

    Shallow: the first. `deep`: all, or the first `layers`, or the `last` (0 leaves either open).
    """
    for name, value in (("layers", layers), ("last", last)):
        if value and not deep:
            raise InputError(f"{name} is {value}, but only deep prompts have layers to choose; set deep to true")
        if not 0 <= value <= depth:
            raise InputError(f"{name} is {value}; the backbone has {depth} blocks (0 takes all of them)")
    if layers and last:
        raise InputError(f"layers is {layers} and last is {last}; choose the first or the last blocks, not both")
    if last:
        return Schedule(depth, depth - last, last, keep)
    return Schedule(depth, 0, (layers or depth) if deep else 1, keep)
