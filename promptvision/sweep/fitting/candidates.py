"""The table of what `promptvision fit` tries (candidates.yaml)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptvision.safe_yaml import read_yaml
from promptvision.sweep.benchmark import combinations, file_name

TABLE = Path(__file__).with_name("candidates.yaml")


@dataclass(frozen=True)
class Candidate:
    """A method with the settings to try: `settings` and each combination of `grid`.

    `case`: the case of transfer in which it is worth its time, None for every one. `templates`: whether its texts are
    the chosen ones. `why`: the reason to choose it, in words.
    """

    name: str
    settings: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    case: tuple[str, ...] | None = None
    templates: bool = False
    why: str = ""

    @property
    def learns(self) -> bool:
        """Return whether it looks at training images for more than the choice of its texts."""
        return bool(self.settings["METHOD.NAME"] != "zero_shot")

    def variants(self) -> list[dict[str, Any]]:
        """Return the values of the grid's keys, one dict for each combination."""
        return combinations(self.grid)

    def folder(self, variant: Mapping[str, Any]) -> Path:
        """Return the place of a variant's runs."""
        words = [f"{key.rpartition('.')[2].lower()}{value:g}" for key, value in variant.items()]
        return Path(file_name(self.name), *(["_".join(words)] if words else []))


def candidates(kind: str, embedded: bool, depth: int) -> list[Candidate]:
    """Return the candidates for a backbone of a `kind`, clip or vit, with `depth` blocks, in the order of the table."""
    found = []
    for name, row in read_yaml(TABLE, "table of candidates").items():
        grid, blocks = row.get("GRID", {}), "METHOD.OPTIONS.BLOCKS"
        if blocks in grid:
            grid = {**grid, blocks: [count for count in grid[blocks] if count < depth]}
        if kind in row["BACKBONE"] and all(grid.values()):
            settings = {**row["SET"], **(row.get("EMBEDDED", {}) if embedded else {})}
            case = tuple(row["CASE"]) if "CASE" in row else None
            found.append(Candidate(name, settings, grid, case, row.get("TEMPLATES", False), row["WHY"]))
    return found
