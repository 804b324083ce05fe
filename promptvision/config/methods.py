"""Tables of names whose code is imported when it is used, and a family's methods as such a table.

The docstring and the options of a method are read from its source, so that they are known before torch is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from promptvision.errors import InputError, unknown


class LazyTable(Mapping[str, Any]):
    """Modules ("vpt") or their attributes ("coop.coop:CoOp") by name: `table[name]` imports, all else does not."""

    def __init__(self, paths: Mapping[str, str]):
        self.paths = dict(paths)

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.paths[name].partition(":")
        return getattr(import_module(module), attribute) if attribute else import_module(module)

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class MethodTable(LazyTable):
    """The methods of a family: their classes, and what the source of a class says of itself."""

    def __init__(self, family: str, paths: Mapping[str, str]):
        super().__init__(paths)
        self.family = family

    def find(self, name: str) -> type[Any]:
        """Import and return the class of a method; an unknown name raises InputError with the nearest."""
        self.check(name)
        return self[name]

    def options(self, name: str) -> dict[str, Any]:
        """Return the keyword-only arguments of a method, in upper case, with their defaults."""
        self.check(name)
        for statement in (each for found in lineage(self.paths[name]) for each in found.body):
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                pairs = zip(statement.args.kwonlyargs, statement.args.kw_defaults, strict=True)
                return {each.arg.upper(): _literal(name, each.arg, default) for each, default in pairs}
        return {}

    def check(self, name: str) -> None:
        """Raise InputError for a name that is not in the table."""
        if name not in self:
            raise unknown(f"{self.family} method", name, self)


def _literal(method: str, option: str, default: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(default)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"option {option} of the method {method} needs a default that is a literal") from error


def lineage(path: str) -> Iterator[ast.ClassDef]:
    """Yield the source of a class, "module:Class", then of its bases in its own package and in promptvision."""
    module, _, name = path.partition(":")
    tree = _source(module)
    classes = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
    imports = [each for each in tree.body if isinstance(each, ast.ImportFrom)]
    origins = {alias.asname or alias.name: f"{each.module}:{alias.name}" for each in imports for alias in each.names}
    yield classes[name]
    for base in map(ast.unparse, classes[name].bases):
        origin = f"{module}:{base}" if base in classes else origins.get(base, "")
        if origin.partition(".")[0] in (module.partition(".")[0], "promptvision"):
            yield from lineage(origin)


@cache
def _source(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec and spec.origin
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
