"""Bars and spider webs over data sets, the way the papers draw them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from promptvision.report.curves import pyplot
from promptvision.report.layout import one_line

SUFFIXES = (".png", ".svg")


def plain(text: object) -> str:
    """On one line, without the `$` that starts a formula in matplotlib."""
    return one_line(str(text)).replace("$", r"\$")


def wrapped(text: object, width: int = 48) -> str:
    """A title or a name on as many lines as it needs."""
    return "\n".join(textwrap.wrap(plain(text), width))


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path`.png and `path`.svg."""
    paths = [Path(f"{path}{suffix}") for suffix in SUFFIXES]
    for target in paths:
        figure.savefig(target, dpi=150)
    pyplot.close(figure)
    return paths


def grouped_bars(values: Mapping[str, Mapping[str, tuple[float, float]]], title: str, path: str | Path) -> list[Path]:
    """{name: {group: (per cent, half of its interval)}}, one colour per name: base, new and H side by side (CoCoOp,
    arXiv:2203.05557)."""
    groups = list(dict.fromkeys(group for each in values.values() for group in each))
    wide, width = max(4.5, 0.5 + 0.45 * len(groups) * len(values)), 0.8 / len(values)
    figure, axes = pyplot.subplots(figsize=(min(wide, 14), 3.4 + 0.2 * len(values)), layout="constrained")
    for number, (name, each) in enumerate(values.items()):
        there = [(place, *each[group]) for place, group in enumerate(groups) if group in each]
        x, heights, halves = zip(*there, strict=True) if there else ((), (), ())
        shifted = [place + (number - (len(values) - 1) / 2) * width for place in x]
        axes.bar(shifted, heights, width, yerr=halves, label=wrapped(name), capsize=2, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(groups)), [plain(group) for group in groups])
    axes.set(title=wrapped(title), ylabel="accuracy (%)")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return save(figure, path)


def difference_bars(values: Mapping[str, float], title: str, path: str | Path) -> list[Path]:
    """Absolute differences in per cent, the largest on top (CoOp, arXiv:2109.01134, figure 4)."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axes = pyplot.subplots(figsize=(5.5, 1.0 + 0.35 * len(ordered)), layout="constrained")
    colours = ["tab:green" if value >= 0 else "tab:red" for _, value in ordered]
    bars = axes.barh([plain(name) for name, _ in ordered], [value for _, value in ordered], color=colours)
    axes.bar_label(bars, fmt="%+.1f", padding=3)
    axes.margins(x=0.18)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="absolute difference (%)")
    figure.suptitle(wrapped(title), fontsize=11)
    return save(figure, path)


def radar(values: Mapping[str, Sequence[float]], axes_names: Sequence[str], title: str, path: str | Path) -> list[Path]:
    """A web with an axis per data set, one line per name (MaPLe, arXiv:2210.03117, figure 1)."""
    angles = [2 * math.pi * number / len(axes_names) for number in range(len(axes_names))]
    figure, axes = pyplot.subplots(
        figsize=(5.5, 4.6 + 0.2 * len(values)), layout="constrained", subplot_kw={"projection": "polar"}
    )
    for name, each in values.items():
        (line,) = axes.plot([*angles, angles[0]], [*each, each[0]], marker="o", markersize=3, label=wrapped(name))
        axes.fill([*angles, angles[0]], [*each, each[0]], color=line.get_color(), alpha=0.06)
    axes.set_xticks(angles, [plain(name) for name in axes_names], fontsize=8)
    axes.set_title(wrapped(title))
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return save(figure, path)


def loss_curves(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, path: str | Path) -> list[Path]:
    """{run: (step, loss) ...}, thin lines; the runs are named while they are few."""
    figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), linewidth=1, label=plain(name))
    axes.set(title=wrapped(title), xlabel="step", ylabel="training loss")
    axes.grid(alpha=0.3)
    if len(curves) <= 8:
        axes.legend(frameon=False, fontsize=7)
    return save(figure, path)
