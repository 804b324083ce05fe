"""bench.py tables: runs, training steps and images of a whole benchmark, counted from configs and cards alone.

With them and the FLOPs of a step (`bench.py step`, `vit`), docs/costs.md estimates what a published table takes.
"""

from promptvision.config.families import FAMILIES
from promptvision.data.cards import load_card
from promptvision.data.loader import count_batches
from promptvision.experiment.schedule import steps
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.search import FINAL

COLUMNS = ("row", "runs", "steps", "images", "steps x classes", "images x classes")


def add_options(parser):
    parser.add_argument("--benchmark", default="benchmarks/base_to_new.yaml", help="a file of configs/benchmarks")
    parser.add_argument("--row", nargs="+", default=[], help="rows of the benchmark (default: all)")


def rows(args):
    """Yield one row for each row of the benchmark: sums over the steps of all its runs."""
    cells = load_cells(args.benchmark)
    for name in args.row or dict.fromkeys(cell.run for cell in cells):
        trained = [each for job in plan(cells, "out", [], FAMILIES, [f"RUN={name}"]) for each in runs_of(job)]
        sums = [sum(runs for runs, *_ in trained)]
        sums += [sum(runs * count for runs, count, _, _ in trained)]
        sums += [sum(runs * count * images for runs, count, _, images in trained)]
        sums += [sum(runs * count * classes for runs, count, classes, _ in trained)]
        sums += [sum(runs * count * classes * images for runs, count, classes, images in trained)]
        yield name, *(f"{each:,}" for each in sums)


def runs_of(job):
    """Yield (runs, steps of each, classes, images of a step) of a job: one run, or a search and its final runs."""
    classes, images = sizes(job.cfg)
    yield len(job.search.settings()) if job.search else 1, *step_of(job.cfg, classes, images)
    if job.search:
        more = "DATASET.TRAIN" in FINAL[job.search.protocol]
        images += load_card(job.cfg.DATASET.NAME).counts["val"] if more else 0
        yield len(job.search.seeds), *step_of(job.cfg, classes, images)


def step_of(cfg, classes, images):
    """Return the steps of a run on so many images, its classes, and the images of a step."""
    batch = cfg.OPTIM.BATCH_SIZE * cfg.OPTIM.ACCUMULATE
    return steps(cfg, count_batches(images, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.DROP_LAST)), classes, min(batch, images)


def sizes(cfg):
    """Return the classes and the training images of a run, by its card."""
    card = load_card(cfg.DATASET.NAME)
    classes = {"all": card.classes, "base": (card.classes + 1) // 2, "new": card.classes // 2}[cfg.DATASET.CLASSES]
    found = card.counts["train"] * classes // card.classes
    return classes, min(found, classes * cfg.DATASET.SHOTS) if cfg.DATASET.SHOTS else found
