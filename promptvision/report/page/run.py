"""The page of one run: scores with intervals, mistakes, calibration, labels that look wrong, and what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptvision.engine.results.predictions_file import Predicted
from promptvision.errors import counted
from promptvision.report.diagnosis import (
    calibration,
    calibration_error,
    confident_mistakes,
    confusions,
    doubtful_labels,
    thresholds,
    wilson,
)
from promptvision.report.names import method_name
from promptvision.report.page.charts import calibration_marks, confusion_matrix
from promptvision.report.page.template import render
from promptvision.report.tables.over_shots import shots_name

MOST_IMAGES = 24
"""Thumbnails of mistakes, and of labels that look wrong."""
MOST_PAIRS = 12
"""Pairs of near-duplicates with thumbnails."""
FEW_TENSORS = 12
"""Learned tensors whose table is open."""
SCORES = {"accuracy": "accuracy", "top5": "top-5 accuracy", "per_class_mean": "mean over classes"}
SCORES |= {"macro_f1": "macro F1", "roc_auc": "ROC AUC", "ece": "calibration error (ECE)"}
"""Keys of result.json in per cent -> their names on the page."""
SHARES = ("accuracy", "top5")
"""Scores that are a share of the images, which have an interval."""


@dataclass(frozen=True)
class LearnedTensor:
    """A learned tensor: its name, shape, number of parameters, and norm."""

    name: str
    shape: Sequence[int]
    parameters: int
    norm: float


@dataclass(frozen=True)
class Pair:
    """A test image and the training image whose features are the nearest, by their cosine."""

    test: str
    train: str
    cosine: float


@dataclass(frozen=True)
class Near:
    """Near-duplicates, those with the highest cosine first, and a sentence about them."""

    pairs: Sequence[Pair]
    said: str


@dataclass(frozen=True)
class RunView:
    """Content of the page of a run: `thumbnails`, {path: data URI}; `missing`, a sentence if images are not shown;
    `changed`, {key: (value of `preset`, value of the run)}."""

    name: str
    result: Mapping[str, Any]
    predictions: Sequence[Predicted]
    learned: Sequence[LearnedTensor]
    preset: str
    changed: Mapping[str, tuple[Any, Any]]
    near: Near
    thumbnails: Mapping[str, str]
    missing: str = ""


def shown_paths(predictions: Sequence[Predicted]) -> list[str]:
    """Return the paths of the images that a page shows, apart from near-duplicates."""
    doubts = [doubt.of for doubt in doubtful_labels(predictions)[:MOST_IMAGES]]
    return list(dict.fromkeys(each.path for each in [*confident_mistakes(predictions)[:MOST_IMAGES], *doubts]))


def run_page(view: RunView) -> str:
    """Return the page's HTML."""
    result, found = view.result, view.predictions
    bins, counts, classes = calibration(found), confusions(found), result["classes"]
    mistakes, doubts, limits = confident_mistakes(found), doubtful_labels(found), thresholds(found)
    return render(
        "run.html",
        view=view,
        result=result,
        classes=classes,
        introduction=introduction(result),
        scores=list(scores(result)),
        matrix=confusion_matrix(counts, classes),
        confused=[(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]][:20],
        rows=class_rows(found, classes),
        mistakes=mistakes,
        doubts=doubts,
        limits=limits,
        most=MOST_IMAGES,
        most_pairs=MOST_PAIRS,
        bars=calibration_marks(bins),
        error=100 * calibration_error(bins),
        few=FEW_TENSORS,
        folded=folded(result),
    )


def introduction(result: Mapping[str, Any]) -> str:
    """Return `CoOp, embedded, on world_shapes with 4 shots, seed 1: 1,200 test images of 10 classes.`"""
    shots = f" with {shots_name(result['shots'])}" if result.get("shots") else ""
    images = f"{result['n']:,} {result['split']} images of {counted(len(result['classes']), 'class')}"
    trained = f"{result['learned_parameters']:,} learned parameters"
    trained += f", {result['seconds']:.0f} seconds of training" if "seconds" in result else ""
    name = f"{method_name(result)} on {result['backbone']}"
    return f"{name}, {result['dataset']}{shots}, seed {result['seed']}: {images}, {trained}."


def scores(result: Mapping[str, Any]) -> list[tuple[str, float, tuple[float, float] | None]]:
    """Return (name, value, 95 % interval if known) of each score, in per cent."""
    found = []
    for key, name in SCORES.items():
        value = result.get(key)
        if value is not None:
            low, high = wilson(result["n"] * value / 100, result["n"])
            found.append((name, value, (100 * low, 100 * high) if key in SHARES else None))
    return found


@dataclass(frozen=True)
class ClassRow:
    """A class: its images, the share that is right, with its interval, and the class that is most often predicted
    in its place, with the number of images."""

    name: str
    images: int
    accuracy: float
    low: float
    high: float
    instead: str
    times: int


def class_rows(predictions: Sequence[Predicted], classes: Sequence[str]) -> list[ClassRow]:
    """Return the classes with images, the lowest accuracy first."""
    counts, rows = confusions(predictions), []
    by_label: dict[int, dict[int, int]] = {}
    for (label, prediction), count in counts.items():
        by_label.setdefault(label, {})[prediction] = count
    for label, each in by_label.items():
        images, hits = sum(each.values()), each.get(label, 0)
        low, high = wilson(hits, images)
        wrong = {number: count for number, count in each.items() if number != label}
        worst = max(wrong, key=lambda number: wrong[number], default=-1)
        instead, times = (classes[worst], wrong[worst]) if wrong else ("", 0)
        rows.append(ClassRow(classes[label], images, 100 * hits / images, 100 * low, 100 * high, instead, times))
    return sorted(rows, key=lambda row: (row.accuracy, -row.images))


def folded(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what only some readers want: class list, hashes, transforms, environment."""
    keys = ("classes", "templates", "train_hash", "val_hash", "test_hash", "train_transform", "test_transform")
    found = {key: result.get(key) for key in (*keys, "image_size", "precision", "left_out")}
    texts = {key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in found.items()}
    environment = {key: value for key, value in (result.get("environment") or {}).items() if key != "code"}
    texts["environment"] = ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)
    return {key: text for key, text in texts.items() if text not in ("", "None")}
