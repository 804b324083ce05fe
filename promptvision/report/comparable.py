"""Whether numbers may stand side by side: runs that claim one protocol must have seen the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
"""The contents of a result.json."""
Cells = Mapping[str, Sequence[Result]]
"""Row of a table -> its runs."""

ON_TEST = "selected on its test images (DATASET.VALIDATION test)"
TESTED_BY = ("CLASSES", "SOURCE", "TARGET", "HELD_OUT")
"""What of a protocol decides the test images."""


def notes(cells: Cells) -> dict[str, list[str]]:
    """What a reader must know of each row: one sentence for each way in which it differs from rows above it that claim
    the same protocol, and whether it was selected on test images."""
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, list[str]] = {name: [] for name in cells}
    for name, results in cells.items():
        for result in results:
            for claim, verb, seen in _claims(result):
                hash_, row = first.setdefault(claim, (seen, name))
                if hash_ != seen:
                    other = "a run of the same row" if row == name else row
                    found[name].append(f"{verb} other images than {other}, with the same protocol")
            if result.get("protocol", {}).get("VALIDATION") == "test":
                found[name].append(ON_TEST)
    return {name: list(dict.fromkeys(sentences)) for name, sentences in found.items()}


def _claims(result: Result) -> Iterator[tuple[str, str, str]]:
    """(what is claimed, "trained on" or "tested on", hash of the images that were seen)."""
    protocol, dataset = result.get("protocol", {}), result.get("dataset")
    tested = {key: protocol.get(key) for key in TESTED_BY}
    for verb, claim in (("trained on", [protocol, result.get("seed")]), ("tested on", [tested])):
        seen = result.get("train_hash" if verb == "trained on" else "test_hash", "")
        yield json.dumps([verb, dataset, *claim], sort_keys=True), verb, seen


def averageable(results: Sequence[Result]) -> bool:
    """Whether all runs were tested on the same images."""
    return len({result.get("test_hash") for result in results}) < 2


def footnotes(found: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], str]:
    """({row: its name with the numbers of its notes}, all notes with their numbers, one a line)."""
    numbers = {sentence: 0 for sentences in found.values() for sentence in sentences}
    numbers = {sentence: number for number, sentence in enumerate(numbers, 1)}
    names = {
        name: " ".join([name, *(f"[{numbers[sentence]}]" for sentence in sentences)])
        for name, sentences in found.items()
    }
    return names, "\n".join(f"[{number}] {sentence}" for sentence, number in numbers.items())
