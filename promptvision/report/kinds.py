"""Kinds of table in the literature, and the cells and tests that belong to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptvision.report.cells import Cell

TITLES = {
    "few_shot": "Few-shot",
    "base_to_new": "Base to new classes",
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalization",
    "uda": "Unsupervised domain adaptation",
    "vtab": "VTAB-1k",
    "fgvc": "FGVC",
    "full": "All training images",
    "continual": "Continual learning",
}
"""Kind of table -> title."""
VTAB = {
    "Natural": ("caltech101", "cifar100", "dtd", "oxford_flowers102", "oxford_iiit_pet", "sun397", "svhn"),
    "Specialized": ("diabetic_retinopathy", "eurosat", "patch_camelyon", "resisc45"),
    "Structured": (
        *("clevr_count", "clevr_distance", "dmlab", "dsprites_location", "dsprites_orientation"),
        *("kitti_distance", "smallnorb_azimuth", "smallnorb_elevation"),
    ),
}
"""VTAB's groups (arXiv:1910.04867): 7, 4 and 8 tasks; VPT's tables give the mean of each."""
FGVC = ("fgvc_cub", "fgvc_nabirds", "fgvc_oxford_flowers", "fgvc_stanford_cars", "fgvc_stanford_dogs")
COOP = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
)
"""CoOp's eleven datasets in the order of its figures; "average" in its papers is over these."""
MEASURES = {
    "average_accuracy": "average accuracy",
    "incremental_accuracy": "accuracy over the stream",
    "learning_accuracy": "accuracy when just learned",
    "forgetting": "forgetting",
    "forgetting_official": "forgetting, official formula",
    "backward_transfer": "backward transfer",
    "accuracy": "accuracy over all images",
}
"""Keys of a stream's result.json in per cent: their columns."""
AGAIN = ", tested as "
"""Part of the name of a column for a second test where another column has the first."""
PER_CLASS = ("visda17",)
"""Datasets whose papers report the mean over classes of each class's accuracy."""


def kinds(cell: Cell) -> list[str]:
    """Return the tables that a cell belongs to: for a cell with later tests elsewhere, those of the tests."""
    result, protocol = cell.first, cell.first.get("protocol") or {}
    if "continual" in result:
        return ["continual"]
    if result.get("class_subset") == "base":
        return ["base_to_new"]
    elsewhere = {test_kind(cell, test) for test in cell.evals.values()} - {""}
    if elsewhere:
        return sorted(elsewhere)
    if protocol.get("SOURCE") or protocol.get("TARGET"):
        return ["uda"]
    if cell.dataset.startswith("vtab_"):
        return ["vtab"]
    return ["fgvc"] if cell.dataset in FGVC else ["few_shot"] if result.get("shots") else ["full"]


def test_kind(cell: Cell, test: Mapping[str, Any]) -> str:
    """Return the table of a later test: new classes after base ones, the same classes elsewhere, or other classes
    elsewhere; "" for the test of the run itself, repeated, perhaps on some of the classes it was trained on."""
    if test.get("class_subset") == "new" and cell.first.get("class_subset") == "base":
        return "base_to_new"
    target = (test.get("protocol") or {}).get("TARGET")
    if test["dataset"] == cell.first["dataset"] and target == (cell.first.get("protocol") or {}).get("TARGET"):
        return ""
    same = set(map(str, test["classes"])) <= set(map(str, cell.first["classes"]))
    return "domain_generalization" if same else "cross_dataset"


def places(cell: Cell, kind: str) -> dict[str, str]:
    """Return {column: name of the later test} of the tests that belong to this kind of table.

    A second test in a column, with other images or settings, has a column of its own that says so.
    """
    found = dict[str, str]()
    for name, test in sorted(cell.evals.items()):
        if test_kind(cell, test) == kind:
            dataset, target = str(test["dataset"]), str((test.get("protocol") or {}).get("TARGET") or "")
            elsewhere = target if target and dataset == cell.dataset else f"{dataset} {target}".strip()
            column = "new" if kind == "base_to_new" else elsewhere
            found[f"{column}{AGAIN}{name}" if column in found else column] = name
    return found


def unshown(cell: Cell) -> list[str]:
    """Return the files of later tests that no table shows, except those that repeat the run's own test."""
    shown = {name for kind in kinds(cell) for name in places(cell, kind).values()}
    return [
        f"{run.name}/eval-{name}.json"
        for run in cell.runs
        for name, test in run.evals.items()
        if name not in shown and any(test.get(key) != run.result.get(key) for key in ("test_hash", "accuracy"))
    ]


def metric(dataset: str) -> str:
    """Return the key of result.json that a dataset's papers report."""
    return "per_class_mean" if dataset in PER_CLASS else "accuracy"
