"""The modules of `tools/bench/`, and the tables that they print."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
DRAWING = {"clip_lora", "mma_pp"}
"""Dropout draws another number of values in the official way."""


@pytest.fixture(scope="module")
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools/bench")
        patch.syspath_prepend(ROOT / "tools")
        import bench
        import bench_step
        import bench_vit
        import measure

        yield SimpleNamespace(bench=bench, step=bench_step, vit=bench_vit, measure=measure)


def table(text):
    rows = re.findall(r"^\|(.*)\|$", text, re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows if not set(row) <= set("|-: ")]
