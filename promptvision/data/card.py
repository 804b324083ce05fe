"""The facts about one dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROTOCOLS = (
    "few_shot",
    "base_to_new",
    "cross_dataset",
    "domain_generalization",
    "uda",
    "vtab",
    "fgvc",
    "class_incremental",
    "dataset_incremental",
    "full",
)


@dataclass(frozen=True)
class Card:
    """The facts about one data set. `options` holds the keys that only its reader takes."""

    name: str
    title: str
    source: str
    licence: str
    where: str
    """How to get it, as a request: it ends the sentence that says what is missing."""
    reader: str
    template: str
    """The hand-written prompt; `{}` is the class name."""
    classes: int | None = None
    """Number of classes; None where the data decide."""
    counts: dict[str, int] = field(default_factory=dict)
    """Images in train, val and test, where known."""
    traps: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    """Further hand-written prompts, for an ensemble over texts."""
    protocols: list[str] = field(default_factory=list)
    """The benchmarks that it is part of, among `PROTOCOLS`."""
    files: list[str] = field(default_factory=list)
    """Files and folders expected under the root."""
    download: list[dict[str, str | int]] = field(default_factory=list)
    """Official archives: `url`, `file` (what to call it), and where known `md5` or `sha256`, and `size` in bytes."""
    hub: dict[str, str | list[str]] = field(default_factory=dict)
    """A collection on the Hugging Face Hub that holds the same files: `repo` and `files` in it."""
    renames: dict[str, str] = field(default_factory=dict)
    """Class as the raw data write it -> class name; for `class_names.class_name`."""
    ignored: list[str] = field(default_factory=list)
    """Classes of the raw data that are left out."""
    name_rule: str = ""
    """How the raw data's other classes become names, one of `class_names.RULES`."""
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Domain -> the reader's keys that are its own, and its `counts`, which are no key of a reader."""
    options: dict[str, Any] = field(default_factory=dict)
