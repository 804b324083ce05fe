"""Figures of an explanation: maps over an image, shares of attention, features in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptvision.deploy.explain.attention import ClassAttention
from promptvision.report.figures.contact_sheet import drawable, installed
from promptvision.report.figures.style import (
    COLOURS,
    MARKERS,
    QUIET,
    STRONG,
    Figure,
    panels,
    plain,
    pyplot,
    tidy,
    wrapped,
)

NAMED = 12
"""Classes of which a legend names each; more are coloured without one."""
SIDE = 1.25
"""Inches of an image."""
BLOCKS = 12
"""Blocks of which maps are drawn; of a deeper tower some, evenly spread."""


def attention_figure(title: str, image: np.ndarray, rows: Mapping[str, np.ndarray]) -> Figure:
    """Draw an image and, below each other, the maps (L, h, w) of rows, laid over it, for up to BLOCKS blocks."""
    depth = len(next(iter(rows.values())))
    blocks = np.linspace(0, depth - 1, min(depth, BLOCKS)).round().astype(int)
    across = len(blocks) + 1
    figure, drawn = panels(len(rows) * across, across, (SIDE, SIDE + 0.1), rest=(0.3, 0.5))
    for number, (name, maps) in enumerate(rows.items()):
        first, *others = drawn[number * across : (number + 1) * across]
        first.imshow(image)
        first.set_ylabel(plain(name), fontsize=9)
        for axes, block in zip(others, blocks, strict=True):
            over(axes, image, maps[block] / max(maps[block].max(), 1e-12), 0.0, 1.0, "magma")
            axes.set_title(f"block {block + 1}" if not number else "", fontsize=9)
        for axes in (first, *others):
            axes.set(xticks=[], yticks=[])
    titled(figure, title)
    return figure


def similarity_figure(title: str, image: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """Draw an image and the maps (h, w) of classes laid over it, all in one scale."""
    low, high = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
    figure, (first, *others) = panels(len(maps) + 1, len(maps) + 1, (1.6, 1.75), rest=(0.8, 0.5))
    first.imshow(image)
    for axes, (name, values) in zip(others, maps.items(), strict=True):
        shown = over(axes, image, values, low, high, "viridis")
        axes.set_title(drawable(wrapped(name, 20)), fontsize=8, family=list(installed()))
    for axes in (first, *others):
        axes.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=others, shrink=0.8).ax.tick_params(labelsize=7)
    titled(figure, title)
    return figure


def share_figure(found: ClassAttention) -> Figure:
    """Draw the shares of the class token's attention in each block, mean over images, as stacked bars."""
    figure, (axes,) = panels(1, 1, (max(3.2, 0.45 * len(found.prompt_counts) + 1.6), 2.4), rest=(0.4, 0.3))
    prompts, own = (each.mean(dim=1).cpu().numpy() for each in (found.prompts, found.own))
    blocks, bottom = np.arange(1, len(prompts) + 1), np.zeros(len(prompts))
    parts = {"prompts": (prompts, COLOURS[1]), "class token": (own, COLOURS[0]), "patches": (1 - prompts - own, QUIET)}
    for name, (values, colour) in parts.items():
        axes.bar(blocks, values, bottom=bottom, label=name, color=colour, width=0.75)
        bottom = bottom + values
    axes.set(xlabel="block", ylabel="share of attention", ylim=(0, 1), xticks=blocks)
    tidy(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def plane_figure(planes: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw points (N, 2) of each plane, coloured by label; a legend names up to NAMED classes."""
    few, spectrum, fonts = len(names) <= NAMED, pyplot.colormaps["turbo"], list(installed())
    figure, drawn = panels(len(planes), len(planes), (3.2, 3.0), rest=(1.9 if few else 0.2, 0.4))
    for axes, (name, points) in zip(drawn, planes.items(), strict=True):
        for label in range(len(names)):
            colour: Any = COLOURS[label % len(COLOURS)] if few else spectrum(label / (len(names) - 1))
            marker = MARKERS[label // len(COLOURS)] if few else "o"
            axes.scatter(*points[labels == label].T, s=14, color=colour, marker=marker)
        axes.set(xticks=[], yticks=[])
        axes.set_title(plain(name), fontsize=10)
        axes.spines[:].set_color(QUIET)
    if few:
        shown, font = [drawable(wrapped(name, 22)) for name in names], {"family": fonts, "size": 8}
        figure.legend(drawn[0].collections, shown, loc="outside right center", frameon=False, prop=font)
    return figure


def over(axes: Any, image: np.ndarray, values: np.ndarray, low: float, high: float, colours: str) -> Any:
    """Lay a map (h, w) over a grey image, smoothed between the middles of patches; return what a colour bar reads."""
    height, width = image.shape[:2]
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    return axes.imshow(
        values, cmap=colours, vmin=low, vmax=high, alpha=0.6, interpolation="bilinear", extent=(0, width, height, 0)
    )


def titled(figure: Figure, title: str) -> None:
    """Write the title of a figure, in fonts that have its letters."""
    figure.suptitle(drawable(wrapped(title, 70)), fontsize=10, color=STRONG, family=list(installed()))
