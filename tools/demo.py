"""The main job on the embedded data, start to end: python tools/demo.py --output out/demo

Finished runs are kept: a demo that was stopped goes on where it was.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from families import FAMILIES
from rich.console import Console

from promptvision.config import load_config
from promptvision.engine.log import log_to_terminal
from promptvision.errors import one_sentence
from promptvision.report.curves import few_shot_curve
from promptvision.report.tables import seeds_table
from promptvision.runs import once

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHOTS = (1, 2, 4, 8, 16)
TITLE = "Backgrounds of the embedded world"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for the runs, table and curve")
    parser.add_argument("--seeds", type=int, default=3, help="how often each learned method is trained")
    return parser.parse_args()


def plan(seeds):
    """(name of the cell, config, overrides) of every run."""
    yield "zero-shot CLIP", "coop/embedded_zero_shot.yaml", []
    for shots in SHOTS:
        for seed in seeds:
            yield f"CoOp, {shots} per class", "coop/embedded.yaml", ["DATASET.SHOTS", shots, "SEED", seed]
    for seed in seeds:
        yield "linear, location", "vpt/embedded_linear.yaml", ["SEED", seed]
        yield "VPT-deep, location", "vpt/embedded.yaml", ["SEED", seed]


def main():
    args = arguments()
    log_to_terminal()
    console = Console()
    runs = list(plan(range(1, args.seeds + 1)))
    cells = defaultdict(list)
    for number, (name, config, overrides) in enumerate(runs, 1):
        folder = args.output / f"{number:02d}"
        console.print(f"[{number}/{len(runs)}] {name} {' '.join(map(str, overrides))}", highlight=False)
        cfg = load_config(CONFIGS / config, [*overrides, "OUTPUT_DIR", str(folder)], FAMILIES)
        cells[name].append(once(cfg, FAMILIES))
    console.print(seeds_table(cells, "Embedded world: mean and deviation over seeds"))
    curve = {shots: [result["accuracy"] for result in cells[f"CoOp, {shots} per class"]] for shots in SHOTS}
    level = cells["zero-shot CLIP"][0]["accuracy"]
    drawn = few_shot_curve({"CoOp, M = 16": curve}, {"zero-shot CLIP": level}, TITLE, args.output / "few_shot.png")
    console.print(f"few-shot curve: {' '.join(map(str, drawn))}", highlight=False)


if __name__ == "__main__":
    with one_sentence():
        main()
