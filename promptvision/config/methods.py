"""The methods of a family: a table of names whose code is imported when it is used.

The docstring and the options of a method are read from its source, so that they are known before torch is imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import Any

from promptvision.config.lazy_table import LazyTable
from promptvision.config.own_method import defaults_of, own_method
from promptvision.errors import InputError, unknown
from promptvision.own_code import names_code, own_code


@dataclass(frozen=True)
class MethodDocs:
    """The documentation of a method: the first line of its file, the docstring of its class, and its options."""

    paper: str
    text: str
    defaults: Mapping[str, Any]
    meanings: Mapping[str, str]
    """Meaning of each option, where a docstring states it: `` `n_ctx`: number of vectors M. ``"""

    @property
    def summary(self) -> str:
        """The first sentence of the docstring, on one line."""
        return first_sentence(self.text)


class MethodTable(LazyTable):
    """The methods of a family: their classes, and what the source of a class says of itself.

    `hosts`: methods that are an addition to another one, their option HOST, and the names of those that it can be;
    "none" among them is the addition alone.
    """

    def __init__(
        self,
        family: str,
        paths: Mapping[str, str],
        hosts: Mapping[str, Sequence[str]] | None = None,
        aliases: Mapping[str, str] | None = None,
    ):
        super().__init__(paths)
        self.family, self.hosts, self.aliases = family, hosts or {}, aliases or {}

    def find(self, name: str, host: str = "") -> type[Any]:
        """Import and return the class of a method; an unknown name raises InputError with the nearest."""
        self.check(name)
        found: Any = self[name] if name in self else own_method(name, self.family)
        return found.on(self._host(name, host)) if self.hosts_of(name) else found

    def options(self, name: str, host: str = "") -> dict[str, Any]:
        """Return the options of a method, in upper case, with their defaults; an addition has those of its host too."""
        self.check(name)
        if name not in self:
            return defaults_of(self.find(name, host))
        own, host = self._own_options(name), self._host(name, host) if name in self.hosts else "none"
        return own if host == "none" else {**self.options(host), **own}

    def hosts_of(self, name: str) -> tuple[str, ...]:
        """Return the hosts of an addition, or of your own class that extends one; none of any other method."""
        if name in self:
            return tuple(self.hosts.get(name, ()))
        method = own_method(name, self.family)
        return next((tuple(hosts) for addition, hosts in self.hosts.items() if issubclass(method, self[addition])), ())

    def _host(self, name: str, host: str) -> str:
        """Return the host of an addition, its default if `host` is empty."""
        own = self._own_options(name) if name in self else defaults_of(own_method(name, self.family))
        host, hosts = host or own["HOST"], self.hosts_of(name)
        if host not in hosts:
            raise unknown(f"host of {name}", host, hosts)
        return host

    def _own_options(self, name: str) -> dict[str, Any]:
        """Return the keyword-only arguments of a method's constructor."""
        statements = (each for found in lineage(self.data[name]) for each in found.body)
        maker = next(each for each in statements if isinstance(each, ast.FunctionDef) and each.name == "__init__")
        options: dict[str, Any] = {}
        for argument, default in zip(maker.args.kwonlyargs, maker.args.kw_defaults, strict=True):
            assert default, f"option {argument.arg} of the method {name} has no default"
            try:
                options[argument.arg.upper()] = ast.literal_eval(default)
            except ValueError as error:
                raise InputError(f"option {argument.arg} of the method {name} needs a literal as default") from error
        return options

    def build(self, name: str, backbone: Any, classes: Sequence[str], options: Mapping[str, Any]) -> Any:
        """Construct a method after checking that it has all `options`, and that it saves whatever it trains."""
        host = options.get("host", "")
        method, known = self.find(name, host), [option.lower() for option in self.options(name, host)]
        if wrong := [option for option in options if option not in known]:
            raise unknown(f"option of {name}", wrong[0], known)
        with nullcontext() if name in self else own_code(f"METHOD.NAME {name}"):
            built = method(backbone, classes, **options)
        for path, parameter in built.backbone.named_parameters():
            if parameter.requires_grad and f"backbone.{path}" not in built.thawed:
                raise InputError(f"{name} trains {path!r} of the backbone without saving it; pass it to Method.thaw")
        return built

    def docs(self, name: str) -> MethodDocs:
        """Return the documentation of a method; meanings that its own docstring lacks are those of its bases."""
        self.check(name)
        if name in self:
            defaults, module = (
                self._own_options(name),
                ast.get_docstring(_source(self.data[name].partition(":")[0])) or "",
            )
            texts = [ast.get_docstring(each) or "" for each in lineage(self.data[name])]
        else:
            method = self.find(name)
            defaults, module = defaults_of(method), sys.modules[method.__module__].__doc__ or ""
            texts = [cleandoc(vars(each).get("__doc__") or "") for each in method.__mro__]
        meanings = dict[str, str]()
        for option, meaning in (pair for text in texts for pair in option_texts(text)):
            if option in defaults:
                meanings.setdefault(option, self._resolved(option, meaning))
        return MethodDocs(module.partition("\n")[0], next(filter(None, texts), ""), defaults, meanings)

    def _resolved(self, option: str, meaning: str) -> str:
        """Replace "as in CoOp" (a class or a method of the family) by what that says of the option."""
        other = re.match(r"as in `?(\w+)", meaning)
        names = [name for name in self if other and other[1] in (name, self.data[name].rpartition(":")[2])]
        return self.docs(names[0]).meanings.get(option, meaning) if names else meaning

    def check(self, name: str) -> None:
        """Raise InputError for a name that is neither in the table nor of the form `module:Class`."""
        if name not in self and not names_code(name):
            raise unknown(f"{self.family} method", name, self)


def option_texts(text: str) -> Iterator[tuple[str, str]]:
    """Yield (OPTION, meaning) of each "`a`: meaning.", "`a`, `b`: meaning." or "`a` as in CoOp." in a docstring."""
    for paragraph in text.split("\n\n"):
        pieces = re.split(r"(`\w+`(?:(?:, | and )`\w+`)*)(?:: | (?=as in ))", " ".join(paragraph.split()))
        for names, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
            for option in re.findall(r"\w+(?=`)", names):
                yield option.upper(), first_sentence(meaning)


def first_sentence(text: str) -> str:
    """Return the first sentence of a text on one line, with a full stop."""
    return re.split(r"\.(?= [A-Z`]|$)", " ".join(text.split()))[0].rstrip(" ,;") + "."


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
