"""A folder per class below a folder per split or domain: Office-Home, Office-31, NotMNIST."""

from __future__ import annotations

from promptvision.data.card import Card
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults, class_items, image_files
from promptvision.data.readers.class_names import class_name
from promptvision.data.readers.layout import data_root, find_folder, folders_in, missing


def read_class_folders(card: Card, root: str, faults: Faults, *, folders: list[str], parts: dict[str, str]) -> Images:
    """Read `<root>/<one of folders>/<folder of a split>/<class>/*`, with the files of a class in sorted order.

    Labels follow the sorted class folders of all splits, which the card's rule turns into names. A folder `images`
    between split and classes is entered (the archives of Office-31). Source: Dassl `office_home.py`, `office31.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    places = {}
    for split, inner in parts.items():
        place = find_folder(card, folder, [inner])
        places[split] = place / "images" if folders_in(place) == ["images"] else place
    found = sorted({name for place in places.values() for name in folders_in(place)})
    classes = [(raw, name) for raw in found if (name := class_name(card, raw)) is not None]
    if card.classes is not None and len(classes) != card.classes:
        where = " and ".join(map(str, places.values()))
        raise missing(card, f"{where} should hold {card.classes} class folders, not {len(classes)}")
    lists = {split: class_items(card, folder, place, classes, faults) for split, place in places.items()}
    return image_files(folder, lists)
