"""Continual learning: one task after the other, one method, no images kept; what it knows after each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.atomic import read_json, write_json
from promptvision.config import dump, resolved
from promptvision.data.images import Images
from promptvision.data.task_stream import Stream, joined
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.device import choose_device
from promptvision.engine.evaluate import predict
from promptvision.engine.resume import check_identity
from promptvision.engine.run_folder import LOG, RunFolder
from promptvision.errors import InputError
from promptvision.experiment import continual_metrics as forgetting
from promptvision.experiment.build import Families, load_method
from promptvision.experiment.course import Course, Lesson, load_stream
from promptvision.experiment.loaders import feature_cache, test_loader
from promptvision.experiment.result import describe, environment, learned_metadata
from promptvision.experiment.run import begin, finish, prepare, train


def run_stream(cfg: CfgNode, families: Families, folder: RunFolder, *, progress: bool = True) -> dict[str, Any]:
    """Learn the stream task by task and test after each; gives the contents of result.json.

    Every task has a run folder of its own below, `task_1` and so on: a folder opened to resume goes on within the
    task that was interrupted, and a finished one is not learned again.
    """
    card, stream = load_stream(cfg)
    method = load_method(cfg, families, stream.classes)
    if not any(parameter.requires_grad for parameter in method.parameters()):
        raise InputError(
            f"METHOD.NAME {cfg.METHOD.NAME} learns nothing step by step, so no stream can be put through it"
        )
    course = Course(cfg, card, stream, method, feature_cache(cfg, method, progress=progress), progress)
    _begin(course, folder)
    learned = [_learn(course, lesson, families, folder) for lesson in course.lessons]
    rows = [each["accuracies"] for each in learned]
    _save(course, folder)
    result = {**_scores(course, rows), **_choices(course), **_facts(course, learned), **environment(method)}
    folder.write_result(result)
    return result


def _begin(course: Course, folder: RunFolder) -> None:
    """A new stream takes the place of an old one; one that goes on must be the same."""
    path, ours = folder.path / "stream.json", course.identity()
    if folder.resume and path.exists():
        try:
            check_identity(read_json(path), ours)
        except InputError as error:
            raise InputError(f"{path} does not fit this stream: {error}") from error
        return
    for old in folder.path.glob("task_*"):
        if (old / "config.yaml").exists() and old.name.removeprefix("task_").isdigit():
            shutil.rmtree(old)
    folder.write_config(dump(course.cfg))
    write_json(path, ours)


def _learn(course: Course, lesson: Lesson, families: Families, folder: RunFolder) -> dict[str, Any]:
    """Train on one lesson, or take what an earlier run left of it, then test on all tasks known."""
    cfg, method, data = course.cfg, course.method, course.data(lesson.images)
    count = len(course.lessons)
    method.start_task(lesson.number, count, lesson.labels)
    with RunFolder(folder.path / f"task_{lesson.number + 1}", resume=folder.resume) as own:
        if folder.resume and own.result.exists():
            LOG.info("task %d is learned already", lesson.number + 1)
            method.load_learned_state(load_learned(own.learned)[0])
            return read_json(own.result)
        LOG.info("task %d of %d: %d training images", lesson.number + 1, count, len(lesson.images.train))
        begin(cfg, own)
        if lesson.number == 0:
            prepare(cfg, families[cfg.METHOD.FAMILY], data, method, course.cache)
        trained = train(cfg, data, method, own, course.cache, course.progress)
        finish(cfg, data, method, course.cache)
        _save(course, own)
        result = {**_test(course, lesson.known), **trained}
        own.write_result(result)
        return result


def _save(course: Course, folder: RunFolder) -> None:
    """The learned tensors, and how far the stream has come."""
    method = course.method
    metadata = {**learned_metadata(course.cfg, course.card, method), "task": method.task, "tasks": method.tasks}
    save_learned(folder.learned, method.learned_state(), metadata)


def _test(course: Course, known: int) -> dict[str, list[Any]]:
    """Accuracy in per cent and number of images of each of the first `known` tasks."""
    accuracies, counts = [], []
    for number, task in enumerate(course.stream.tasks[:known]):
        cfg, data = course.cfg, course.data(task.images)
        loader = test_loader(cfg, data, course.method, cfg.TEST.SPLIT, course.cache)
        bar = f"testing on {task.name}" if course.progress else ""
        device = choose_device(cfg.TRAIN.DEVICE)
        logits, labels = predict(course.method, loader, device, cfg.TRAIN.PRECISION, progress=bar)
        accuracies.append(accuracy(logits, labels, competing(course.stream, cfg.CONTINUAL.COMPETE, number, known)))
        counts.append(len(labels))
    return {"accuracies": accuracies, "pictures": counts}


def competing(stream: Stream, which: str, task: int, known: int) -> list[int]:
    """The labels that a test image of `task` is told from: "seen" in `known` tasks, of its "task", or "all"."""
    if which == "all":
        return list(range(len(stream.classes)))
    own = [stream.tasks[task]] if which == "task" else stream.tasks[:known]
    return [label for each in own for label in each.labels]


def accuracy(logits: Tensor, labels: Tensor, allowed: Sequence[int]) -> float:
    """Per cent of the rows of logits (N, C) whose highest of the allowed classes is that of labels (N,)."""
    if not logits.isfinite().all():
        raise InputError("the method gives NaN or infinite logits; try a smaller OPTIM.LR")
    best = torch.tensor(list(allowed))[logits[:, list(allowed)].argmax(dim=1)]
    return 100 * (best == labels).double().mean().item()


def _scores(course: Course, rows: list[list[float]]) -> dict[str, Any]:
    """The matrix and what it says; a joint run has one row, and nothing to forget."""
    last = rows[-1]
    counts = [len(getattr(task.images, course.cfg.TEST.SPLIT)) for task in course.stream.tasks]
    overall = sum(a * n for a, n in zip(last, counts, strict=True)) / sum(counts)
    scores = {"accuracy": overall, "average_accuracy": sum(last) / len(last), "n": sum(counts), "matrix": rows}
    if course.cfg.CONTINUAL.JOINT:
        return scores
    measures = ("incremental_accuracy", "learning_accuracy", "forgetting", "forgetting_official", "backward_transfer")
    return {**scores, **{name: getattr(forgetting, name)(rows) for name in measures}}


def _choices(course: Course) -> dict[str, Any]:
    """Of a method with a pool: how often the test images of each task take each prompt, and the average accuracy
    when images choose alone and when a test batch, all of one task, chooses together."""
    method: Any = course.method
    found: dict[str, Any] = {}
    if hasattr(method, "choices"):
        found["prompt_choices"] = [_histogram(course, task.images) for task in course.stream.tasks]
    if hasattr(method, "batchwise_test"):
        asked, averages = method.batchwise_test, {}
        for name, method.batchwise_test in (("picture", False), ("batch", True)):
            row = _test(course, len(course.stream.tasks))["accuracies"]
            averages[name] = sum(row) / len(row)
        method.batchwise_test = asked
        found["average_accuracy_by_choice"] = averages
    return found


@torch.no_grad()
def _histogram(course: Course, images: Images) -> list[int]:
    """How many images take prompt 0, 1, ..."""
    method: Any = course.method.eval()
    device = choose_device(course.cfg.TRAIN.DEVICE)
    loader = test_loader(course.cfg, course.data(images), method, course.cfg.TEST.SPLIT, course.cache)
    chosen = torch.cat([method.choices(batch.to(device)).flatten().cpu() for batch, _ in loader])
    return torch.bincount(chosen, minlength=method.size).tolist()


def _facts(course: Course, learned: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What makes the stream repeatable, and how long it took."""
    cfg, stream = course.cfg, course.stream
    tasks = [
        {"name": task.name, "labels": task.labels, "classes": [stream.classes[label] for label in task.labels]}
        for task in stream.tasks
    ]
    return {
        "split": cfg.TEST.SPLIT,
        **describe(cfg, course.data(joined(stream)), course.method),
        "dataset": list(cfg.CONTINUAL.DATASETS) or course.card.name,
        "continual": resolved(cfg)["CONTINUAL"],
        "tasks": tasks,
        "seconds_per_task": [each["seconds"] for each in learned],
        "seconds": round(sum(each["seconds"] for each in learned), 3),
        "steps": sum(each["steps"] for each in learned),
    }
