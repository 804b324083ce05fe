"""What a continual run goes through: the configured stream of tasks, and the lessons made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from promptvision.config import resolved
from promptvision.data.card import Card
from promptvision.data.images import Images
from promptvision.data.splits import subset_hash
from promptvision.data.task_stream import Stream, class_incremental, data_set_incremental, joined, split_classes
from promptvision.errors import InputError
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.feature_cache import FeatureCache
from promptvision.experiment.result import identity
from promptvision.method import Method


@dataclass(frozen=True)
class Lesson:
    """What is trained on before the next evaluation: a task, or all of them at once."""

    number: int
    labels: Sequence[int]
    """Classes that training chooses among; empty for all."""
    images: Images
    known: int
    """Tasks that have been learned after it."""


@dataclass
class Course:
    """A stream on its way through one method."""

    cfg: CfgNode
    card: Card
    stream: Stream
    method: Method
    cache: FeatureCache | None
    progress: bool

    def data(self, images: Images) -> Data:
        """Images as the other parts take them."""
        return Data(self.card, images, self.stream.classes)

    @property
    def lessons(self) -> list[Lesson]:
        """One per task, or one for all."""
        tasks, mask = self.stream.tasks, self.cfg.CONTINUAL.CLASS_MASK
        if self.cfg.CONTINUAL.JOINT:
            return [Lesson(0, (), joined(self.stream), len(tasks))]
        return [Lesson(n, task.labels if mask else (), task.images, n + 1) for n, task in enumerate(tasks)]

    def identity(self) -> dict[str, Any]:
        """What a stream to go on with must agree with."""
        lessons = self.lessons
        own = {"CONTINUAL": resolved(self.cfg)["CONTINUAL"]}
        hashes = [subset_hash(lesson.images.train) for lesson in lessons]
        return {**identity(self.cfg, self.data(lessons[0].images)), **own, "pictures": hashes}


def load_stream(cfg: CfgNode) -> tuple[Card, Stream]:
    """The configured stream, and the card of its (first) data set."""
    wanted = cfg.CONTINUAL
    if wanted.DATASETS:
        found = [load_data(_of(cfg, name)) for name in wanted.DATASETS]
        return found[0].card, data_set_incremental([(data.card.name, data.images) for data in found])
    if not wanted.TASKS:
        raise InputError("there is no stream of tasks: set CONTINUAL.TASKS, or CONTINUAL.DATASETS")
    data = load_data(cfg)
    try:
        parts = class_incremental(data.classes, wanted.TASKS, wanted.SEED, wanted.ORDER)
    except InputError as error:
        raise InputError(f"CONTINUAL: {error}") from error
    return data.card, split_classes(data.images, parts)


def _of(cfg: CfgNode, name: str) -> CfgNode:
    own = cfg.clone()
    own.defrost()
    own.DATASET.NAME = name
    own.freeze()
    return own
