"""One backbone in memory for many runs, one after the other."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

from torch import nn

from promptvision.backbones.fingerprint import fingerprint
from promptvision.sweep.completed import Families


class Sharing:
    """A family whose `load_backbone` loads each backbone once.

    Every run gets its own modules on shared tensors: it never meets what another run attached or wrapped. If a run
    changes a tensor (a thawed backbone), the fingerprint shows it, and the next run loads the backbone again. Only one
    run may use them at a time, unless all leave the tensors as they are (`unchanged`), which is not checked then. A
    backbone stays in memory until another one is loaded.
    """

    def __init__(self, family: ModuleType | Sharing, unchanged: bool = False):
        self.family, self.unchanged = family, unchanged
        self._key: tuple[Any, ...] = ()
        self._backbone: nn.Module = nn.Identity()
        self._fingerprint = ""

    def __getattr__(self, name: str) -> Any:
        """Return everything else from the family."""
        return getattr(self.family, name)

    def load_backbone(self, *key: Any) -> nn.Module:
        """Return a copy of the family's backbone with the same tensors, and the same tokenizers, which are constant."""
        if key != self._key or not (self.unchanged or fingerprint(self._backbone) == self._fingerprint):
            self._backbone = self.family.load_backbone(*key)
            self._key, self._fingerprint = key, "" if self.unchanged else fingerprint(self._backbone)
        parameters, buffers = list(self._backbone.parameters()), list(self._backbone.buffers())
        same: dict[int, Any] = {id(buffer): buffer.detach() for buffer in buffers}
        same |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in parameters}
        assert len(same) == len(parameters) + len(buffers)
        tokenizers = [module.tokenizer for module in self._backbone.modules() if hasattr(module, "tokenizer")]
        return copy.deepcopy(self._backbone, {**same, **{id(tokenizer): tokenizer for tokenizer in tokenizers}})


def sharing(families: Families, unchanged: bool = False) -> Families:
    """Return the families, each with a backbone that its runs share, `unchanged` if none of them changes a tensor."""
    return {name: Sharing(family, unchanged) for name, family in families.items()}
