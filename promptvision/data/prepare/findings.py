"""What lists of images can tell about their own mistakes: pure functions, each gives one sentence per mistake.

`lists`: part name ("train", "val", "test") -> items.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from promptvision.data.images import Item

Lists = Mapping[str, Sequence[Item]]
K = TypeVar("K")
V = TypeVar("V")

SURE = 0.8
"""Share of a folder's images that must agree on a class before the others count as mistakes."""
ENOUGH = 5
"""Images that a folder must have for that."""


def wrong_counts(lists: Lists, counts: Mapping[str, int], classes: int | None) -> list[str]:
    """Numbers of images and classes that are not those of the card, where it knows them."""
    wrong = [
        f"{part} has {len(lists.get(part, [])):,} images, the card says {expected:,}"
        for part, expected in counts.items()
        if len(lists.get(part, [])) != expected
    ]
    found = {label for items in lists.values() for _, label, _ in items}
    if classes is not None and len(found) != classes:
        wrong.append(f"there are images of {len(found):,} classes, the card says {classes:,}")
    return wrong


def empty_classes(lists: Lists) -> list[str]:
    """Classes that a part has no image of though it has images."""
    names = {label: name for items in lists.values() for _, label, name in items}
    absent = {part: sorted(set(names) - {label for _, label, _ in items}) for part, items in lists.items() if items}
    return [f"{part} has no image of {names[label]!r}" for part, labels in absent.items() for label in labels]


def wrong_labels(lists: Lists) -> list[str]:
    """Labels with another name than most images give them, names of two labels, and labels that never occur."""
    items = [(part, *item) for part, own in lists.items() for item in own]
    names = _most((label, name) for _, _, label, name in items)
    wrong = [
        f"{path} ({part}): label {label} is {names[label]!r} elsewhere, here {name!r}"
        for part, path, label, name in items
        if names[label] != name
    ]
    labels = defaultdict(list)
    for label, name in names.items():
        labels[name].append(label)
    first = {label: path for _, path, label, _ in reversed(items)}
    for name, own in labels.items():
        if len(own) > 1:
            told = " and ".join(f"{label} (such as {first[label]})" for label in sorted(own))
            wrong.append(f"labels {told} are both {name!r}")
    gaps = sorted(set(range(max(names, default=-1))) - set(names))
    return wrong + [f"label {label} never occurs, though labels go up to {max(names)}" for label in gaps]


def misplaced(lists: Lists) -> list[str]:
    """Images listed under another class than nearly all others of their folder, where folders are classes."""
    folders = defaultdict(list)
    for part, items in lists.items():
        for path, label, name in items:
            folders[str(PurePosixPath(path).parent)].append((part, path, label, name))
    usual = _most((folder, (label, name)) for folder, own in folders.items() for _, _, label, name in own)
    classes = {label for items in lists.values() for _, label, _ in items}
    if 2 * len({label for label, _ in usual.values()}) < len(classes):
        return []
    told = []
    for folder, own in folders.items():
        label, name = usual[folder]
        others = [item for item in own if item[2] != label]
        if len(own) >= ENOUGH and len(others) <= (1 - SURE) * len(own):
            told += [
                f"{path} ({part}) is listed as {other!r}, the other images of folder {folder!r} as {name!r}"
                for part, path, _, other in others
            ]
    return told


def confusable_names(lists: Lists) -> list[str]:
    """Class names that a prompt cannot tell apart, or that are no words."""
    labels = defaultdict(set)
    for items in lists.values():
        for _, label, name in items:
            labels[name].add(label)
    spellings = defaultdict(set)
    for name in labels:
        spellings[" ".join(name.replace("_", " ").casefold().split())].add(name)
    alike = [f"class names {' and '.join(map(repr, sorted(same)))} differ by case, spaces or _ only"
             for same in spellings.values() if len(same) > 1]  # fmt: skip
    return alike + [f"the class name {name!r} has no letter or digit" for name in labels if not _word(name)]


def colliding_paths(paths: Sequence[str]) -> list[str]:
    """Paths that are one file where file names ignore case."""
    spellings = defaultdict(list)
    for path in dict.fromkeys(paths):
        spellings[path.casefold()].append(path)
    return [" and ".join(map(repr, same)) for same in spellings.values() if len(same) > 1]


def listed_twice(lists: Lists) -> list[str]:
    """Paths that occur more than once, within a part or in several."""
    places = defaultdict(list)
    for part, items in lists.items():
        for path, _, _ in items:
            places[path].append(part)
    return [f"{path} is in {' and '.join(parts)}" for path, parts in places.items() if len(parts) > 1]


def copies(lists: Lists, digests: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(copies across parts or classes, copies within a part and class): other paths with the same content."""
    same: dict[str, dict[str, tuple[str, int, str]]] = defaultdict(dict)
    for part, items in lists.items():
        for path, label, name in items:
            if path in digests:
                same[digests[path]].setdefault(path, (part, label, name))
    across: list[str] = []
    within: list[str] = []
    for places in same.values():
        if len(places) > 1:
            told = " = ".join(f"{path} ({part}, {name!r})" for path, (part, _, name) in places.items())
            kinds = {(part, label) for part, label, _ in places.values()}
            (across if len(kinds) > 1 else within).append(told)
    return across, within


def distinct(lists: Lists) -> tuple[dict[str, Sequence[Item]], list[str]]:
    """The parts that have images, without those that a protocol makes of another part, such as val of test."""
    kept: dict[str, Sequence[Item]] = {}
    told = []
    for part in ("test", "train", "val"):
        items = lists.get(part, [])
        twin = next((other for other, own in kept.items() if {*own} == {*items}), "") if items else ""
        if twin:
            told.append(f"{part} holds the very images of {twin}")
        elif items:
            kept[part] = items
    return {part: kept[part] for part in lists if part in kept}, told


def _most(pairs: Iterable[tuple[K, V]]) -> dict[K, V]:
    """Each first of the pairs -> the second that it most often comes with, the earliest of equals."""
    counts: dict[K, Counter[V]] = defaultdict(Counter)
    for first, second in pairs:
        counts[first][second] += 1
    return {first: seconds.most_common(1)[0][0] for first, seconds in counts.items()}


def _word(name: str) -> bool:
    return any(letter.isalnum() for letter in name)
