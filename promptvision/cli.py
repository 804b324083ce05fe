"""The command line shared by all tools: errors in one sentence, signals, and KEY VALUE overrides."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from promptvision.config.docs import often_set
from promptvision.errors import InputError, OwnCodeFailed, as_called, lacks_memory, visible


@contextmanager
def one_sentence() -> Iterator[None]:
    """End bad input with one sentence and exit status 2, Ctrl-C with one line and 130, SIGTERM with 143."""

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the end short
        raise SystemExit(128 + number)  # as after an error: locks are released, half-written files are removed

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that its encoding lacks is escaped, not an error
            stream.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with _flushed():
            yield
    except InputError as error:
        say(f"error: {error}", sys.stderr)
        if isinstance(error, OwnCodeFailed):
            traceback.print_exception(error.__cause__)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of the output, such as head, has enough
        _discard_output()
        raise SystemExit(128 + getattr(signal, "SIGPIPE", 13)) from None
    except (MemoryError, RuntimeError, OSError) as error:
        if lacks_memory(error):
            say("error: the machine is out of memory: end other programs, or give this one smaller inputs", sys.stderr)
        elif isinstance(error, OSError) and error.filename and error.strerror:  # such as a name that is too long
            say(f"error: {os.fsdecode(error.filename)}: {error.strerror}", sys.stderr)
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            say(f"error: the output cannot be written: {error.strerror}", sys.stderr)
            _discard_output()
        else:
            raise
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _flushed() -> Iterator[None]:
    """Write what stdout still holds, also of a tool that ends by SystemExit, where an error can be told."""
    ended: SystemExit | None = None
    try:
        yield
    except SystemExit as error:
        ended = error
    if sys.stdout:  # None if it is closed
        sys.stdout.flush()
    if ended:
        raise ended


def _discard_output() -> None:
    """Let Python flush at its end into nothing what stdout did not take."""
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())


def say(text: object, stream: TextIO | None = None) -> None:
    """Print a line, to stdout by default, in which names are plain text."""
    print(visible(str(text)), file=stream)


class ToolParser(ArgumentParser):
    """A parser that takes options before, between and after KEY VALUE words."""

    words: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):  # type: ignore[override, no-untyped-def]
        """Return the parsed command line; argparse itself cannot mix options into the words of a sub-command."""
        self.words = sys.argv[1:] if args is None else args
        parse = super().parse_args if self._subparsers else super().parse_intermixed_args
        return parse(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise InputError: one sentence, as for all other mistakes, in place of the usage."""
        known = list(self._option_string_actions)
        for word in (word.partition("=")[0] for word in self.words if word.startswith("--")):
            near = get_close_matches(word, known, n=1)
            if near and not any(option.startswith(word) for option in known):
                raise InputError(f"unknown option {word}; did you mean {near[0]}?")
        raise InputError(f"{message}; see --help")


def tool_parser(description: str, *, config: str = "", overrides: str = "") -> ArgumentParser:
    """Return a parser whose help begins with a tool's docstring.

    `config`: help of a required `--config`. `overrides`: help of the positional `KEY VALUE ...`; the most common
    keys are listed at the end. Neither argument exists if its help is empty.
    """
    program = Path(sys.argv[0]).name
    parser = ToolParser(program, description=as_called(description), formatter_class=RawDescriptionHelpFormatter)
    if config:
        parser.add_argument("--config", required=True, help=config)
    if overrides:
        parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help=overrides)
        parser.epilog = often_set()
    return parser


def whole(least: int, step: int = 1) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number from `least` on, a multiple of `step`."""

    def number(word: str) -> int:
        if not word.isdecimal() or int(word) < least or int(word) % step:
            multiple = f", a multiple of {step}" if step > 1 else ""
            raise ArgumentTypeError(f"{word!r} is no whole number from {least} on{multiple}")
        return int(word)

    return number


positive, natural = whole(1), whole(0)


def gpu_count(word: str) -> float:
    """Return a number of GPUs for each process of a cluster, or the share of one; the type of `--gpus`."""
    if not re.fullmatch(r"0?\.\d+|\d+(\.0)?", word):
        raise ArgumentTypeError(f"{word!r} is neither a whole number nor the share of one GPU, such as 0.25")
    return float(word)


def add_trust(parser: ArgumentParser) -> None:
    """Add `--trust` to the command of a tool that opens runs."""
    parser.add_argument("--trust", action="store_true", help="run the code that the run's config names")
