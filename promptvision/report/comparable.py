"""Checks that numbers of one table are comparable: runs with the same protocol must have seen the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
"""The contents of a result.json."""

ON_TEST = "selected on its test images (DATASET.VALIDATION test or TRAIN.KEEP best_test)"
TESTED_BY = ("CLASSES", "SOURCE", "TARGET", "HELD_OUT")
"""Keys of a protocol that decide the test images."""
DIVERGED = "the loss rose above twice its start within the first epochs: try a smaller OPTIM.LR"
ON_ALL = "trained on images of all classes, the new ones too (DATASET.TRAIN_CLASSES all)"


def notes(rows: Mapping[str, Sequence[Result]]) -> dict[str, list[str]]:
    """Return notes on {row: results of its runs}: other images than an earlier row with the same protocol, training on
    images of other classes than the tested ones, selection on test images, and a loss that diverged."""
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, dict[str, None]] = {row: {} for row in rows}
    for row, result in ((row, result) for row, results in rows.items() for result in results):
        protocol = result.get("protocol", {})
        trained, tested = [protocol, result.get("seed")], [{key: protocol.get(key) for key in TESTED_BY}]
        for verb, decided_by, key in (("trained on", trained, "train_hash"), ("tested on", tested, "test_hash")):
            claim = json.dumps([verb, result.get("dataset"), *decided_by], sort_keys=True)
            seen, earlier = first.setdefault(claim, (result.get(key, ""), row))
            if seen != result.get(key, ""):
                other = "a run of the same row" if earlier == row else earlier
                found[row][f"{verb} other images than {other}, with the same protocol"] = None
        if protocol.get("TRAIN_CLASSES", "same") == "all" and protocol.get("CLASSES") != "all":
            found[row][ON_ALL] = None
        if selected_on_test(result):
            found[row][ON_TEST] = None
        if "diverged" in result:
            found[row][DIVERGED] = None
    return {row: list(sentences) for row, sentences in found.items()}


def selected_on_test(result: Result) -> bool:
    """Return whether test images decided something in a run."""
    return "selected_on_test" in result or (result.get("protocol") or {}).get("VALIDATION") == "test"


def averageable(results: Sequence[Result]) -> bool:
    """Return whether all runs were tested on the same images."""
    return len({result.get("test_hash") for result in results}) < 2
