"""CPU seconds of planning a sweep: the configs of all its runs and tests, and which of them are finished.

Nothing runs; the files of finished runs are made in a folder that is deleted afterwards.
"""

import json
import tempfile
import time
from pathlib import Path

import yaml

from promptvision.atomic import file_hash
from promptvision.cli import whole
from promptvision.config import dump
from promptvision.config.families import FAMILIES
from promptvision.config.files import config_folder
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.completed import config_hash
from promptvision.sweep.jobs import done, plan, refuse_others

ROWS = {"CoOp": "coop/vit_b16_ctxv1.yaml", "MaPLe": "coop/maple_vit_b16_c2_ep5_batch4_2ctx.yaml"}
SETS = ("dtd", "eurosat", "food101", "ucf101")


def add_options(parser):
    parser.add_argument("--cells", type=whole(20, 20), default=1000, help="runs and tests, a multiple of 20")


def benchmark(rates, seeds, evals):
    """Return both rows with so many learning rates and seeds, each run tested again on so many datasets."""
    return {
        "RUNS": {name: {"CONFIG": str(config_folder() / config)} for name, config in ROWS.items()},
        "GRID": {"OPTIM.LR": [0.001 * number for number in range(1, rates + 1)]},
        "SEEDS": list(range(1, seeds + 1)),
        "EVAL": {name: {"DATASET.NAME": name} for name in SETS[:evals]},
    }


def planned(file, output):
    """Return the jobs of a benchmark, how many of them are finished, and the CPU seconds that finding out took."""
    start = time.process_time()
    jobs = plan(load_cells(file), output, [], FAMILIES)
    refuse_others(jobs)
    finished = sum(done(job) is not None for job in jobs)
    return jobs, finished, time.process_time() - start


def finish(jobs):
    """Write the files by which runs and tests count as finished."""
    for job in jobs:
        folder = Path(job.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(job.cfg))
        (folder / "result.json").write_text(json.dumps({"accuracy": 1.0}))
        (folder / "learned.safetensors").write_bytes(b"")
        run = file_hash(folder / "learned.safetensors")
        for name, cfg in job.evals.items():
            (folder / f"eval-{name}.json").write_text(json.dumps({"config_hash": config_hash(cfg), "run_hash": run}))


def rows(args):
    """Yield one row for each kind of grid, before its runs and after them."""
    kinds = {
        "one run a config": benchmark(args.cells // 2, 1, 0),
        "2 seeds, 4 tests a run": benchmark(args.cells // 20, 2, 4),
    }
    for name, content in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            file, output = Path(folder, "benchmark.yaml"), Path(folder, "out")
            file.write_text(yaml.safe_dump(content))
            jobs, finished, seconds = planned(file, output)
            yield name, str(sum(job.runs for job in jobs)), f"{finished} of {len(jobs)}", f"{seconds:.2f}"
            finish(jobs)
            jobs, finished, seconds = planned(file, output)
            yield name, str(sum(job.runs for job in jobs)), f"{finished} of {len(jobs)}", f"{seconds:.2f}"


COLUMNS = ("grid", "runs and tests", "finished", "CPU s")
