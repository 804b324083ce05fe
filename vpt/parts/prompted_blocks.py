"""The blocks that prompts enter, and whether prompts stay after the last of them (VPT, arXiv:2203.12119, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

from promptvision.errors import InputError, counted


@dataclass(frozen=True)
class PromptedBlocks:
    """Blocks `start` to `start` + `count` - 1 of a network of `depth`; `keep`: prompts stay among the tokens after."""

    depth: int
    start: int
    count: int
    keep: bool = True

    @property
    def left(self) -> bool:
        """Return whether prompts are among the tokens after the last block."""
        return self.keep or self.start + self.count >= self.depth


def prompted_blocks(depth: int, *, deep: bool, layers: int = 0, last: int = 0, keep: bool = True) -> PromptedBlocks:
    """Return the blocks that prompts enter: the first, or with `deep` all, the first `layers`, or the `last`.

    0 leaves `layers` and `last` open.
    """
    for name, value in (("layers", layers), ("last", last)):
        if value and not deep:
            raise InputError(f"{name} is {value}, but only deep prompts have layers to choose; set deep to true")
        if not 0 <= value <= depth:
            raise InputError(f"{name} is {value}; the backbone has {counted(depth, 'block')} (0 takes all of them)")
    if layers and last:
        raise InputError(f"layers is {layers} and last is {last}; choose the first or the last blocks, not both")
    if last:
        return PromptedBlocks(depth, depth - last, last, keep)
    return PromptedBlocks(depth, 0, (layers or depth) if deep else 1, keep)
