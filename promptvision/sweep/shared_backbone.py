"""One backbone in memory for many runs, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from promptvision.backbones.fingerprint import fingerprint
from promptvision.experiment.build import Families


class Sharing:
    """A family whose `load_backbone` loads each backbone once.

    Every run gets modules of its own on shared tensors: what a method attaches or wraps is never met by the next one.
    A run that changed a tensor (a thawed backbone) is found out by the fingerprint, and the next one loads anew. Only
    one run may use them at a time. A backbone stays in memory until another is asked for.
    """

    def __init__(self, family: ModuleType):
        self.family = family
        self._key: tuple[Any, ...] = ()
        self._backbone: nn.Module = nn.Identity()
        self._fingerprint = ""

    def __getattr__(self, name: str) -> Any:
        """Everything else is the family's own."""
        return getattr(self.family, name)

    def load_backbone(self, *key: Any) -> nn.Module:
        """What the family's `load_backbone` gives."""
        if key != self._key or fingerprint(self._backbone) != self._fingerprint:
            self._backbone = self.family.load_backbone(*key)
            self._key, self._fingerprint = key, fingerprint(self._backbone)
        return _on_the_same_tensors(self._backbone)


def sharing(families: Families) -> Families:
    """The families, each with a backbone that its runs share."""
    found: Mapping[str, Any] = {name: Sharing(family) for name, family in families.items()}
    return found


def _on_the_same_tensors(backbone: nn.Module) -> nn.Module:
    """A copy of the modules whose parameters and buffers hold the same memory."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    same: dict[int, Any] = {id(tensor): tensor.detach() for tensor in backbone.buffers()}
    same |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in backbone.parameters()}
    assert len(same) == len(tensors)
    return copy.deepcopy(backbone, {**same, **{id(each): each for each in _tokenizers(backbone)}})


def _tokenizers(backbone: nn.Module) -> list[Any]:
    """What turns words into numbers: large, and changed by nobody."""
    return [module.tokenizer for module in backbone.modules() if hasattr(module, "tokenizer")]
