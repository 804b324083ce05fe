"""Files that appear whole or not at all, the door for files from elsewhere, JSON, and file locks."""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import pickle
import re
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from promptvision.errors import InputError, NotWritten, shown

LOG = logging.getLogger(__name__)
LARGEST = 1 << 30
"""Bytes of a text file that is read as a whole: a list of ten million images has half of it."""
DIGITS = 300
"""Digits of a whole number, so that it is also a finite float."""
DAMAGE = (
    *(OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError),
    *(ArithmeticError, MemoryError, SyntaxError, struct.error, zlib.error, pickle.UnpicklingError),
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, SafetensorError, re.error),
)
"""Errors that libraries raise for a damaged file."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file that replaces `path` on exit: a crash at any moment leaves the old or the new file.

    An error leaves the old file and removes the temporary one. OSError if the file cannot be written.
    """
    umask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(umask)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows moves and removes no open file
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):  # a full disk, once more
                file.close()
            with suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new file name survive a power failure, where the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace the file `path` by `content`; InputError if it cannot be written."""
    try:
        with replacing(Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result as JSON; raise NotWritten, which holds the result, if that fails."""
    try:
        write_json(path, result)
    except InputError as error:
        raise NotWritten(str(error), result) from error


def refuse_special(path: str | Path, name: str) -> os.stat_result:
    """Return the state of a file, links followed; InputError, which begins with `name`, for a pipe, socket or device.

    OSError, or ValueError for a NUL in the path, if there is none. To open a pipe would wait for a writer for good.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{name} cannot be read: it is no file but a pipe or device")
    return found


@contextmanager
def refuse_damaged(sentence: str, otherwise: str = "", kind: type[InputError] = InputError) -> Iterator[None]:
    """Raise an InputError of a `kind`, the sentence with the reason, for whatever a library raises for a damaged file.

    The reason is the system's, or else `otherwise`, or else the first line of the library's error, without its advice
    to load the file with less care. The library's warnings are not shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except DAMAGE as error:
        deep = "it is nested too deeply" if isinstance(error, RecursionError) else ""
        first = deep or (str(error).strip().splitlines() or ["it is damaged or cut short"])[0]
        unsafe = any(word in str(error) for word in ("weights_only", "allow_pickle", "pickle_module"))
        said = "it holds more than tensors and plain values, or is damaged" if unsafe else first
        raise kind(f"{sentence}: {getattr(error, 'strerror', None) or otherwise or said}") from error


def read_bytes(path: str | Path, what: str = "", largest: int = LARGEST) -> bytes:
    """Return the contents of a file, which errors call `what`; InputError if it cannot be read or is larger."""
    name = shown(f"{what} {path}".strip())
    with refuse_damaged(f"{name} cannot be read"):
        if refuse_special(path, name).st_size > largest:
            raise InputError(f"{name} has more than {largest >> 20} MB: it is no such file")
        return Path(path).read_bytes()


def read_json(path: str | Path, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the contents of a JSON file; `pairs` makes its objects. InputError if it cannot be read."""
    return parse_json(read_bytes(path), str(path), pairs)


def parse_json(text: str | bytes, name: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the plain values in a JSON text; `pairs` makes its objects. InputError, which begins with `name`."""
    with refuse_damaged(f"{name} is not JSON"):
        if "\\u0000" in text if isinstance(text, str) else b"\\u0000" in text:
            raise ValueError("it has a NUL character, which no path and no name has")
        return json.loads(text, object_pairs_hook=pairs, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def file_hash(path: str | Path, kind: str = "sha256") -> str:
    """Return the hexadecimal hash of a file's contents, "" if it cannot be read."""
    digest = hashlib.new(kind)
    try:
        refuse_special(path, str(path))
        with open(path, "rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


@contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`; yield whether another process held it first.

    While another process holds it, raise InputError with the sentence `busy`, or with `wait` log the sentence and
    wait. The lock of a killed process is free at once, even if workers that it forked are still alive. OSError if the
    file system has no locks.
    """
    lock, waited = FileLock(path, thread_local=False, fallback_to_soft=False), False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise InputError(busy) from None
        LOG.info(busy)
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()
