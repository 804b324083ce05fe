"""Files that appear whole or not at all, JSON files, and file locks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from filelock import FileLock, Timeout

from promptvision.errors import InputError, NotWritten

LOG = logging.getLogger(__name__)


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
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result as JSON; raise NotWritten, which holds the result, if that fails."""
    try:
        write_json(path, result)
    except InputError as error:
        raise NotWritten(str(error), result) from error


def read_json(path: str | Path, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the contents of a JSON file; `pairs` makes its objects. InputError if it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's contents, "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
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
