"""Differences of methods from zero-shot CLIP: bars for a single column or method, a heat map for several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from promptvision.errors import counted
from promptvision.report.figures.style import COLOURS, Drawing, Figure, pyplot, tidy, wrapped, write_numbers
from promptvision.report.figures.values import Values, datasets, figure_title, values, zero_shot
from promptvision.report.sections import Section
from promptvision.report.tables.over_shots import over_shots


def against_zero_shot(section: Section) -> Iterator[Drawing]:
    """Yield every method minus zero-shot CLIP: at each number of shots where there are several, else with the most."""
    shown, level = over_shots(section) or section, zero_shot(section)
    for dataset in datasets(shown):
        found = differences(values(shown, dataset), level)
        columns = [name for name in shown.columns if any(name in each for each in found.values())]
        name = f"{figure_title(section, dataset)}: difference from {level}"
        about = f"{counted(len(found), 'method')} minus {level} in per cent, the largest mean on top."
        if len(columns) == 1 or len(found) == 1:
            bars, shown_title = {label: each[columns[0]] for label, each in found.items()}, name
            if len(columns) > 1:
                [(only, bars)] = found.items()
                shown_title, about = f"{name}, {only}", f"{only} minus {level} in per cent, the largest on top."
            yield Drawing(section.kind, name, about, partial(difference_bars, bars, shown_title))
        elif columns:
            yield Drawing(section.kind, name, about, partial(difference_map, found, columns, name))


def differences(found: Values, label: str) -> dict[str, dict[str, float]]:
    """Return {method: {column: its mean minus that of `label`}} of all other methods."""
    level = found.get(label, {})
    apart = {
        name: {column: each.mean - level[column].mean for column, each in means.items() if column in level}
        for name, means in found.items()
        if name != label
    }
    return {name: each for name, each in apart.items() if each}


def difference_bars(found: Mapping[str, float], title: str) -> Figure:
    """Draw absolute differences in per cent as bars, the largest on top (CoOp, arXiv:2109.01134, figure 4)."""
    ordered = sorted(found.items(), key=lambda item: item[1])
    figure, axes = pyplot.subplots(figsize=(5.7, 1.0 + 0.26 * len(ordered)), layout="constrained")
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for _, value in ordered]
    bars = axes.barh([wrapped(name, 34) for name, _ in ordered], [value for _, value in ordered], color=colours)
    axes.bar_label(bars, fmt="%+.1f", padding=3, fontsize=8)
    axes.margins(x=0.18)
    axes.axvline(0, color="black", linewidth=0.8)
    tidy(axes, "x")
    axes.set(xlabel="absolute difference (%)")
    figure.suptitle(wrapped(title, 54), fontsize=11)
    return figure


def difference_map(found: Mapping[str, Mapping[str, float]], columns: Sequence[str], title: str) -> Figure:
    """Draw {method: {column: difference}} as a heat map, the largest mean on top; gains in blue, losses in red."""
    names = sorted(found, key=lambda name: -np.mean(list(found[name].values())))
    grid = np.array([[found[name].get(column, np.nan) for column in columns] for name in names])
    heads = [wrapped(column, 12) for column in columns]
    lines = max(head.count("\n") for head in heads)
    size = (2.2 + max(3.2, 0.72 * len(columns)), 1.2 + 0.25 * len(names) + 0.13 * lines)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    most = max(1.0, float(np.nanpercentile(np.abs(grid), 90)))
    axes.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    write_numbers(axes, grid, "{:+.1f}", dark=np.abs(grid) > 0.65 * most)
    axes.set_yticks(range(len(names)), [wrapped(name, 34) for name in names], fontsize=8)
    axes.set_xticks(range(len(columns)), heads, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(wrapped(title, 54), fontsize=11)
    return figure
