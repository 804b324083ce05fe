"""Your own backbone: `module:function`, called without arguments, with no edit here."""

from __future__ import annotations

import inspect

from torch import nn

from promptvision.errors import InputError
from promptvision.own_code import import_named, own_code


def call_custom(name: str) -> nn.Module:
    """Return the backbone that `function()` of `module` builds; the module may be in the current folder."""
    what = f"BACKBONE.NAME {name}"
    build = import_named("BACKBONE.NAME", name, "function", callable)
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
