"""Additions: methods that change another method of their family, their host, whichever it is."""

from __future__ import annotations

from functools import cache, partial
from importlib import import_module
from typing import Any

from promptvision.method import Method, option_defaults

ALONE = "none"
"""The host of an addition that stands on its own, where its family's table of hosts has this name."""


class Addition(Method):
    """A method that changes its host: `DePT(clip, names, host="maple", depth=9)` is a DePT and a MaPLe.

    Subclasses have the option `host`, a name in the family's table of methods, and hand all that they do not know to
    the next constructor, `super().__init__(backbone, classes, **of_host)`.
    """

    host_of: type[Method] | None = None
    """The class of the host, in the classes that `on` returns."""

    def __new__(cls, *args: Any, **options: Any) -> Addition:
        whole = cls if cls.host_of else cls.on(options.get("host") or option_defaults(cls)["HOST"])
        found: Any = super().__new__(whole, *args, **options)
        return found

    @classmethod
    @cache
    def on(cls, host: str) -> type[Addition]:
        """Return the class of this addition to a host, its subclass and the host's; an addition as host stands on its
        own default."""
        if host == ALONE:
            return cls
        first = next(each for each in reversed(cls.__mro__) if issubclass(each, Addition) and each is not Addition)
        base = import_module(first.__module__.partition(".")[0]).METHODS.find(host)  # that of a subclass is your own
        content = {"host_of": base, "__doc__": cls.__doc__, "__module__": cls.__module__}
        found: type[Addition] = type(cls.__name__, (cls, base), content)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        addition: Any = type(self).__bases__[0] if self.host_of else type(self)
        return partial(Addition.__new__, addition, host=self.options["host"]), (), self.__dict__
