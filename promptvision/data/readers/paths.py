"""Paths that a list names: kept inside one folder, and found however they are spelled."""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from promptvision.errors import InputError


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), so that two spellings of one name are equal."""
    return unicodedata.normalize("NFC", text)


def caseless(text: str) -> str:
    """Return the form in which names are equal that differ only in upper and lower case."""
    return composed(text).casefold()


def escapes(path: str) -> bool:
    """Return whether a path is absolute, in the notation of any system, or climbs out of its folder."""
    plain = path.replace("\\", "/")
    climbs = ".." in plain and posixpath.normpath(plain).split("/")[0] == ".."
    return climbs or plain.startswith("/") or plain[1:2] == ":"


def exists(path: Path) -> bool:
    """Return whether there is a file; a pipe or device counts, as opening it makes it a bad image."""
    return os.path.exists(path) and not os.path.isdir(path)


def listed_path(path: str, base: Path, place: str) -> str:
    """Return a listed path relative to `base`, normalized; an absolute path below `base` becomes relative.

    InputError, which begins with `place`, for a path outside `base`, and for one that no file can have. Symbolic links
    below `base` are allowed to leave it: they were made on purpose.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise InputError(f"{place}: the path {ascii(path)} is not text in UTF-8") from None
    if os.path.isabs(path):
        as_written = os.path.normpath(path), os.path.abspath(base)
        for whole, top in (as_written, (os.path.realpath(path), os.path.realpath(base))):
            if whole != top and Path(whole).is_relative_to(top):
                return Path(whole).relative_to(top).as_posix()
    if escapes(path):
        raise InputError(f"{place}: the path {path!r} is outside the folder {base}; write paths relative to it")
    return posixpath.normpath(path)


class Finder:
    """A search for listed paths below a folder.

    Tried in turn: the path as written; with backslashes as separators; with names compared in Unicode's composed
    form, in which a list and a file system may differ (macOS once stored decomposed names); then all of these without
    the blanks around the path.
    """

    def __init__(self, base: Path):
        self.base = base
        self._names: dict[tuple[str, Callable[[str], str]], dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """Return the path as it is stored, or None if there is no such file."""
        for own in dict.fromkeys((path, path if escapes(path.strip()) else path.strip())):
            slashes = posixpath.normpath(own.replace("\\", "/"))
            for spelling in dict.fromkeys((own, slashes)):
                if exists(self.base / spelling):
                    return spelling
            if found := self._match(slashes, composed):
                return found
        return None

    def nearly(self, path: str) -> str | None:
        """Return a stored path that differs only in upper and lower case, or None."""
        return self._match(posixpath.normpath(path.replace("\\", "/")), caseless)

    def absence(self, path: str) -> str:
        """Return why a listed file is missing, with the nearest spelling that exists; "" for a file that exists."""
        try:
            return "" if stat.S_ISREG(os.stat(self.base / path).st_mode) else "is no file"
        except FileNotFoundError:
            near = self.find(path) or self.nearly(path)
            return f"no such file, but there is {near}" if near else "no such file"
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)

    def _match(self, path: str, form: Callable[[str], str]) -> str | None:
        found = ""
        for part in path.split("/"):
            stored = self._stored(found, form).get(form(part))
            if stored is None:
                return None
            found = f"{found}/{stored}" if found else stored
        return found if exists(self.base / found) else None

    def _stored(self, folder: str, form: Callable[[str], str]) -> dict[str, str]:
        """Return form -> name of everything in a folder; each folder is listed once for each form."""
        if (folder, form) not in self._names:
            try:
                names = sorted(os.listdir(self.base / folder))
            except OSError:
                names = []
            self._names[folder, form] = {form(name): name for name in reversed(names)}
        return self._names[folder, form]
