"""Your own method: METHOD.NAME `module:Class`, with no edit here."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from promptvision.config.families import BACKBONES, FAMILIES
from promptvision.errors import InputError
from promptvision.own_code import import_named

if TYPE_CHECKING:  # importing it takes the seconds of torch
    from promptvision.method import Method


def own_class(name: str) -> type[Method]:
    """Import a class that METHOD.NAME names."""
    from promptvision.method import Method

    def suits(found: Any) -> bool:
        return inspect.isclass(found) and issubclass(found, Method) and found is not Method

    method: type[Method] = import_named("METHOD.NAME", name, "class that extends promptvision.method.Method", suits)
    return method


def own_method(name: str, family: str) -> type[Method]:
    """Import a class that METHOD.NAME names; raise InputError if the family cannot build it from a config."""
    method = own_class(name)
    if (right := family_of(method)) not in ("", family):
        raise InputError(f"METHOD.NAME {name} is a method of the {right} family: set METHOD.FAMILY {right}")
    try:
        inspect.signature(method.__init__).bind(None, None, [])
    except TypeError as error:
        raise InputError(
            f"METHOD.NAME {name} is called with a backbone, class names and options, keyword-only arguments with "
            f"defaults, but: {error}"
        ) from error
    return method


def defaults_of(method: type[Method]) -> dict[str, Any]:
    """Return the options of your own class, in upper case, with their defaults."""
    from promptvision.method import option_defaults

    return option_defaults(method)


def family_of(method: type[Method]) -> str:
    """Return the family of a method by its bases, or by the annotation of its `backbone`; "" if neither says."""
    packages = [each.__module__.partition(".")[0] for each in method.__mro__]
    found = next((name for package in packages for name, module in FAMILIES.data.items() if module == package), "")
    parameter = inspect.signature(method.__init__).parameters.get("backbone")
    annotation = parameter.annotation if parameter else ""
    return found or BACKBONES.get(str(getattr(annotation, "__name__", annotation)), "")
