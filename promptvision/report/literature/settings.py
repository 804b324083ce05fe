"""What a run was set to, against what the published runs were set to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptvision.report.cells import Cell

ALL = ("few_shot", "vtab", "fgvc", "cross_dataset", "domain_generalization")
"""Kinds of table whose tests are of all classes, so that their number of images is known."""


def differences(
    kind: str, cells: Sequence[Cell], method: Mapping[str, Any], rules: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """(differences that are told, those that also keep a number from being judged), a sentence each."""
    told, barred = dict[str, None](), dict[str, None]()
    for cell in cells:
        for key, expected in rules["settings"][method["settings"]].items():
            ours = normal(_ours(cell, key))
            values, near = _expected(kind, cell, expected)
            if values and ours not in values:
                sentence = f"{key} is {ours or 'empty'}, published {values[0] or 'empty'}"
                (told if ours in near else barred)[sentence] = None
        barred |= dict.fromkeys(_test_images(kind, cell, rules["tests"]))
    if "differs" in method:
        barred[method["differs"]] = None
    return list(told), list(barred)


def _ours(cell: Cell, key: str) -> Any:
    return cell.settings[key] if key in cell.settings else cell.first.get(key)


def _expected(kind: str, cell: Cell, rule: Any) -> tuple[list[str], list[str]]:
    """(values that are the published one, values that are near it); none where nothing is known."""
    if not isinstance(rule, Mapping):
        return [normal(value) for value in (rule if isinstance(rule, list) else [rule])], []
    if "is" in rule:
        return [normal(rule["is"])], [normal(value) for value in rule.get("near", ())]
    by_shots = rule.get("shots", {}).get(cell.shots)
    value = rule.get(cell.dataset, rule.get(kind, by_shots))
    return ([] if value is None else [normal(value)]), []


def _test_images(kind: str, cell: Cell, known: Mapping[str, int]) -> Iterator[str]:
    """Tests on other numbers of images than the published ones."""
    results = [*cell.results, *(test for run in cell.runs for test in run.evals.values())] if kind in ALL else []
    for result in results:
        wanted, n = known.get(str(result["dataset"])), result.get("n")
        if wanted and n != wanted and result.get("class_subset", "all") == "all":
            yield f"tested on {n} images of {result['dataset']}, published on {wanted}"


def normal(value: Any) -> str:
    """A setting as text that is the same for 1 and 1.0, and for nothing and empty."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(normal, value))}]" if value else ""
    return str(value)
