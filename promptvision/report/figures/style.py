"""What all figures share: how text gets into them, colours, axes and files."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402 - the backend must be chosen first
from matplotlib import colormaps, pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from promptvision.report.tables.table import one_line, without_folders  # noqa: E402

SUFFIXES = (".png", ".svg")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind readers tell apart, without black and yellow."""
MARKERS = ("o", "s", "D", "^", "v", "P")
QUIET = "#c4c8cd"
"""Of what stands behind the line that is meant."""
STRONG = "#1c1e21"
MANY = 8
"""Values among which one can be out of the way."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be made: `kind`, of the section that it belongs to; `about`, what it shows, in words."""

    kind: str
    title: str
    about: str
    make: Callable[[], Figure]


def plain(text: object) -> str:
    """On one line, without the `$` that starts a formula in matplotlib, and without anybody's folders."""
    return without_folders(one_line(str(text))).replace("$", r"\$")


def wrapped(text: object, width: int = 48) -> str:
    """A title or a name on as many lines as it needs, broken between words, or behind the `_` of a long one."""
    lines = textwrap.wrap(plain(text).replace("_", "_ "), width)
    return "\n".join(lines).replace("_ ", "_")


def limits(spans: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """(lowest, highest) that an axis shows of (mean, its ends): all, but of many none whose mean is three times
    the range of the middle half away from it, for it would leave no room for the others."""
    means = [mean for mean, _, _ in spans]
    first, third = np.percentile(means, [25, 75])
    most = 3 * max(third - first, 1.0) if len(spans) >= MANY else np.inf
    kept = [span for span in spans if first - most <= span[0] <= third + most]
    low, high = min(low for _, low, _ in kept), max(high for _, _, high in kept)
    margin = 0.05 * (high - low) + 0.3
    return low - margin, high + margin


def shades(count: int) -> list[str]:
    """Colours for an order, from light to dark."""
    places = [0.72 - 0.67 * number / max(1, count - 1) for number in range(count)]
    return [colour_text(colormaps["viridis"](place)) for place in places]


def colour_text(colour: Sequence[float]) -> str:
    """`#rrggbb`"""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def tidy(axes: Any, grid: str = "y") -> None:
    """Only what helps to read a value."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def save(figure: Figure, path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Write `path`.png and `path`.svg."""
    paths = [Path(f"{path}{suffix}") for suffix in suffixes]
    for target in paths:
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else {"Software": None})
    pyplot.close(figure)
    return paths
