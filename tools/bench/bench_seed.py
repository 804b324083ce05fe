"""bench.py seed: the random generators before each step, seeded directly and by `torch.manual_seed`."""

import torch
from measure import medians

from promptvision.cli import positive
from promptvision.engine import step

COLUMNS = ("way", "microseconds", "less")


def add_options(parser):
    parser.add_argument("--steps", type=positive, default=2000, help="seedings of each measurement")


def rows(args):
    """Yield one row per way; both seed all generators, and differ only in how torch's are reached."""
    direct = step.seed_torch

    def seed_by(way):
        step.seed_torch = way
        for number in range(args.steps):
            step.seed_all(1, number)

    try:
        ways = {"torch.manual_seed": torch.manual_seed, "directly": direct}
        took = medians({name: lambda way=way: seed_by(way) for name, way in ways.items()}, args.repeats, args.device)
    finally:
        step.seed_torch = direct
    for name, seconds in took.items():
        yield name, f"{1e6 * seconds / args.steps:.0f}", f"{took['torch.manual_seed'] / seconds:.1f}x"
