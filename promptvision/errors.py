"""The one error a user's mistake may raise: a single clear sentence, which the tools print without a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType


class InputError(ValueError):
    """Bad input. The message names the file or key, what is wrong, and the nearest right choice."""


class Diverged(InputError):
    """Training left the finite numbers: a search over settings goes on with the next one."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among `choices`: suggests the nearest, else lists them all."""
    known = sorted(choices)
    near = get_close_matches(str(name), known, n=1, cutoff=0.6) or get_close_matches(
        str(name).lower(), [choice.lower() for choice in known], n=1, cutoff=0.6
    )
    nearest = next((choice for choice in known if near and choice.lower() == near[0].lower()), None)
    hint = f"did you mean {nearest!r}?" if nearest else f"one of: {', '.join(known)}"
    return InputError(f"unknown {kind} {str(name)!r}; {hint}")


def shown(name: str) -> str:
    """A name for a sentence on one line: as it is, or with what cannot be printed escaped."""
    return name if name.isprintable() else ascii(name)


@contextmanager
def one_sentence() -> Iterator[None]:
    """For the tools: bad input ends as one sentence and exit status 2, Ctrl-C as one line and 130, SIGTERM as 143."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as after an error, so that locks are given back and half-written files removed."""
    raise SystemExit(128 + number)
