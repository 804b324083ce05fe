"""Faults that the lists of a dataset reveal without opening an image: pure functions, one sentence per fault.

`lists`: split ("train", "val", "test") -> items.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from promptvision.data.images import Item
from promptvision.errors import counted

Lists = Mapping[str, Sequence[Item]]
K = TypeVar("K")
V = TypeVar("V")

SURE = 0.8
"""Share of a folder's images that must agree on a class before the others count as faults."""
ENOUGH = 5
"""Images that a folder needs for that."""


def wrong_counts(lists: Lists, counts: Mapping[str, int], classes: int | None) -> list[str]:
    """Return numbers of images and classes that differ from the card's, where it has them."""
    wrong = []
    for split, expected in counts.items():
        count = len(lists.get(split, []))
        if count != expected:
            wrong.append(f"{split} has {counted(count, 'image')}, the card says {expected:,}")
    found = {label for items in lists.values() for _, label, _ in items}
    if classes is not None and len(found) != classes:
        wrong.append(f"there are images of {counted(len(found), 'class')}, the card says {classes:,}")
    return wrong


def unusable(lists: Lists) -> list[str]:
    """Return why nothing can be trained and tested on lists: too few classes, or no image in a split."""
    names = {name for items in lists.values() for _, _, name in items}
    found = [f"there is one class only, {name!r}: a classifier needs two or more" for name in names if len(names) == 1]
    return found + [f"{split} has no image" for split in ("train", "test") if names and not lists[split]]


def empty_classes(lists: Lists) -> list[str]:
    """Return classes without an image in a split that has images."""
    names = {label: name for items in lists.values() for _, label, name in items}
    sentences = []
    for split, items in lists.items():
        absent = sorted(set(names) - {label for _, label, _ in items}) if items else []
        sentences += [f"{split} has no image of {names[label]!r}" for label in absent]
    return sentences


def wrong_labels(lists: Lists) -> list[str]:
    """Return labels with another name than most images have, names of two labels, and labels that never occur."""
    items = [(split, *item) for split, own in lists.items() for item in own]
    names = _most((label, name) for _, _, label, name in items)
    wrong = [
        f"{path} ({split}): label {label} is {names[label]!r} elsewhere, here {name!r}"
        for split, path, label, name in items
        if names[label] != name
    ]
    labels = defaultdict(list)
    for label, name in names.items():
        labels[name].append(label)
    first = {label: path for _, path, label, _ in reversed(items)}
    for name, own in labels.items():
        if len(own) > 1:
            twice = " and ".join(f"{label} (such as {first[label]})" for label in sorted(own))
            wrong.append(f"labels {twice} are both {name!r}")
    gaps = sorted(set(range(max(names, default=-1))) - set(names))
    return wrong + [f"label {label} never occurs, though labels go up to {max(names)}" for label in gaps]


def misplaced(lists: Lists) -> list[str]:
    """Return images listed under another class than most of their folder, if folders are classes."""
    folders = defaultdict(list)
    for split, items in lists.items():
        for path, label, name in items:
            folders[str(PurePosixPath(path).parent)].append((split, path, label, name))
    usual = _most((folder, (label, name)) for folder, own in folders.items() for _, _, label, name in own)
    classes = {label for items in lists.values() for _, label, _ in items}
    if 2 * len({label for label, _ in usual.values()}) < len(classes):
        return []
    sentences = []
    for folder, own in folders.items():
        label, name = usual[folder]
        others = [item for item in own if item[2] != label]
        if len(own) >= ENOUGH and len(others) <= (1 - SURE) * len(own):
            sentences += [
                f"{path} ({split}) is listed as {other!r}, the other images of folder {folder!r} as {name!r}"
                for split, path, _, other in others
            ]
    return sentences


def confusable_names(lists: Lists) -> list[str]:
    """Return class names that a prompt cannot tell apart, or that are no words."""
    names = dict.fromkeys(name for items in lists.values() for _, _, name in items)
    spellings = defaultdict(set)
    for name in names:
        spellings[" ".join(name.replace("_", " ").casefold().split())].add(name)
    alike = [" and ".join(map(repr, sorted(same))) for same in spellings.values() if len(same) > 1]
    sentences = [f"class names {same} differ by case, spaces or _ only" for same in alike]
    bare = [name for name in names if not any(letter.isalnum() for letter in name)]
    return sentences + [f"the class name {name!r} has no letter or digit" for name in bare]


def colliding_paths(paths: Sequence[str]) -> list[str]:
    """Return paths that are one file on a file system that ignores case."""
    spellings = defaultdict(list)
    for path in dict.fromkeys(paths):
        spellings[path.casefold()].append(path)
    return [" and ".join(map(repr, same)) for same in spellings.values() if len(same) > 1]


def listed_twice(lists: Lists) -> list[str]:
    """Return paths that occur more than once, within a split or in several."""
    places = defaultdict(list)
    for split, items in lists.items():
        for path, _, _ in items:
            places[path].append(split)
    return [f"{path} is in {' and '.join(splits)}" for path, splits in places.items() if len(splits) > 1]


def copies(lists: Lists, digests: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return copies across splits or classes, and copies within a split and class: paths with the same content."""
    same: dict[str, dict[str, tuple[str, int, str]]] = defaultdict(dict)
    for split, items in lists.items():
        for path, label, name in items:
            if path in digests:
                same[digests[path]].setdefault(path, (split, label, name))
    across: list[str] = []
    within: list[str] = []
    for places in same.values():
        if len(places) > 1:
            same_image = " = ".join(f"{path} ({split}, {name!r})" for path, (split, _, name) in places.items())
            kinds = {(split, label) for split, label, _ in places.values()}
            (across if len(kinds) > 1 else within).append(same_image)
    return across, within


def distinct(lists: Lists) -> tuple[dict[str, Sequence[Item]], list[str]]:
    """Return the splits that have images, without those that a protocol copies from another, such as val from test."""
    kept: dict[str, Sequence[Item]] = {}
    sentences = []
    for split in ("test", "train", "val"):
        items = lists.get(split, [])
        twin = next((other for other, own in kept.items() if {*own} == {*items}), "") if items else ""
        if twin:
            sentences.append(f"{split} has the same images as {twin}")
        elif items:
            kept[split] = items
    return {split: kept[split] for split in lists if split in kept}, sentences


def _most(pairs: Iterable[tuple[K, V]]) -> dict[K, V]:
    """Return each first of the pairs -> the second that it occurs with most often, the earliest of equals."""
    counts: dict[K, Counter[V]] = defaultdict(Counter)
    for first, second in pairs:
        counts[first][second] += 1
    return {first: seconds.most_common(1)[0][0] for first, seconds in counts.items()}
