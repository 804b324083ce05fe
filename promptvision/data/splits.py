"""The published splits: which images train, validate and test. Lists in, lists out, seed explicit.

`random.Random(seed)` gives the stream that the official code gets from `random.seed(seed)`, and leaves the
global generator alone. The same seed and lists give the same picks under every supported Python.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from promptvision.data.images import Item
from promptvision.errors import InputError, unknown

CLASS_SUBSETS: dict[str, Callable[[int], range]] = {
    "all": lambda n: range(n),
    "base": lambda n: range((n + 1) // 2),
    "new": lambda n: range((n + 1) // 2, n),
}
"""Labels of each class subset among n classes: base is the first ceil(n / 2) labels, new the rest (CoCoOp)."""

FEW_SHOT_ORDERS = ("coop", "clip_lora")
"""Whose few-shot picks: the same seed gives other images."""


def few_shot(
    train: Sequence[Item], val: Sequence[Item], shots: int, seed: int, order: str = "coop"
) -> tuple[list[Item], list[Item]]:
    """`shots` training and min(shots, 4) validation images per class, as a published benchmark picked them.

    Classes come in order of first appearance, and both lists are drawn from one random stream. Below one shot
    everything is kept. `order` "coop": training images first; a class with fewer gives all of them, in their order,
    without drawing (Dassl `generate_fewshot_dataset`, as CoOp calls it; equal to the published index files, order
    included). "clip_lora": validation images first; a class with fewer gives repeated images (CLIP-LoRA
    `datasets/*.py`).
    """
    if order not in FEW_SHOT_ORDERS:
        raise unknown("few-shot order", order, FEW_SHOT_ORDERS)
    if shots < 1:
        return list(train), list(val)
    stream, few = random.Random(seed), min(shots, 4)
    if order == "clip_lora":
        picked = _pick(val, few, stream, repeat=True)
        return _pick(train, shots, stream, repeat=True), picked
    return _pick(train, shots, stream), _pick(val, few, stream)


def _pick(items: Sequence[Item], shots: int, stream: random.Random, repeat: bool = False) -> list[Item]:
    picked: list[Item] = []
    for own in _by_label(items).values():
        if len(own) >= shots:
            picked += stream.sample(own, shots)
        else:
            picked += stream.choices(own, k=shots) if repeat else own
    return picked


def _by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items of each label, labels in order of first appearance."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item[1], []).append(item)
    return groups


def short_classes(train: Sequence[Item], shots: int) -> dict[str, int]:
    """Class name -> number of images, for the classes that have fewer than `shots`."""
    groups = _by_label(train).values()
    return {own[0][2]: len(own) for own in groups if len(own) < shots}


def subset_classes(classes: Sequence[str], which: str) -> list[str]:
    """Names of the "all", "base" or "new" classes, in label order."""
    return [classes[label] for label in _labels(len(classes), which)]


def class_subset(items: Sequence[Item], which: str, classes: Sequence[str]) -> list[Item]:
    """The items of the "all", "base" or "new" half of `classes`, in their order, relabelled from 0.

    `classes` are all names in label order. To be applied after `few_shot`: the published base and new subsets
    come from picks made for all classes. Source: CoOp `OxfordPets.subsample_classes`.
    """
    new_label = {label: position for position, label in enumerate(_labels(len(classes), which))}
    return [(path, new_label[label], name) for path, label, name in items if label in new_label]


def _labels(n: int, which: str) -> range:
    if which not in CLASS_SUBSETS:
        raise unknown("class subset", which, CLASS_SUBSETS)
    labels = CLASS_SUBSETS[which](n)
    if not labels:
        raise InputError(f"the class subset {which!r} of {n} classes is empty")
    return labels


def held_out(train: Sequence[Item], picked: Sequence[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Train and validation parts where a data set has no validation images of its own, or these are not wanted.

    The `picked` training images stay as they are, and min(shots, 4) per class of the others validate; without shots
    a fifth of every class validates (`split_trainval`).
    """
    if shots < 1:
        return split_trainval(train, seed)
    taken = set(picked)
    return list(picked), few_shot([item for item in train if item not in taken], [], min(shots, 4), seed)[0]


def split_trainval(trainval: Sequence[Item], seed: int, p_val: float = 0.2) -> tuple[list[Item], list[Item]]:
    """Train and validation parts: of every class, the first round(p_val * n) of the shuffled images.

    Rounding is Python's (2.5 -> 2). Source: CoOp `OxfordPets.split_trainval`.
    """
    stream = random.Random(seed)
    train: list[Item] = []
    val: list[Item] = []
    for own in _by_label(trainval).values():
        n_val = round(len(own) * p_val)
        stream.shuffle(own)
        val += own[:n_val]
        train += own[n_val:]
    return train, val


def read_and_split(
    listing: Mapping[str, Sequence[str]],
    seed: int,
    p_train: float = 0.5,
    p_val: float = 0.2,
    ignored: Collection[str] = (),
    renames: Mapping[str, str] | None = None,
) -> tuple[list[Item], list[Item], list[Item]]:
    """Train, validation and test parts of `listing`, folder name -> paths: by default 50/20/30 of every class.

    Ignored folders go before labels are given, labels follow the sorted folder names, classes are shuffled.
    Source: CoOp `DescribableTextures.read_and_split_data`; that stops where a class is too small for three
    parts, for which see `_sizes`.
    """
    stream = random.Random(seed)
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for label, folder in enumerate(sorted(set(listing) - set(ignored))):
        name = (renames or {}).get(folder, folder)
        own = list(listing[folder])
        stream.shuffle(own)
        n_train, n_val = _sizes(len(own), p_train, p_val)
        cuts = own[:n_train], own[n_train : n_train + n_val], own[n_train + n_val :]
        for part, paths in zip(parts, cuts, strict=True):
            part += [(path, label, name) for path in paths]
    return parts


def _sizes(n: int, p_train: float, p_val: float) -> tuple[int, int]:
    """How many of n images train and validate; where rounding leaves a part empty, each part gets one.

    Two images train and test, a single one trains.
    """
    n_train, n_val = round(n * p_train), round(n * p_val)
    if n_train > 0 and n_val > 0 and n_train + n_val < n:
        return n_train, n_val
    return (n - 2, 1) if n > 2 else (1, 0)


def subset_hash(items: Iterable[Item]) -> str:
    """sha256 of the picked list in its order, one `path<TAB>label` per item, joined by newlines."""
    lines = "\n".join(f"{path}\t{label}" for path, label, _ in items)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
