"""Shared style of all figures: text, colours, axes, grids of panels, files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402 - the backend must be chosen first
from matplotlib import colormaps, pyplot  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from promptvision.atomic import write_atomically  # noqa: E402
from promptvision.errors import one_line  # noqa: E402
from promptvision.report.tables.table import without_folders  # noqa: E402

SUFFIXES = (".png", ".svg")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Palette of Okabe and Ito for colour-blind readers, without black and yellow."""
MARKERS = ("o", "s", "D", "^", "v", "P")
QUIET = "#c4c8cd"
"""Colour of everything that is only context."""
STRONG = "#1c1e21"
MANY = 8
"""Number of values from which on one can be an outlier."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be made: the `kind` of its section, its title, a sentence `about` what it shows."""

    kind: str
    title: str
    about: str
    make: Callable[[], Figure]


def plain(text: object) -> str:
    """Return the text on one line, without folders, and with the `$` escaped that starts a formula in matplotlib."""
    return without_folders(one_line(str(text))).replace("$", r"\$")


def wrapped(text: object, width: int = 48) -> str:
    """Break a title or name into lines between words, or after a `_` of a long word."""
    lines = textwrap.wrap(plain(text).replace("_", "_ "), width)
    return "\n".join(lines).replace("_ ", "_")


def limits(spans: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the (lowest, highest) value of an axis for spans (mean, low, high).

    Of MANY spans or more, those are left out whose mean is three interquartile ranges or more away from the middle
    half: they would leave no room for the others.
    """
    means = [mean for mean, _, _ in spans]
    first, third = np.percentile(means, [25, 75])
    most = 3 * max(third - first, 1.0) if len(spans) >= MANY else np.inf
    kept = [span for span in spans if first - most <= span[0] <= third + most]
    low, high = min(low for _, low, _ in kept), max(high for _, _, high in kept)
    margin = 0.05 * (high - low) + 0.3
    return low - margin, high + margin


def span(values: Sequence[float]) -> str:
    """Return `2.0 to 17.0`, or `2.0` of a single value."""
    return f"{min(values):.1f}" + (f" to {max(values):.1f}" if len(values) > 1 else "")


def shades(count: int) -> list[str]:
    """Return colours for ordered groups, from light to dark."""
    return [to_hex(colormaps["viridis"](0.72 - 0.67 * number / max(1, count - 1))) for number in range(count)]


def tidy(axes: Any, grid: str = "y") -> None:
    """Remove the frame and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def panels(
    count: int, across: int, each: tuple[float, float], rest: tuple[float, float], least: float = 0.0, **shared: Any
) -> tuple[Figure, list[Any]]:
    """Make a figure of `count` panels, `across` in a row.

    Sizes in inches: `each` of a panel, `rest` of the space around them, `least` for their total width.
    """
    down = -(-count // across)
    size = (rest[0] + max(least, each[0] * across), rest[1] + each[1] * down)
    figure, found = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained", **shared)
    for axes in found.flat[count:]:
        axes.set_axis_off()
    return figure, list(found.flat[:count])


def write_numbers(axes: Any, values: np.ndarray, form: str, dark: np.ndarray, size: int = 8) -> None:
    """Write every number of a heat map into its cell, in white where the cell is dark."""
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if dark[y, x] else "black"
            axes.text(x, y, form.format(value), ha="center", va="center", color=colour, fontsize=size)


def save(figure: Figure, path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Write the figure to `path` with each suffix, close it, and return the files.

    Raise InputError if one cannot be written.
    """
    paths = [Path(f"{path}{suffix}") for suffix in suffixes]
    for target in paths:
        content, metadata = io.BytesIO(), {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(content, format=target.suffix[1:], dpi=150, metadata=metadata)
        write_atomically(target, content.getvalue())
    pyplot.close(figure)
    return paths
