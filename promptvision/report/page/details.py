"""Details of a run in the page of many: accuracy per class, confusions, changed settings, and sample images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from promptvision.engine.results.predictions_file import Predicted, read_predictions
from promptvision.errors import InputError, one_line
from promptvision.report.collect import Run
from promptvision.report.diagnosis import confusions
from promptvision.report.page.charts import short
from promptvision.report.page.run import class_rows
from promptvision.report.tables.table import without_folders

MOST_ROWS = 40
"""Classes of a run's table, those with the lowest accuracy, and of its confusion matrix."""
SAMPLES = 8
"""Sample images of a dataset."""
Samples = Mapping[str, Mapping[str, str]]
"""{test_hash: {path in predictions.csv: data URI}}"""


def predictions_of(run: Run) -> list[Predicted]:
    """Return the predictions of a run; none for a stream, or if its file is missing or of another run."""
    try:
        found = read_predictions(run.folder / "predictions.csv", [str(name) for name in run.result["classes"]])
    except InputError:
        return []
    right = 100 * sum(each.prediction == each.label for each in found) / max(1, len(found))
    return found if abs(right - run.result["accuracy"]) < 0.01 else []


def changing_settings(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ between the runs of a report."""
    seen = defaultdict[str, set[str]](set)
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    for run in runs:
        for key in keys:
            seen[key].add(repr(run.settings.get(key)))
    return [key for key in keys if len(seen[key]) > 1 and key not in ("OUTPUT_DIR", "CACHE_DIR")]


def details(run: Run, keys: Sequence[str], samples: Samples) -> dict[str, Any]:
    """Return what a run opens to, as plain values for the page's script; `keys`: settings that differ between runs.

    `classes`: [name, images, accuracy, interval, most often taken for]; `matrix`: short names and [label, prediction,
    images]; `samples`: [path, label, prediction, per cent], of `images` in `samples`.
    """
    found, classes = predictions_of(run), [one_line(str(name)) for name in run.result["classes"]]
    settings = {key: run.settings[key] for key in keys if run.settings.get(key) not in (None, "")}
    made: dict[str, Any] = {"changed": {key: without_folders(one_line(str(each))) for key, each in settings.items()}}
    if found:
        return made | _from_predictions(found, classes, samples.get(str(run.result.get("test_hash")), {}), run)
    if isinstance(run.result.get("per_class"), list) and len(run.result["per_class"]) == len(classes):
        known = zip(classes, run.result["per_class"], strict=True)
        pairs = sorted((value, name) for name, value in known if isinstance(value, int | float))
        made["classes"] = [[name, "", f"{value:.1f}", "", ""] for value, name in pairs[:MOST_ROWS]]
    return made


def _from_predictions(
    found: Sequence[Predicted], classes: Sequence[str], shown: Mapping[str, str], run: Run
) -> dict[str, Any]:
    """Return the details that need the predictions of a run; `shown`: its sample images."""
    rows = class_rows(found, classes)[:MOST_ROWS]
    made: dict[str, Any] = {
        "classes": [
            [row.name, f"{row.images}", f"{row.accuracy:.1f}", f"{row.low:.1f} to {row.high:.1f}", _instead(row)]
            for row in rows
        ],
        "samples": [
            [each.path, classes[each.label], classes[each.prediction], f"{100 * each.probability:.1f}"]
            for each in found
            if each.path in shown
        ],
        "images": str(run.result.get("test_hash")),
    }
    if len(classes) <= MOST_ROWS:
        pairs = [[*pair, count] for pair, count in confusions(found).items()]
        made["matrix"] = [[short(name) for name in classes], pairs]
    return made


def _instead(row: Any) -> str:
    """Return `circle (24)`, the class that is most often predicted in the place of another."""
    return f"{row.instead} ({row.times})" if row.times else ""


def sample_paths(predictions: Sequence[Predicted]) -> list[str]:
    """Return the paths of SAMPLES images at equal distances."""
    step = max(1, len(predictions) // SAMPLES)
    return [each.path for each in predictions[step // 2 :: step][:SAMPLES]]
