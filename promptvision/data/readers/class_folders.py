"""A folder per class below a folder per part or domain: Office-Home, Office-31, NotMNIST."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import images_in
from promptvision.data.readers.class_names import class_name
from promptvision.data.readers.layout import data_root, find_folder, missing, names_in


def read_class_folders(card: Card, root: str, *, folders: list[str], parts: dict[str, str]) -> Images:
    """`<root>/<one of folders>/<folder of a part>/<class>/*`, files of a class in sorted order.

    Labels follow the sorted class folders of all parts; the card's rule makes names of them. A folder `images`
    between part and classes is entered (the archives of Office-31). Source: Dassl `office_home.py`, `office31.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    places = {part: _entered(find_folder(card, folder, [name])) for part, name in parts.items()}
    classes = sorted({name for place in places.values() for name in _folders(place)})
    names = {raw: name for raw in classes if (name := class_name(card, raw)) is not None}
    if card.classes is not None and len(names) != card.classes:
        where = " and ".join(str(place) for place in places.values())
        raise missing(card, f"{where} should hold {card.classes} class folders, not {len(names)}")
    lists = {part: _items(card, folder, place, names) for part, place in places.items()}
    train, val, test = (lists.get(part, []) for part in ("train", "val", "test"))
    return Images(train, val, test, partial(open_image, str(folder)), str(folder))


def _folders(place: Path) -> list[str]:
    return [name for name in names_in(place) if os.path.isdir(place / name)]


def _entered(place: Path) -> Path:
    return place / "images" if _folders(place) == ["images"] else place


def _items(card: Card, folder: Path, place: Path, names: dict[str, str]) -> list[Item]:
    inner = place.relative_to(folder).as_posix()
    return [
        (f"{inner}/{raw}/{file}", label, name)
        for label, (raw, name) in enumerate(names.items())
        if (place / raw).is_dir()
        for file in images_in(card, place / raw)
    ]
