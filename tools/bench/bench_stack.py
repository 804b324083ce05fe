"""bench.py stack: the runs of a benchmark one after the other, and trained together (tools/sweep.py --stack).

CPU seconds are those of this process for all runs of a row, from reading the data to result.json; backbone and image
features were loaded and cached before. Kernels are counted in one step of a run: loss, gradients and update.
"""

import logging
import tempfile
import time
from pathlib import Path

import torch
from bench_text import class_names
from measure import kernels

import coop
from promptvision.backbones import load_clip
from promptvision.cli import positive
from promptvision.config.families import FAMILIES
from promptvision.engine.optim import build_optimizer
from promptvision.engine.step import Step
from promptvision.engine.together.gradients import Learner, Wanted, compute
from promptvision.errors import InputError, unknown
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.local import do_here
from promptvision.sweep.shared_backbone import sharing

COLUMNS = ("row", "runs", "CPU s, alone", "together", "share", "kernels of a run's step, alone", "together")
ROWS = ["CoOp", "KgCoOp", "TaskRes", "Tip-Adapter-F", "linear probe"]


def add_options(parser):
    parser.add_argument("--config", default="configs/benchmarks/embedded_few_shot.yaml", help="a benchmark")
    parser.add_argument("--task", default="world_textures", metavar="NAME", help="its dataset")
    parser.add_argument("--row", nargs="+", default=ROWS, metavar="NAME", help="rows of the benchmark")
    parser.add_argument("--stack", type=positive, default=15, help="runs that train together at most")
    parser.add_argument("--names", type=positive, default=100, help="ImageNet names whose kernels are counted")


def rows(args):
    """Yield one row per method with the seconds of all its runs, the sum, and the kernels of CoOp at CLIP's sizes."""
    check(args)
    logging.getLogger("promptvision").propagate = False  # every run sets its own level
    totals = [0.0, 0.0]
    shared = sharing(FAMILIES)
    for name in args.row if args.repeats else ():
        alone, together, count = timed(args, name, shared)
        totals = [totals[0] + alone, totals[1] + together]
        yield name, str(count), f"{alone:.1f}", f"{together:.1f}", f"{together / alone:.0%}", "", ""
    if totals[0]:
        yield "all", "", f"{totals[0]:.1f}", f"{totals[1]:.1f}", f"{totals[1] / totals[0]:.0%}", "", ""
    steps = coop_steps(args.names, args.stack)
    alone = kernels(lambda: take(steps[:1]))
    together = kernels(lambda: take(steps)) / len(steps)
    yield f"CoOp, 12 layers, {args.names} names", str(len(steps)), "", "", "", str(alone), f"{together:.0f}"


def check(args):
    """Raise InputError for rows, or a dataset, that the benchmark does not have."""
    cells = load_cells(args.config)
    known = {"row": {cell.run for cell in cells}, "task": {cell.overrides.get("DATASET.NAME", "") for cell in cells}}
    for kind, name in (*(("row", row) for row in args.row), ("task", args.task)):
        if name not in known[kind]:
            raise unknown(kind, name, known[kind])


def timed(args, name, families):
    """Return CPU seconds of the runs of a row on one dataset, alone and together, and their number."""
    cells, only = load_cells(args.config), [f"RUN={name}", f"DATASET.NAME={args.task}"]
    with tempfile.TemporaryDirectory() as top:
        planned = {way: plan(cells, Path(top, way), [], families, only) for way in ("0", "1", "2")}
        took = []
        for way, size in (("0", args.stack), ("1", 1), ("2", args.stack)):  # the first fills the caches
            started = time.process_time()
            for event in do_here(planned[way], families, size):
                if event.outcome and event.outcome.failures:
                    raise InputError("; ".join(event.outcome.failures))
            took.append(time.process_time() - started)
    return took[1], took[2], len(planned["1"])


def coop_steps(names, count):
    """Return `count` steps of CoOp with other seeds, on random weights of ViT-B/16's text tower."""
    clip = load_clip("ViT-B-16-quickgelu", "none")
    steps = []
    for seed in range(count):
        torch.manual_seed(seed)
        method = coop.build("coop", clip, class_names(names), n_ctx=16)
        optimizer = build_optimizer("sgd", method.named_parameters(), 0.002, 5e-4)
        steps.append(
            Step(method, optimizer, torch.amp.GradScaler("cpu", enabled=False), torch.device("cpu"), "fp32", 0)
        )
    take(steps[:1])  # the constants of the text tower are computed once per run
    return steps


def take(steps):
    """Take one step in each run."""
    batch = torch.randn(32, 512), torch.arange(32) % 3
    if len(steps) == 1:
        steps[0].take([batch])
        return
    compute([Wanted(number, step, Learner(step.method), batch, 1.0) for number, step in enumerate(steps)])
    for step in steps:
        step.optimizer.step()
