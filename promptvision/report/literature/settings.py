"""Settings of a run against those of the published runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptvision.report.cells import Cell
from promptvision.report.comparable import ON_TEST, selected_on_test

ALL = ("few_shot", "vtab", "fgvc", "cross_dataset", "domain_generalization")
"""Kinds of table whose tests are of all classes, so that their number of images is known."""


def differences(
    kind: str, cells: Sequence[Cell], method: Mapping[str, Any], rules: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Return a sentence for each difference to the published runs: (those to mention, those that forbid a verdict)."""
    mentioned, barred = dict[str, None](), dict[str, None]()
    published = rules["settings"][method["settings"]]
    for cell in cells:
        for key, rule in published.items():
            ours = normal(cell.settings.get(key, cell.first.get(key)))
            values, near = _expected_values(kind, cell, rule)
            if values and ours not in values:
                sentence = f"{key} is {ours or 'empty'}, published {values[0] or 'empty'}"
                (mentioned if ours in near else barred)[sentence] = None
        barred |= dict.fromkeys(other_test_images(kind, cell, rules["tests"]))
        validated = _expected_values(kind, cell, published.get("DATASET.VALIDATION", []))[0]
        so_published = "test" in validated or published.get("TRAIN.KEEP") == "best_test"
        barred |= {ON_TEST: None} if selected_on_test(cell.first) and not so_published else {}
    barred |= {method["differs"]: None} if "differs" in method else {}
    return list(mentioned), list(barred)


def _expected_values(kind: str, cell: Cell, rule: Any) -> tuple[list[str], list[str]]:
    """Return (the published values, values near them) of a setting; no values if nothing is known."""
    if not isinstance(rule, Mapping):
        return [normal(value) for value in (rule if isinstance(rule, list) else [rule])], []
    if "is" in rule:
        return [normal(rule["is"])], [normal(value) for value in rule.get("near", ())]
    by_shots = rule.get("shots", {}).get(cell.shots)
    value = rule.get(cell.dataset, rule.get(kind, by_shots))
    return ([] if value is None else [normal(value)]), []


def other_test_images(kind: str, cell: Cell, known: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence for each test on another number of images than the published one."""
    results = [*cell.results, *(test for run in cell.runs for test in run.evals.values())] if kind in ALL else []
    for result in results:
        wanted, n = known.get(str(result["dataset"])), result.get("n")
        if wanted and n != wanted and result.get("class_subset", "all") == "all":
            yield f"tested on {n} images of {result['dataset']}, published on {wanted}"


def normal(value: Any) -> str:
    """Return a setting as text that is the same for 1 and 1.0, and for None and empty."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(normal, value))}]" if value else ""
    return str(value)
