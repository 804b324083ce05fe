"""Your own backbone: `module:function`, called without arguments, with no edit here."""

from __future__ import annotations

import importlib
import inspect
import os
import sys

from torch import nn

from promptvision.errors import InputError, own_code, unknown


def call_custom(name: str) -> nn.Module:
    """Return the backbone that `function()` of `module` builds; the module may be in the current folder."""
    module_name, _, function = name.partition(":")
    what = f"BACKBONE.NAME {name}"
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{what}: {module_name} is a module of Python itself, which builds no backbone; name your own")
    if module_name not in sys.modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with own_code(f"{what}: importing {module_name}"):
        module = importlib.import_module(module_name)
    build = getattr(module, function, None)
    if not callable(build):
        raise unknown(f"function in {module_name} ({what})", function, vars(module))
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise InputError(f"{what} is called without arguments, but it takes some: {error}") from error
    except ValueError:  # a function in C, which does not say
        pass
    with own_code(what):
        backbone = build()
    if not isinstance(backbone, nn.Module):
        raise InputError(f"{what} returned a {type(backbone).__name__}; it must return a module of torch")
    return backbone
