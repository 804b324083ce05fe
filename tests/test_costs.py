"""The estimates of docs/costs.md: the counts of its rows are made again, and FLOPs follow from them and from a step."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
FILES = {
    "base to new": "base_to_new",
    "few-shot, ViT-B/16": "coop_fewshot_vitb16",
    "VTAB-1k": "vpt_vtab1k",
    "FGVC": "vpt_fgvc",
}
OF_A_STEP = {
    cells[0]: [float(cell) for cell in cells[1:]] for cells in CELLS if len(cells) == 5 and cells[1][0].isdigit()
}
SHARED = {name: 'CoOp, CoCoOp, KgCoOp from "a photo of a"' for name in ("CoOp", "CoCoOp", "KgCoOp")}
SHARED |= {"VPT-deep": "VPT-deep, 10 prompts"}
ROWS = [cells for cells in CELLS if cells[0] in FILES]


@pytest.fixture(scope="module")
def counted():
    sys.path.insert(0, str(ROOT / "tools/bench"))
    import bench_tables

    yield lambda table, row: next(
        bench_tables.rows(SimpleNamespace(benchmark=f"benchmarks/{FILES[table]}.yaml", row=[row]))
    )
    sys.path.remove(str(ROOT / "tools/bench"))


def number(cell):
    return float(cell.replace(",", ""))


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: " ".join(cells[:2]))
def test_a_row_follows_from_its_counts(cells, counted):
    table, row, *counts, here, official, hours = cells
    _, *found, step_classes, image_classes = counted(table, row)
    assert counts == found
    image, image_there, each, each_there = OF_A_STEP[SHARED.get(row, row)]
    classes = number(image_classes if row == "CoCoOp" else step_classes)
    images = number(counts[2])
    assert number(here) == pytest.approx((images * image + classes * each) / 1e6, rel=0.005)
    assert number(official) == pytest.approx((images * image_there + classes * each_there) / 1e6, rel=0.005)
    assert number(hours) == pytest.approx(number(here) / 108, rel=0.01)


@pytest.mark.parametrize(
    ("name", "row", "images"),
    [
        ("coop", "CoOp, M=16", 4),
        ("maple", "MaPLe", 4),
        ("prompt_src", "PromptSRC", 4),
        ("prompt, deep", "VPT-deep, 10 prompts", 1),
    ],
)
def test_a_step_adds_up_to_what_was_counted(name, row, images):
    """The sum for 100 classes is the row of docs/steps.md."""
    steps = (ROOT / "docs/steps.md").read_text(encoding="utf-8")
    official, here = map(float, re.search(rf"^\| {name} \| (\S+) \| (\S+) \|", steps, re.M).groups())
    image, image_there, each, each_there = OF_A_STEP[row]
    assert images * image + 100 * each == pytest.approx(here, rel=0.005)
    assert images * image_there + 100 * each_there == pytest.approx(official, rel=0.005)
