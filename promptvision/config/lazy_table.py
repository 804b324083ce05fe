"""Tables of names whose code is imported when it is used."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import Any


class LazyTable(UserDict[str, Any]):
    """Modules ("vpt") or their attributes ("coop.coop:CoOp") by name: `table[name]` imports, all else does not."""

    aliases: Mapping[str, str] = {}
    """Other names in use, each with that of the table, under which a run records it."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.data[name].partition(":")
        return getattr(import_module(module), attribute) if attribute else import_module(module)
