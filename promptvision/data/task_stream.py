"""Streams of tasks for continual learning: the classes of each task and their images. Lists in, lists out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from promptvision.data.images import Images
from promptvision.errors import InputError, counted

NATURAL = -1
"""Seed that means the order of the labels."""


@dataclass(frozen=True)
class Task:
    """One task of a stream; its images carry the labels that they have in the whole stream."""

    name: str
    labels: list[int]
    images: Images


@dataclass(frozen=True)
class Stream:
    """Tasks in their order, and the names of all classes in label order."""

    classes: list[str]
    tasks: list[Task]

    def __post_init__(self) -> None:
        check_disjoint([[self.classes[label] for label in task.labels] for task in self.tasks])


def class_incremental(
    classes: Sequence[str], tasks: int, seed: int = NATURAL, order: Sequence[int] = ()
) -> list[list[int]]:
    """Return the labels of each task: classes in `order`, else shuffled by `seed`, else in label order.

    Tasks are as even as possible: if the classes do not divide, the first tasks have one more. The shuffled order is
    that of LAMDA-PILOT, `numpy.random.seed(seed); numpy.random.permutation(len(classes))`; L2P uses label order.
    """
    if not 1 <= tasks <= len(classes):
        raise InputError(
            f"{counted(len(classes), 'class')} cannot be split into {counted(tasks, 'task')}; take 1 to {len(classes)}"
        )
    natural = range(len(classes))
    ordered = list(order) or list(natural if seed == NATURAL else np.random.RandomState(seed).permutation(len(classes)))
    parts = [[int(label) for label in part] for part in np.array_split(ordered, tasks)]
    unknown = sorted(set(ordered) - set(natural))
    if unknown:
        raise InputError(f"the order of classes holds label {unknown[0]}; there are labels 0 to {len(classes) - 1}")
    check_disjoint([[classes[label] for label in part] for part in parts])
    missing = sorted(set(natural) - set(ordered))
    if missing:
        raise InputError(f"the order of classes leaves out {classes[missing[0]]!r} (label {missing[0]})")
    return parts


def check_disjoint(tasks: Sequence[Sequence[str]]) -> None:
    """Raise InputError for a class name that is in two tasks, or twice in one."""
    seen: dict[str, int] = {}
    for task, classes in enumerate(tasks, start=1):
        for name in classes:
            if name in seen:
                where = f"twice in task {task}" if seen[name] == task else f"in task {seen[name]} and in task {task}"
                raise InputError(f"class {name!r} is {where}; a class belongs to one task")
            seen[name] = task


def split_classes(images: Images, parts: Sequence[Sequence[int]]) -> Stream:
    """Return one dataset as a stream whose tasks have the images of these labels."""
    tasks = []
    for number, labels in enumerate(parts, start=1):
        tasks.append(Task(f"task {number}", list(labels), _relabelled(images, {label: label for label in labels})))
    return Stream(images.classes, tasks)


def dataset_incremental(datasets: Sequence[tuple[str, Images]]) -> Stream:
    """Return a stream with one dataset per task; labels are numbered through, class names follow their dataset's."""
    classes: list[str] = []
    tasks = []
    for name, images in datasets:
        labels = sorted({label for _, label, _ in (*images.train, *images.val, *images.test)})
        shifted = {label: len(classes) + position for position, label in enumerate(labels)}
        classes += [f"{name}: {each}" for each in images.classes]
        tasks.append(Task(name, list(shifted.values()), _relabelled(images, shifted, f"{name}: ")))
    return Stream(classes, tasks)


def _relabelled(images: Images, labels: Mapping[int, int], prefix: str = "") -> Images:
    """Return the items with these labels, with their new labels and names."""
    train, val, test = (
        [(path, labels[label], prefix + name) for path, label, name in items if label in labels]
        for items in (images.train, images.val, images.test)
    )
    return replace(images, train=train, val=val, test=test)


def joined(stream: Stream) -> Images:
    """Return the images of all tasks together, task by task; "2:path" is `path` of the third."""
    parts = [task.images for task in stream.tasks]
    train, val, test = (
        [
            (f"{number}:{path}", label, name)
            for number, part in enumerate(parts)
            for path, label, name in getattr(part, split)
        ]
        for split in ("train", "val", "test")
    )
    return Images(train, val, test, open=_Numbered(parts))


@dataclass(frozen=True, eq=False)
class _Numbered:
    parts: Sequence[Images]

    def __call__(self, path: str) -> Image.Image:
        number, _, own = path.partition(":")
        return self.parts[int(number)].open(own)
