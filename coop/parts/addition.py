"""Additions to methods on CLIP, whose learned tensors have the names of a whole model."""

from __future__ import annotations

from promptvision.addition import Addition as AnyAddition

LEARNER = ("ctx", "meta_net", "network", "encoder")
"""Parts of hosts that the official codes keep in a module `prompt_learner`."""


class Addition(AnyAddition):
    """An addition whose learned tensors have the names of a whole model, as the official codes save it."""

    def official_name(self, name: str) -> str:
        """Return the name that a learned tensor has in the official checkpoints: `prompt_learner.ctx` of `ctx`."""
        if name.partition(".")[0] not in LEARNER:
            return super().official_name(name)
        return f"prompt_learner.{name.removeprefix('encoder.')}"
