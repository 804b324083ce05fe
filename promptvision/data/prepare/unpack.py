"""From official archives to the layout that a reader expects.

An archive is unpacked beside itself: `ROOT/dtd-r1.0.1.tar.gz` holds `dtd/`, and `ROOT/oxford_flowers/102flowers.tgz`
holds `jpg/`. A card's download entry may say otherwise: of `part` of the archive only, and `into` which folder.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from promptvision.data.card import Card
from promptvision.data.prepare.imagenet import unpack_imagenet
from promptvision.data.prepare.presence import presence, root_folder
from promptvision.data.readers.layout import missing
from promptvision.errors import InputError

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
"""What the archive modules raise for a file that is not whole, or of a kind that they cannot read."""


class Unsafe(InputError):
    """An archive that would write elsewhere, or something other than files."""


Opener = Callable[[], Any]
"""Opens a packed file for reading bytes."""
Progress = Callable[[str], None]
"""Called with the name of each file that is unpacked."""


@dataclass(frozen=True)
class Archive:
    """An archive, where it goes, and which part of it ("" for all)."""

    file: Path
    into: Path
    part: str = ""


def archives(card: Card, root: str) -> list[Archive]:
    """The archives that a card's downloads and its collection on the Hugging Face Hub name, there or not."""
    top = root_folder(root)
    found = []
    for entry in card.download:
        file = top / str(entry["file"])
        into = top / str(entry["into"]) if "into" in entry else file.parent
        found.append(Archive(file, into, str(entry.get("part", ""))))
    names, inner = card.hub.get("files", []), top / str(card.hub.get("into", ""))
    found += [Archive(inner / name, (inner / name).parent) for name in names if isinstance(names, list)]
    return [archive for archive in found if archive.file.name.lower().endswith(SUFFIXES)]


def prepare(card: Card, root: str, progress: Progress = lambda name: None) -> int:
    """Unpack the card's archives that are there; the number of files (for ImageNet, of parts) that were new.

    InputError if none is there and the data set is not either, if one is broken, or holds a path that leaves its
    folder, a link, or another file in place of one that is there.
    """
    if card.name == "imagenet" and presence(card, root) != "here":
        return unpack_imagenet(root_folder(root) / card.options["folders"][0])
    known = archives(card, root)
    here = [archive for archive in known if archive.file.is_file()]
    if not here and presence(card, root) != "here":
        names = " or ".join(str(archive.file) for archive in known)
        raise missing(card, f"there is no archive {names}" if names else "its card names no archive to unpack")
    return sum(unpack(archive.file, archive.into, part=archive.part, progress=progress) for archive in here)


def unpack(archive: Path, into: Path, *, part: str = "", progress: Progress = lambda name: None) -> int:
    """Unpack into a hidden folder, then move into place; the number of files that were not there before.

    What an earlier, interrupted call had unpacked is kept. Files in place are left alone if their size is right.
    """
    stage = into / f".unpacking-{archive.name}"
    new = 0
    try:
        for name, size, opened in _members(archive, part):
            place = into / name
            if place.is_file() and place.stat().st_size == size:
                continue
            if place.exists():
                raise InputError(f"{place} is there, but is not what {archive} holds; move it away")
            _write(stage / name, size, opened)
            progress(name)
            new += 1
        if stage.is_dir():
            _move(stage, into)
    except Unsafe:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    except BROKEN as error:
        raise InputError(f"archive {archive} cannot be unpacked: {error or 'it is broken'}") from None
    except OSError as error:
        raise InputError(f"archive {archive} cannot be unpacked into {into}: {error.strerror or error}") from None
    return new


def _members(archive: Path, part: str) -> Iterator[tuple[str, int, Opener]]:
    """(safe path below `part`, size, how to open it) of each file in an archive."""
    for name, size, plain, opened in _zip(archive) if zipfile.is_zipfile(archive) else _tar(archive):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":" or not path.parts:
            raise Unsafe(f"archive {archive} holds {name!r}, which leaves its folder; nothing of it was put in place")
        if not plain:
            raise Unsafe(f"archive {archive} holds {name!r}, a link or device; nothing of it was put in place")
        if path.is_relative_to(part):
            yield str(path.relative_to(part)), size, opened


def _zip(archive: Path) -> Iterator[tuple[str, int, bool, Opener]]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not info.is_dir():
                mode = stat.S_IFMT(info.external_attr >> 16)
                yield info.filename, info.file_size, mode in (0, stat.S_IFREG), partial(packed.open, info)


def _tar(archive: Path) -> Iterator[tuple[str, int, bool, Opener]]:
    with tarfile.open(archive) as packed:
        for member in packed:
            if not member.isdir():
                yield member.name, member.size, member.isreg(), partial(packed.extractfile, member)


def _write(place: Path, size: int, opened: Opener) -> None:
    """One file, under its own name when it is whole."""
    if place.is_file() and place.stat().st_size == size:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place.parent).free
    if size > free:
        raise InputError(f"{place} needs {size:,} bytes, but only {free:,} are free on its disk")
    part = place.with_name(f"{place.name}.part")
    with opened() as packed, part.open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)
    os.replace(part, place)


def _move(stage: Path, into: Path) -> None:
    """Move what `stage` holds into a folder, whole folders at a time where they are new."""
    for entry in sorted(stage.iterdir()):
        place = into / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            os.replace(entry, place)
    stage.rmdir()
