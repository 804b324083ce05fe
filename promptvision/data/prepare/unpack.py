"""Unpacking of official archives to the layout that a reader expects.

An archive is unpacked beside itself: `ROOT/dtd-r1.0.1.tar.gz` holds `dtd/`, and `ROOT/oxford_flowers/102flowers.tgz`
holds `jpg/`. A card's download entry may say otherwise: only a `part` of the archive, and `into` which folder.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from promptvision.atomic import refuse_damaged
from promptvision.data.card import Card
from promptvision.data.prepare.imagenet import unpack_imagenet
from promptvision.data.prepare.presence import below_root, presence, require_space, root_folder
from promptvision.data.readers.layout import missing
from promptvision.data.readers.paths import escapes
from promptvision.errors import InputError

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
Progress = Callable[[str], None]
"""Called with the name of each file that is unpacked."""


class Unsafe(InputError):
    """The error for an archive that would write elsewhere, or something other than files."""


@dataclass(frozen=True)
class Archive:
    """An archive, the folder it is unpacked into, and the part of it that is wanted ("" for all)."""

    file: Path
    into: Path
    part: str = ""


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, size in bytes, whether it is a regular file, and how to open it."""

    name: str
    size: int
    regular: bool
    open: Callable[[], Any]

    def write(self, place: Path) -> None:
        """Write the file; it gets its name when it is whole."""
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        with self.open() as packed, part.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        os.replace(part, place)


def archives(card: Card, root: str) -> list[Archive]:
    """Return the archives that a card's downloads and its collection on the Hub name, whether they exist or not."""
    top = root_folder(root)
    found = []
    for entry in card.download:
        file = below_root(card, top, entry["file"])
        into = below_root(card, top, entry["into"]) if "into" in entry else file.parent
        found.append(Archive(file, into, str(entry.get("part", ""))))
    inner = below_root(card, top, card.hub.get("into", ""))
    packed = [below_root(card, inner, name) for name in card.hub.get("files", [])]
    found += [Archive(file, file.parent) for file in packed]
    return [archive for archive in found if archive.file.name.lower().endswith(SUFFIXES)]


def prepare(card: Card, root: str, progress: Progress = lambda name: None) -> int:
    """Unpack the card's archives that exist, and return the number of new files (for ImageNet, of new splits).

    InputError if neither an archive nor the dataset exists, if an archive is broken, or if it holds a path outside
    its folder, a link, or another file in place of one that exists.
    """
    if card.name == "imagenet" and presence(card, root) != "here":
        return unpack_imagenet(below_root(card, root_folder(root), card.options["folders"][0]))
    known = archives(card, root)
    here = [archive for archive in known if archive.file.is_file()]
    if not here and presence(card, root) != "here":
        names = " or ".join(str(archive.file) for archive in known)
        raise missing(card, f"there is no archive {names}" if names else "its card names no archive to unpack")
    return sum(unpack(archive.file, archive.into, part=archive.part, progress=progress) for archive in here)


def unpack(archive: Path, into: Path, *, part: str = "", progress: Progress = lambda name: None) -> int:
    """Unpack into a hidden folder, then move the files into place; return the number of new files.

    Files that an interrupted call unpacked are kept, and files in place are left alone if their size is right.
    """
    stage = into / f".unpacking-{archive.name}"
    new = 0
    try:
        with refuse_damaged(f"archive {archive} cannot be unpacked into {into}"):
            for member in members(archive, part):
                place, staged = into / member.name, stage / member.name
                if place.exists() and not (place.is_file() and place.stat().st_size == member.size):
                    raise InputError(f"{place} exists, but is not the file in {archive}; move it away")
                if place.exists():
                    continue
                if not new and not stage.is_dir():
                    require_space(into, archive.stat().st_size, f"archive {archive}")
                if not (staged.is_file() and staged.stat().st_size == member.size):
                    member.write(staged)
                progress(member.name)
                new += 1
            if stage.is_dir():
                move_into(stage, into)
    except Unsafe:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return new


def members(archive: Path, part: str) -> Iterator[Member]:
    """Yield the files of an archive below `part`, named relative to it. Unsafe for one that is no plain file inside."""
    for member in zip_members(archive) if zipfile.is_zipfile(archive) else tar_members(archive):
        if escapes(member.name):
            raise Unsafe(f"archive {archive} holds {member.name!r}, which is outside its folder; nothing was unpacked")
        if not member.regular:
            raise Unsafe(f"archive {archive} holds {member.name!r}, a link or device; nothing was unpacked")
        path = PurePosixPath(posixpath.normpath(member.name.replace("\\", "/")))
        if path.is_relative_to(part):
            yield replace(member, name=str(path.relative_to(part)))


def zip_members(archive: Path) -> Iterator[Member]:
    """Yield the entries of a zip archive that are no folders."""
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not info.is_dir():
                kind = stat.S_IFMT(info.external_attr >> 16)
                yield Member(info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(packed.open, info))


def tar_members(archive: Path) -> Iterator[Member]:
    """Yield the entries of a tar archive that are no folders."""
    with tarfile.open(archive) as packed:
        for member in packed:
            if not member.isdir():
                yield Member(member.name, member.size, member.isreg(), partial(packed.extractfile, member))


def move_into(stage: Path, into: Path) -> None:
    """Move the entries of `stage` into a folder, whole folders at a time if they are new."""
    for entry in sorted(stage.iterdir()):
        place = into / entry.name
        if entry.is_dir() and place.is_dir():
            move_into(entry, place)
        else:
            os.replace(entry, place)
    stage.rmdir()
