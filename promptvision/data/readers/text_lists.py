"""Lists of images as text: VTAB-1k without TensorFlow, VisDA, DomainNet, and FGVC-Aircraft's official lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from promptvision.data.card import Card
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import Faults, check_label, listed_images
from promptvision.data.readers.layout import data_root, find_folder, read_lines
from promptvision.data.readers.paths import listed_path
from promptvision.errors import InputError, unknown


def read_text_lists(
    card: Card,
    root: str,
    faults: Faults,
    *,
    folders: list[str],
    lists: dict[str, str],
    images: str = "",
    names: list[str] | None = None,
) -> Images:
    """Read `<root>/<one of folders>/<list>`, a list for each split: lines `path label`, with paths below `images`.

    Class names are the card's `names`, or the folders that hold the images (VisDA-17, DomainNet). Sources of the
    layouts: KMnP/vpt issue 27 (VTAB-1k), Dassl `visda17.py`, `domainnet.py`.
    """

    def parse(place: str, line: str) -> Item:
        path, _, label = line.rpartition(" ")
        if not path or not re.fullmatch(r"-?\d{1,18}", label):
            raise InputError(f"{place}: expected a path and a label, found {line!r}")
        check_label(place, int(label), len(names) if names else card.classes)
        return path, int(label), names[int(label)] if names else PurePosixPath(path).parent.name

    return _read(card, find_folder(card, data_root(card, root), folders), lists, images, parse, faults)


def read_aircraft(
    card: Card, root: str, faults: Faults, *, folders: list[str], lists: dict[str, str], images: str, variants: str
) -> Images:
    """Read FGVC-Aircraft's `data` folder: lists with lines `1025794 707-320`, labels in the order of `variants`.

    An image is `<images>/<number>.jpg`. Source: CoOp `fgvc_aircraft.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    names = read_lines(card, folder / variants, "list of class names")
    labels = {name: number for number, name in enumerate(names)}

    def parse(place: str, line: str) -> Item:
        number, _, name = line.partition(" ")
        if name not in labels:
            raise InputError(f"{place}: {unknown('class', name, names)}")
        return f"{number}.jpg", labels[name], name

    return _read(card, folder, lists, images, parse, faults)


def _read(
    card: Card, folder: Path, lists: Mapping[str, str], images: str, parse: Callable[[str, str], Item], faults: Faults
) -> Images:
    """Read lists with one `parse(place, line)` per line; returned paths are relative to the folder of the lists."""
    found: dict[str, list[Item]] = {split: [] for split in lists}
    for split, file in lists.items():
        with faults:
            for number, line in enumerate(read_lines(card, folder / file, f"{split} list"), start=1):
                with faults:
                    place = f"{split} list {folder / file}, entry {number}"
                    path, label, name = parse(place, line)
                    inner = listed_path(path, folder / images, place)
                    found[split].append((f"{images}/{inner}" if images else inner, label, name))
    files = [folder / file for file in dict.fromkeys(lists.values())]
    return listed_images(card, files, folder, found, faults)
