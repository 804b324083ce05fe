"""Code of the user's own that a config names as `module:attribute`, imported with no edit here."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from promptvision.errors import InputError, OwnCodeFailed, unknown


def names_code(name: object) -> bool:
    """Return whether a name is of the form `package.module:attribute`, which is imported and called."""
    module, colon, attribute = str(name).partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_named(key: str, name: str, kind: str, suits: Callable[[Any], bool]) -> Any:
    """Import what a config names as `module:attribute` and return it; the module may be in the current folder.

    `key`: of the config. `kind`: what the attribute must be, in errors; `suits`: returns whether it is that. Raises
    InputError for a module that cannot be imported, and for another attribute, with the nearest.
    """
    module_name, _, attribute = name.partition(":")
    what = f"{key} {name}"
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{what}: {module_name} is a module of Python itself, which has no {kind}; name your own")
    if module_name not in sys.modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with own_code(f"{what}: importing {module_name}"):
        module = importlib.import_module(module_name)
    if suits(found := getattr(module, attribute, None)):
        return found
    if hasattr(module, attribute):
        raise InputError(f"{what}: {attribute} is no {kind}")
    choices = [each for each, value in vars(module).items() if suits(value) and not each.startswith("_")]
    if not choices:
        raise InputError(f"{what}: {module_name} has no {kind}")
    raise unknown(f"name in {module_name} ({what})", attribute, choices)


@contextmanager
def own_code(what: str) -> Iterator[None]:
    """Raise OwnCodeFailed for whatever the user's own code raises; `what` names the code."""
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError as error:
        extra = (error.name or "").partition(".")[0] == "transformers"
        advice = "pip install 'promptvision[hf]'" if extra else "is its folder on PYTHONPATH?"
        raise InputError(f"{what}: no module {error.name!r}; {advice}") from error
    except SystemExit as error:
        raise InputError(f"{what} ended the process (status {error.code}) instead of returning") from error
    except Exception as error:
        raise OwnCodeFailed(f"{what} raised {type(error).__name__}: the code is your own, see its traceback") from error
