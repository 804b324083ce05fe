"""Lists of images as text: VTAB-1k without TensorFlow, VisDA, DomainNet, and FGVC-Aircraft's official lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import all_there, check_labels, read_lines, refuse_label, refuse_outside
from promptvision.data.readers.layout import data_root, find_folder
from promptvision.errors import InputError, unknown


def read_text_lists(
    card: Card,
    root: str,
    *,
    folders: list[str],
    lists: dict[str, str],
    images: str = "",
    names: list[str] | None = None,
) -> Images:
    """`<root>/<one of folders>/<list>`, a list per part, with lines `path label` and paths below `images`.

    Class names are the card's `names`, or the folders that the images lie in (VisDA-17, DomainNet). Sources of the
    layouts: KMnP/vpt issue 27 (VTAB-1k), Dassl `visda17.py`, `domainnet.py`.
    """

    def item(place: str, line: str) -> Item:
        path, _, label = line.rpartition(" ")
        if not path or not label.removeprefix("-").isdecimal():
            raise InputError(f"{place}: expected a path and a label, found {line!r}")
        refuse_label(place, int(label), len(names) if names else card.classes)
        return path, int(label), names[int(label)] if names else PurePosixPath(path).parent.name

    folder = find_folder(card, data_root(card, root), folders)
    parts = {
        part: [
            _below(images, place, item(place, line)) for place, line in _numbered(card, folder / file, f"{part} list")
        ]
        for part, file in lists.items()
    }
    return _images(card, folder, lists, parts)


def read_aircraft(
    card: Card, root: str, *, folders: list[str], lists: dict[str, str], images: str, variants: str
) -> Images:
    """FGVC-Aircraft's `data` folder: lists with lines `1025794 707-320`, labels by the order of the file `variants`.

    An image is `<images>/<number>.jpg`. Source: CoOp `fgvc_aircraft.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    names = read_lines(card, folder / variants, "list of class names")
    label = {name: number for number, name in enumerate(names)}

    def item(place: str, line: str) -> Item:
        number, _, name = line.partition(" ")
        if name not in label:
            raise InputError(f"{place}: {unknown('class', name, names)}")
        return f"{number}.jpg", label[name], name

    parts = {
        part: [
            _below(images, place, item(place, line)) for place, line in _numbered(card, folder / file, f"{part} list")
        ]
        for part, file in lists.items()
    }
    return _images(card, folder, lists, parts)


def _numbered(card: Card, file: Path, kind: str) -> list[tuple[str, str]]:
    """Lines, each with the place to name if something is wrong with it."""
    return [(f"{kind} {file}, entry {n}", line) for n, line in enumerate(read_lines(card, file, kind), start=1)]


def _below(images: str, place: str, item: Item) -> Item:
    path, label, name = item
    refuse_outside(place, path)
    return (f"{images}/{path}" if images else path), label, name


def _images(card: Card, folder: Path, files: Mapping[str, str], parts: Mapping[str, Sequence[Item]]) -> Images:
    source = " and ".join(str(folder / file) for file in dict.fromkeys(files.values()))
    check_labels(source, [item for items in parts.values() for item in items])
    all_there(card, source, folder, parts)
    train, val, test = (list(parts.get(part, [])) for part in ("train", "val", "test"))
    return Images(train, val, test, partial(open_image, str(folder)), str(folder))
