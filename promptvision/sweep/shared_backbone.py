"""One backbone in memory for many runs, one after the other."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

from torch import nn

from promptvision.backbones.blocks import HOOKS
from promptvision.backbones.fingerprint import fingerprint
from promptvision.sweep.completed import Families


class Sharing:
    """A family whose `load_backbone` loads each backbone once.

    Every run gets its own modules on shared tensors: it never meets what another run attached or wrapped. If a run
    changes a tensor (a thawed backbone), the fingerprint shows it, and the next run loads the backbone again. Only one
    run may use them at a time. Runs that leave the backbone as it is (`unchanged`) may use it at the same time, and get
    the same modules; the next run gets others after one attached, wrapped or thawed some all the same. A backbone stays
    in memory until another one is loaded.
    """

    def __init__(self, family: ModuleType | Sharing, unchanged: bool = False):
        self.family, self.unchanged = family, unchanged
        self._key: tuple[Any, ...] = ()
        self._backbone: nn.Module = nn.Identity()
        self._identity = ""

    def __getattr__(self, name: str) -> Any:
        """Return everything else from the family."""
        return getattr(self.family, name)

    def load_backbone(self, *key: Any) -> nn.Module:
        """Return the family's backbone, or a copy with the same tensors and the same tokenizers, which are constant."""
        identity = parts if self.unchanged else fingerprint
        if key != self._key or identity(self._backbone) != self._identity:
            self._backbone = self.family.load_backbone(*key)
            self._key, self._identity = key, identity(self._backbone)
        if self.unchanged:
            return self._backbone
        parameters, buffers = list(self._backbone.parameters()), list(self._backbone.buffers())
        same: dict[int, Any] = {id(buffer): buffer.detach() for buffer in buffers}
        same |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in parameters}
        assert len(same) == len(parameters) + len(buffers)
        tokenizers = [module.tokenizer for module in self._backbone.modules() if hasattr(module, "tokenizer")]
        return copy.deepcopy(self._backbone, {**same, **{id(tokenizer): tokenizer for tokenizer in tokenizers}})


def parts(backbone: nn.Module) -> str:
    """Return the identity of the modules of a backbone, of their hooks, and of its parameters that are learned."""
    hooks = [(id(module), [*map(len, (getattr(module, name) for name in HOOKS))]) for module in backbone.modules()]
    return str([hooks, [(id(each), each.requires_grad) for each in backbone.parameters()]])


def sharing(families: Families, unchanged: bool = False) -> Families:
    """Return the families, each with a backbone that its runs share, `unchanged` if none of them changes a tensor."""
    return {name: Sharing(family, unchanged) for name, family in families.items()}
