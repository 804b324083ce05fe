"""The published splits into training, validation and test images. Lists in, lists out, seed explicit.

`random.Random(seed)` gives the stream that the official code gets from `random.seed(seed)`, without touching the
global generator. The same seed and lists give the same picks under every supported Python.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from promptvision.data.images import Item
from promptvision.errors import InputError, counted, unknown

CLASS_SUBSETS: dict[str, Callable[[int], range]] = {
    "all": lambda n: range(n),
    "base": lambda n: range((n + 1) // 2),
    "new": lambda n: range((n + 1) // 2, n),
}
"""Class subset -> its labels among n classes: base is the first ceil(n / 2), new the rest (CoCoOp)."""

FEW_SHOT_ORDERS = ("coop", "clip_lora")
"""Codes whose few-shot picks are reproduced: they pick other images with the same seed."""


def few_shot(
    train: Sequence[Item], val: Sequence[Item], shots: int, seed: int, order: str = "coop", most_val: int = 4
) -> tuple[list[Item], list[Item]]:
    """Return `shots` training and min(shots, most_val) validation images per class, as published benchmarks pick them.

    Classes are in order of first appearance, and both lists are drawn from one random stream. 0 shots keep
    everything. `order` "coop": training images first; a class with fewer gives all of them in order, without
    a draw (Dassl `generate_fewshot_dataset`, as CoOp calls it; equal to the published index files, order
    included). "clip_lora": validation images first; a class with fewer gives repeated images (CLIP-LoRA
    `datasets/*.py`).
    """
    if order not in FEW_SHOT_ORDERS:
        raise unknown("few-shot order", order, FEW_SHOT_ORDERS)
    if shots < 1:
        return list(train), list(val)
    stream, few = random.Random(seed), min(shots, most_val)
    if order == "clip_lora":
        picked = _pick(val, few, stream, repeat=True)
        return _pick(train, shots, stream, repeat=True), picked
    return _pick(train, shots, stream), _pick(val, few, stream)


def _pick(items: Sequence[Item], shots: int, stream: random.Random, repeat: bool = False) -> list[Item]:
    """Draw `shots` items per class; a class with fewer gives all of them, or repeats some."""
    picked: list[Item] = []
    for own in _by_label(items).values():
        if len(own) >= shots:
            picked += stream.sample(own, shots)
        else:
            picked += stream.choices(own, k=shots) if repeat else own
    return picked


def _by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Group items by label; labels are in order of first appearance."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item[1], []).append(item)
    return groups


def short_classes(train: Sequence[Item], shots: int) -> dict[str, int]:
    """Return {class name: number of images} of the classes with fewer than `shots`."""
    groups = _by_label(train).values()
    return {own[0][2]: len(own) for own in groups if len(own) < shots}


def subset_classes(classes: Sequence[str], which: str) -> list[str]:
    """Return the names of the "all", "base" or "new" classes, in label order."""
    return [classes[label] for label in _labels(len(classes), which)]


def class_subset(items: Sequence[Item], which: str, classes: Sequence[str]) -> list[Item]:
    """Return the items of the "all", "base" or "new" classes, in their order, with labels from 0.

    `classes` are all names in label order. Call it after `few_shot`: the published base and new subsets come from
    picks made for all classes. Source: CoOp `OxfordPets.subsample_classes`.
    """
    labels = _labels(len(classes), which)
    if which == "all":
        return list(items)
    new_label = {label: position for position, label in enumerate(labels)}
    return [(path, new_label[label], name) for path, label, name in items if label in new_label]


def _labels(n: int, which: str) -> range:
    """Return the labels of a class subset among n classes."""
    if which not in CLASS_SUBSETS:
        raise unknown("class subset", which, CLASS_SUBSETS)
    labels = CLASS_SUBSETS[which](n)
    if not labels:
        raise InputError(f"the class subset {which!r} of {counted(n, 'class')} is empty")
    return labels


def held_out(
    train: Sequence[Item], picked: Sequence[Item], shots: int, seed: int, most_val: int = 4
) -> tuple[list[Item], list[Item]]:
    """Return training and validation images, both taken from the training images of a dataset.

    The `picked` images train, and min(shots, most_val) per class of the others validate; with 0 shots a fifth of
    every class validates (`split_trainval`).
    """
    if shots < 1:
        return split_trainval(train, seed)
    taken = set(picked)
    return list(picked), few_shot([item for item in train if item not in taken], [], min(shots, most_val), seed)[0]


def cross_validation(items: Sequence[Item], folds: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Return the training and the validation images of one fold: part (seed - 1) mod `folds` validates.

    Seeds 1 to `folds` share one division into parts, the next ones another. Every class is shuffled and dealt out to
    the parts, so some of its images always train. The only image of a class is never held out.
    """
    division, part = divmod(seed - 1, folds)
    stream, dealt = random.Random(f"folds/{division}"), 0
    train: list[Item] = []
    val: list[Item] = []
    for own in _by_label(items).values():
        stream.shuffle(own)
        for item in own if len(own) > 1 else ():
            (val if dealt % folds == part else train).append(item)
            dealt += 1
        train += own if len(own) == 1 else []
    return train, val


def split_trainval(trainval: Sequence[Item], seed: int, p_val: float = 0.2) -> tuple[list[Item], list[Item]]:
    """Return a training and a validation split; the latter has round(p_val * n) shuffled images of every class.

    Python rounds 2.5 to 2. Source: CoOp `OxfordPets.split_trainval`.
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
    """Return training, validation and test splits of {folder name: paths}, by default 50/20/30 of every class.

    Labels follow the sorted names of the folders that are not ignored; every class is shuffled. Source: CoOp
    `DescribableTextures.read_and_split_data`, which fails for a class that is too small for three splits. Here each
    split gets one image; of two images one is for training and one for the test; a single one is for training.
    """
    stream = random.Random(seed)
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for label, folder in enumerate(sorted(set(listing) - set(ignored))):
        name = (renames or {}).get(folder, folder)
        own = list(listing[folder])
        stream.shuffle(own)
        n_train, n_val = round(len(own) * p_train), round(len(own) * p_val)
        if not (n_train > 0 and n_val > 0 and n_train + n_val < len(own)):
            n_train, n_val = (len(own) - 2, 1) if len(own) > 2 else (1, 0)
        cuts = own[:n_train], own[n_train : n_train + n_val], own[n_train + n_val :]
        for part, paths in zip(parts, cuts, strict=True):
            part += [(path, label, name) for path in paths]
    return parts


def subset_hash(items: Iterable[Item]) -> str:
    """Return the SHA-256 of a list in its order: one `path<TAB>label` per item, joined by newlines."""
    lines = "\n".join(f"{path}\t{label}" for path, label, _ in items)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
