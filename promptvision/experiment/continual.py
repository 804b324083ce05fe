"""Continual learning: one method learns task after task, keeps no images, and is tested on all tasks after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from yacs.config import CfgNode

from promptvision.atomic import read_json, refuse_damaged, write_json
from promptvision.config import dump, resolved
from promptvision.data.images import Images
from promptvision.data.splits import subset_hash
from promptvision.data.task_stream import Stream, class_incremental, dataset_incremental, joined, split_classes
from promptvision.engine.checkpoint import load_checkpoint, load_learned, save_checkpoint
from promptvision.engine.device import autocast
from promptvision.engine.distributed import part
from promptvision.engine.evaluate import predict
from promptvision.engine.resume import check_identity
from promptvision.engine.run_folder import LOG, RunFolder
from promptvision.errors import InputError, counted
from promptvision.experiment.build import Families
from promptvision.experiment.continual_metrics import accuracy, measures, overall
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.experiment import Experiment, build
from promptvision.experiment.result import describe, environment, identity
from promptvision.method import Method


@dataclass(frozen=True)
class Lesson:
    """The images that are trained on before the next evaluation: those of a task, or of all tasks at once."""

    number: int
    labels: Sequence[int]
    """Classes that training chooses among; empty for all."""
    images: Images
    known: int
    """Number of tasks learned after it."""


def run_stream(cfg: CfgNode, families: Families, folder: RunFolder, *, progress: bool = True) -> dict[str, Any]:
    """Learn the stream task by task and test after each; return the contents of result.json.

    Every task has a run folder of its own in `folder`, `task_1` and so on: a folder opened to resume continues within
    the task that was interrupted, and a finished task is not learned again.
    """
    if part()[1] > 1:
        raise InputError("a stream of tasks (CONTINUAL) is learned by one process; start it without torchrun")
    data, stream = load_stream(cfg)
    experiment = build(cfg, families, folder, progress, data)
    method = experiment.method
    if not (method.fits_tasks or any(parameter.requires_grad for parameter in method.parameters())):
        raise InputError(f"METHOD.NAME {cfg.METHOD.NAME} learns nothing step by step, so it cannot learn a stream")
    lessons = lessons_of(cfg, stream)
    for task in stream.tasks:
        experiment.on(task.images).check_test_images(decode=not (folder.resume and folder.config.exists()))
    _start(experiment, lessons)
    learned = [_learn(experiment, stream, lesson, len(lessons)) for lesson in lessons]
    experiment.save()
    scores = _scores(experiment, stream, [each["accuracies"] for each in learned])
    result = {**scores, **_choices(experiment, stream), **_facts(experiment, stream, learned), **environment(method)}
    folder.write_result(result)
    return result


def load_stream(cfg: CfgNode) -> tuple[Data, Stream]:
    """Return the configured stream, and the data of all tasks together, with the card of the (first) dataset."""
    wanted, own, read = cfg.CONTINUAL, cfg.clone(), list[Data]()
    own.defrost()
    for name in wanted.DATASETS or [cfg.DATASET.NAME]:
        own.DATASET.NAME = name
        read.append(load_data(own))
    if wanted.DATASETS:
        stream = dataset_incremental([(data.card.name, data.images) for data in read])
    else:
        try:
            parts = class_incremental(read[0].classes, wanted.TASKS, wanted.SEED, wanted.ORDER)
        except InputError as error:
            raise InputError(f"CONTINUAL: {error}") from error
        stream = split_classes(read[0].images, parts)
    left_out = [sentence for data in read for sentence in data.left_out]
    found = {split: sum(data.found[split] for data in read) for split in read[0].found}
    return Data(read[0].card, joined(stream), stream.classes, left_out, found), stream


def lessons_of(cfg: CfgNode, stream: Stream) -> list[Lesson]:
    """Return one lesson per task, or one for all tasks with CONTINUAL.JOINT."""
    tasks, mask = stream.tasks, cfg.CONTINUAL.CLASS_MASK
    if cfg.CONTINUAL.JOINT:
        return [Lesson(0, (), joined(stream), len(tasks))]
    return [Lesson(n, task.labels if mask else (), task.images, n + 1) for n, task in enumerate(tasks)]


def _start(experiment: Experiment, lessons: Sequence[Lesson]) -> None:
    """Replace an earlier stream in the folder; when resuming, check that it is the same stream."""
    cfg, folder = experiment.cfg, experiment.folder
    path = folder.path / "stream.json"
    ours = {
        **identity(cfg, experiment.on(lessons[0].images).data),
        "CONTINUAL": resolved(cfg)["CONTINUAL"],
        "pictures": [subset_hash(lesson.images.train) for lesson in lessons],
    }
    if folder.resume and path.exists():
        try:
            check_identity(read_json(path), ours)
        except InputError as error:
            raise InputError(f"{path} does not fit this stream: {error}") from error
        return
    folder.write_config(dump(cfg))
    write_json(path, ours)


def _learn(experiment: Experiment, stream: Stream, lesson: Lesson, count: int) -> dict[str, Any]:
    """Train on one of `count` lessons, or load what an earlier run learned of it, then test on all known tasks."""
    method, folder, last = experiment.method, experiment.folder, lesson.number + 1 == count
    method.start_task(lesson.number, count, lesson.labels)
    with RunFolder(folder.path / f"task_{lesson.number + 1}", resume=folder.resume) as own:
        if folder.resume and own.result.exists():
            LOG.info("Task %d is already learned", lesson.number + 1)
            return _recall(method, own, lesson, last)
        images = counted(len(lesson.images.train), "training image")
        LOG.info("Task %d of %d: %s", lesson.number + 1, count, images)
        task = replace(experiment.on(lesson.images), folder=own)
        if lesson.number == 0:
            task.prepare()
        trained = task.train()
        task.finish()
        result = {**_test(experiment, stream, lesson.known), **trained}
        if not last and (state := method.training_state()):
            save_checkpoint(own.carried, {"training": state})
        own.write_result(result)
        (folder.path / f"task_{lesson.number}" / own.carried.name).unlink(missing_ok=True)
        return result


def _recall(method: Method, own: RunFolder, lesson: Lesson, last: bool) -> dict[str, Any]:
    """Load what an earlier run learned of a task, and what it carried to the next one; return the task's result."""
    method.load_learned_state(load_learned(own.learned)[0])
    following = own.path.parent / f"task_{lesson.number + 2}" / own.result.name
    if method.training_state() and not (last or following.exists()):
        method.load_training_state(load_checkpoint(own.carried)["training"])
    found = read_json(own.result)
    with refuse_damaged(f"{own.result} is no result of this task", f"delete {own.path} to learn it again"):
        numbers = [*found["accuracies"], found["seconds"], found["steps"]]
        if len(numbers) != lesson.known + 2 or not all(type(each) in (int, float) and each >= 0 for each in numbers):
            raise ValueError
    return found


def _test(experiment: Experiment, stream: Stream, known: int) -> dict[str, list[Any]]:
    """Return the accuracy in per cent and the number of images of each of the first `known` tasks."""
    cfg, accuracies, counts = experiment.cfg, [], []
    for number, task in enumerate(stream.tasks[:known]):
        loader = experiment.on(task.images).test_loader(cfg.TEST.SPLIT)
        title = f"testing on {task.name}" if experiment.progress else ""
        logits, labels = predict(experiment.method, loader, experiment.device, cfg.TRAIN.PRECISION, progress=title)
        accuracies.append(accuracy(logits, labels, competing(stream, cfg.CONTINUAL.COMPETE, number, known)))
        counts.append(len(labels))
    return {"accuracies": accuracies, "pictures": counts}


def competing(stream: Stream, which: str, task: int, known: int) -> list[int]:
    """Return the labels among which a test image of `task` is classified.

    `which`: those of the first `known` tasks ("seen"), of its own task ("task"), or "all".
    """
    if which == "all":
        return list(range(len(stream.classes)))
    own = [stream.tasks[task]] if which == "task" else stream.tasks[:known]
    return [label for each in own for label in each.labels]


def _scores(experiment: Experiment, stream: Stream, rows: list[list[float]]) -> dict[str, Any]:
    """Return the accuracy matrix and its measures; a joint run has one row, so nothing can be forgotten."""
    cfg, last = experiment.cfg, rows[-1]
    counts = [len(getattr(task.images, cfg.TEST.SPLIT)) for task in stream.tasks]
    scores: dict[str, Any] = {"accuracy": overall(last, counts), "average_accuracy": sum(last) / len(last)}
    scores |= {"n": sum(counts), "matrix": rows}
    return scores if cfg.CONTINUAL.JOINT else {**scores, **measures(rows, counts)}


@torch.no_grad()
def _choices(experiment: Experiment, stream: Stream) -> dict[str, Any]:
    """Return which prompts of a pool are chosen: how often the test images of each task choose each prompt, and the
    average accuracy when each image chooses alone and when a test batch, all of one task, chooses together."""
    method: Any = experiment.method.eval()
    device, found = experiment.device, dict[str, Any]()
    if hasattr(method, "choices"):
        found["prompt_choices"] = []
        for task in stream.tasks:
            loader = experiment.on(task.images).test_loader(experiment.cfg.TEST.SPLIT)
            with autocast(device, experiment.cfg.TRAIN.PRECISION):
                chosen = torch.cat([method.choices(images.to(device)).flatten().cpu() for images, _ in loader])
            found["prompt_choices"].append(torch.bincount(chosen, minlength=method.size).tolist())
    if hasattr(method, "batchwise_test"):
        configured, averages = method.batchwise_test, {}
        for name, together in (("picture", False), ("batch", True)):
            method.batchwise_test = together
            row = _test(experiment, stream, len(stream.tasks))["accuracies"]
            averages[name] = sum(row) / len(row)
        method.batchwise_test = configured
        found["average_accuracy_by_choice"] = averages
    return found


def _facts(experiment: Experiment, stream: Stream, learned: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what makes the stream repeatable, and how long it took."""
    cfg, data = experiment.cfg, experiment.data
    tasks = [
        {"name": task.name, "labels": task.labels, "classes": [stream.classes[label] for label in task.labels]}
        for task in stream.tasks
    ]
    diverged = [f"Task {number}: {each['diverged']}" for number, each in enumerate(learned, 1) if "diverged" in each]
    return {
        "split": cfg.TEST.SPLIT,
        **describe(cfg, data, experiment.method),
        "dataset": list(cfg.CONTINUAL.DATASETS) or data.card.name,
        "continual": resolved(cfg)["CONTINUAL"],
        "tasks": tasks,
        "seconds_per_task": [each["seconds"] for each in learned],
        "seconds": round(sum(each["seconds"] for each in learned), 3),
        "steps": sum(each["steps"] for each in learned),
        **({"diverged": " ".join(diverged)} if diverged else {}),
    }
