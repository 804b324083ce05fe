"""The card of a dataset: facts that its YAML file gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROTOCOLS = (
    *("few_shot", "base_to_new", "cross_dataset", "domain_generalization", "uda", "vtab", "fgvc"),
    *("class_incremental", "dataset_incremental", "full"),
)
ACCEPTED = {"two_labels": "under two labels", "two_splits": "in two splits"}
"""Fault of a list that a card may accept -> its name in a sentence."""


@dataclass(frozen=True)
class Card:
    """The facts of one dataset; `options` holds the keys that only its reader takes."""

    name: str
    title: str
    source: str
    licence: str
    where: str
    """Instruction to get it, which ends the sentence about missing files."""
    reader: str
    template: str
    """The hand-written prompt; `{}` is the class name."""
    classes: int | None = None
    """Number of classes; None if the data decide."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of images in train, val and test, if known."""
    traps: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    """Further hand-written prompts, for an ensemble over texts."""
    protocols: list[str] = field(default_factory=list)
    """Benchmarks that use it, among `PROTOCOLS`."""
    accepts: list[str] = field(default_factory=list)
    """Faults of its published lists that a run warns of instead of refusing them, among `ACCEPTED`."""
    files: list[str] = field(default_factory=list)
    """Files and folders expected under the root."""
    download: list[dict[str, str | int]] = field(default_factory=list)
    """Official archives: `url`, `file` (its name here), and if known `md5` or `sha256`, and `size` in bytes."""
    hub: dict[str, str | list[str]] = field(default_factory=dict)
    """Repository on the Hugging Face Hub that holds the same files: `repo` and `files` in it."""
    renames: dict[str, str] = field(default_factory=dict)
    """Class in the raw data -> class name; for `class_names.class_name`."""
    ignored: list[str] = field(default_factory=list)
    """Classes of the raw data to leave out."""
    name_rule: str = ""
    """Rule that turns the other classes of the raw data into names, one of `class_names.RULES`."""
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Domain -> its own values of the reader's keys, and its `counts`."""
    options: dict[str, Any] = field(default_factory=dict)
