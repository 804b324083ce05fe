"""Your own backbone: `module:function`, called without arguments, with no edit here."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from promptvision.errors import InputError, unknown


def is_custom(name: Any) -> bool:
    """Return whether a backbone's name is of the form `package.module:function`."""
    module, colon, function = str(name).partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def call_custom(name: str) -> Any:
    """Return the result of `function()` of `module`, which may be in the current folder."""
    module_name, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"BACKBONE.NAME {name}: no module {error.name!r}; is its folder on PYTHONPATH?") from error
    if not callable(getattr(module, function, None)):
        raise unknown(f"function in {module_name} (BACKBONE.NAME {name})", function, vars(module))
    return getattr(module, function)()
