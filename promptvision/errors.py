"""The one error for mistakes of the user: a single clear sentence, which the tools print without a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from errno import ENOMEM
from itertools import islice
from pathlib import Path
from typing import Any

TOLD = 20
"""Sentences of one kind that are shown; the others are counted."""
LISTED = 100
"""Choices that a sentence lists; of more than these it shows the first TOLD."""
LONGEST = 10_000
"""Characters of a class name."""
UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""Characters that control a terminal, break a line, change the direction of text, are invisible, or are invalid."""


class InputError(ValueError):
    """Bad input. The message names the file or key, what is wrong, and the nearest right choice."""


class Unknown(InputError):
    """A `name` that is none of the `choices`."""

    name = ""
    choices: Sequence[str] = ()


class Diverged(InputError):
    """Training whose loss is no longer finite: a search over settings continues with the next one."""


class OwnCodeFailed(InputError):
    """An error in a function that the user named; the tools print the traceback of its cause below the sentence."""


class NotWritten(InputError):
    """A result that was computed but whose file cannot be written; the tools print it before the error."""

    def __init__(self, message: str, result: dict[str, Any]):
        super().__init__(message)
        self.result = result


def unknown(kind: str, name: object, choices: Iterable[str]) -> Unknown:
    """Return the error for a name that is not among `choices`: it suggests the nearest, else lists them."""
    known = sorted(choices)
    near = get_close_matches(str(name), known, n=1, cutoff=0.6) or get_close_matches(
        str(name).lower(), [choice.lower() for choice in known], n=1, cutoff=0.6
    )
    nearest = next((choice for choice in known if near and choice.lower() == near[0].lower()), None)
    listed = ", ".join(known if len(known) <= LISTED else briefly(known))
    hint = f"did you mean {nearest!r}?" if nearest else f"one of: {listed}"
    error = Unknown(f"unknown {kind} {str(name)!r}; {hint}")
    error.name, error.choices = str(name), known
    return error


def check_names(classes: Sequence[str]) -> None:
    """Raise InputError for class names that are no texts, empty or duplicate."""
    if not classes:
        raise InputError("no classes: a method needs at least one class name")
    first: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not isinstance(name, str):
            raise InputError(f"class {label} is {name!r}, which is no text; class names are texts")
        if not name.strip(" _\t\r\n"):
            raise InputError(f"class {label} has no name ({name!r}); every class needs one")
        if len(name) > LONGEST:
            raise InputError(f"the name of class {label}, {name[:40]!r} ..., has {len(name):,} characters; shorten it")
        if first.setdefault(name, label) != label:
            raise InputError(f"two classes are called {name!r} (labels {first[name]} and {label}); rename one of them")


def check_share(name: str, value: float) -> None:
    """Raise InputError for an option that is a share of something, such as a dropout, and is not."""
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value}; it is a share from 0 to below 1")


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 image`, `2,000 images`, `3 classes`, `4 batches`, `5 epochs`; `many`: another plural."""
    plural = many or one + ("es" if one.endswith(("s", "x", "tch")) else "s")
    return f"{count:,} {one if count == 1 else plural}"


def shown(name: str) -> str:
    """Return a name for a one-line message: unchanged, or with unprintable characters escaped."""
    return name if name.isprintable() else ascii(name)


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text as a terminal may get it: all of UNSEEN escaped, except line feeds if it consists of `lines`."""
    return UNSEEN.sub(lambda one: one[0] if lines and one[0] == "\n" else ascii(one[0])[1:-1], text)


def one_line(text: str) -> str:
    """Replace what would break the line or control a terminal with spaces."""
    return re.sub(f"(?:{UNSEEN.pattern})+", " ", text)


def without_formula(text: str) -> str:
    """Return a text for a cell of CSV: an apostrophe precedes what a spreadsheet would take for a formula."""
    text = one_line(text)
    formula = text.lstrip()[:1] in {*"=+-@＝＋－＠"} and not re.fullmatch(r"[+-]?[\d.,]+", text)
    return f"'{text}" if formula else text


def as_called(text: str) -> str:
    """Return a text for the user whose commands are those that work here.

    `python tools/data.py` is `promptvision data` in an installation, which has no tools/, and below that command.
    """
    installed = (Path(__file__).parent / "commands").is_dir()
    if not installed and not Path(sys.argv[0]).name.startswith("promptvision"):
        return text
    text = re.sub(r"(torchrun [^;]*?)tools/(\w+)\.py", r"\1-m promptvision \2", text)
    return re.sub(r"(?:python )?tools/(\w+)\.py", r"promptvision \1", text)


def briefly(sentences: Iterable[str]) -> list[str]:
    """Return the first sentences, and the number of the others."""
    rest = iter(sentences)
    told, more = list(islice(rest, TOLD)), sum(1 for _ in rest)
    return [*told, f"and {more:,} more"] if more else told


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error of Python, numpy, torch, CUDA or the system says that the memory is exhausted."""
    if isinstance(error, OSError):
        return error.errno == ENOMEM
    said = r"out of memory|(can.t|cannot) allocate|not enough memory|ALLOC_FAILED|size calculation overflow"
    return isinstance(error, MemoryError) or re.search(said, str(error), re.IGNORECASE) is not None
