"""A few steps of a run on some of its images, in a temporary folder, scaled up to the whole run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from yacs.config import CfgNode

from promptvision.engine.device import autocast, peak_memory
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.continual import load_stream
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.experiment import Experiment, build
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.result import describe
from promptvision.experiment.schedule import batches_per_epoch, epochs
from promptvision.sweep.completed import Families
from promptvision.sweep.cost import Cost
from promptvision.sweep.shared_backbone import sharing

STEPS = 6
"""Steps that are timed."""
EPOCH = 4
"""Steps for which there are training images."""
GROWING = ("metrics.jsonl", "events.out.tfevents")
"""Files of a run that grow with every step."""


class Enough(Exception):
    """The steps are done."""


class Few:
    """A loader that ends after the batches of STEPS steps."""

    def __init__(self, loader: Any, accumulate: int):
        self.loader, self.source, self.left = loader, loader.source, STEPS * accumulate

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch until there were enough in all."""
        for batch in self.loader.epoch(epoch, start):
            if not self.left:
                raise Enough
            self.left -= 1
            yield batch


class Noted:
    """Batches that note in `read` whether they were read."""

    def __init__(self, batches: Any):
        self.batches, self.read = batches, False

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self.read = True
        return iter(self.batches)


@dataclass(frozen=True)
class SampleRun(Experiment):
    """An experiment that trains for STEPS steps and keeps what it took in `seconds`."""

    seconds: dict[str, float] = field(default_factory=dict)
    noted: list[Noted] = field(default_factory=list)

    def train_loader(self, first: int) -> Any:
        """Return batches of one view of the images."""
        short = replace(self, cfg=_changed(self.cfg, {"OPTIM.EPOCHS": 1, "OPTIM.ITERATIONS": 0}))
        loader = self.timed("loader", lambda: super(SampleRun, short).train_loader(first))
        return Few(loader, self.cfg.OPTIM.ACCUMULATE)

    def unaugmented(self) -> tuple[Any, Any]:
        """Return training and validation images that note whether they are read."""
        return self._noting(*super().unaugmented())

    def to_prepare(self) -> tuple[Any, Any]:
        """Return what the method prepares on; it notes whether it is read."""
        return self._noting(*super().to_prepare())

    def _noting(self, train: Any, val: Any) -> tuple[Noted, Noted]:
        found = Noted(train), Noted(val)
        self.noted.extend(found)
        return found

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a part of the work, keep its seconds under `name`, and return its result."""
        started, known = time.monotonic(), len(self.noted)
        try:
            return work()
        except Enough:
            return None
        finally:
            self.seconds[name] = time.monotonic() - started
            self.seconds[f"{name} reads"] = any(each.read for each in self.noted[known:])


def measure(cfg: CfgNode, evals: Mapping[str, CfgNode], modules: tuple[tuple[str, str], ...]) -> Cost:
    """Return the cost of a run; `evals`: configs of its later tests, `modules`: names and modules of the families.

    The part is run twice: the first time loads the backbone, which runs that follow one another share, and is slow.
    """
    families = sharing({name: import_module(module) for name, module in modules})
    with tempfile.TemporaryDirectory(prefix="promptvision-") as top:
        for name in ("first", "second"):
            with RunFolder(Path(top, name)) as folder:
                cost = _measure_once(cfg, evals, families, folder)
    return cost


def measure_part(cfg: CfgNode, families: Families) -> Cost:
    """Return the cost of a run by a part of it in this process; image features in CACHE_DIR are taken from there."""
    with tempfile.TemporaryDirectory(prefix="promptvision-") as top, RunFolder(Path(top)) as folder:
        return _measure_once(cfg, {}, families, folder, cfg.CACHE_DIR)


def _measure_once(
    cfg: CfgNode, evals: Mapping[str, CfgNode], families: Families, folder: RunFolder, cache: str | None = None
) -> Cost:
    """Return the cost of a run by a part of it in this folder; `cache`: CACHE_DIR, None for one of its own."""
    own = (cfg.CACHE_DIR and f"{folder.path}-cache") if cache is None else cache
    changes = {"CACHE_DIR": own, "LOG.WANDB": "", "TRAIN.EVAL_EVERY": 0}
    short = _changed(cfg, {**changes, "TRAIN.KEEP": "last", "TRAIN.PATIENCE": 0, "OUTPUT_DIR": str(folder.path)})
    started = time.monotonic()
    data, tasks = _data(short)
    built = build(short, families, folder, False, replace(data, images=_some(data, short)))
    others = [_data(each)[0] for each in evals.values()]
    run = SampleRun(*(getattr(built, each.name) for each in fields(built)))
    run.seconds["start"] = time.monotonic() - started
    if tasks > 1:
        run.method.start_task(0, tasks, ())
    loader = run.timed("test images", lambda: run.check_test_images(decode=True))
    run.timed("prepare", run.prepare)
    run.timed("train", run.train)
    run.timed("finish", run.finish)
    with torch.no_grad(), autocast(run.device, cfg.TRAIN.PRECISION):
        run.timed("predictor", run.method.predictor)
    run.write({}, run.timed("test", lambda: run.test(loader)))
    return _scaled(cfg, run, data, others, tasks)


def _scaled(cfg: CfgNode, run: SampleRun, data: Data, others: Sequence[Data], tasks: int) -> Cost:
    """Return the cost of the whole run from that of a part."""
    split, took, each = cfg.TEST.SPLIT, run.seconds, run.cache.bytes_each if run.cache else 0
    rows = [row["seconds"] for row in read_rows(run.folder.metrics)]
    step = median(later - earlier for earlier, later in pairwise([0.0, *rows])) if rows else 0.0
    tested, trained = (len(getattr(run.data.images, name)) for name in (split, "train"))
    more = len(data.images.train) / max(1, trained)
    batches = batches_per_epoch(cfg, data.images.train)
    of_views = min(cfg.TRAIN.VIEWS or epochs(cfg, batches), epochs(cfg, batches)) if rows else 1
    views = 1 if run.cache is None or run.cfg.INPUT.TRAIN == cfg.INPUT.TEST else of_views
    image = max(0.0, took["test"] - took["predictor"]) / tested
    counts = [len(getattr(other.images, split)) for other in (data, *others)]
    again = (tasks + 1) / 2  # after each task of a stream, the tasks so far are tested
    seconds = took["start"] * (1 + len(others)) + took.get("loader", 0.0) * more * views
    seconds += sum(took[name] * (more if took[f"{name} reads"] else 1) for name in ("prepare", "finish"))
    seconds += sum(again * (took["predictor"] + image * count) for count in counts)
    sizes = {file.name: file.stat().st_size for file in run.folder.path.iterdir() if file.name != "last.ckpt"}
    grown = sum(size for name, size in sizes.items() if name.startswith(GROWING))
    reading = took["test images"] / tested
    seconds += 0.0 if run.cache else reading * counts[0]
    features = f"{cfg.BACKBONE} {transform_of(cfg, run.method)} {cfg.TRAIN.PRECISION}"
    hashes = [describe(cfg, other, run.method)[f"{split}_hash"] for other in (data, *others)]
    shared = {f"{features} {name}": (reading * n, each * n) for name, n in zip(hashes, counts, strict=True)}
    return Cost(
        seconds=seconds,
        step=step,
        batches=batches,
        validation=took["predictor"] + image * len(data.images.val),
        disk=sum(sizes.values()) - grown + (each * len(data.images.train) * views if run.cache else 0),
        disk_per_step=grown / max(1, len(rows)),
        shared=shared if run.cache else {},
        memory=peak_memory(run.device),
    )


def _changed(cfg: CfgNode, changes: Mapping[str, Any]) -> CfgNode:
    """Return a copy of a config with other values."""
    found = cfg.clone()
    found.defrost()
    for key, value in changes.items():
        found.merge_from_list([key, value])
    found.freeze()
    return found


def _data(cfg: CfgNode) -> tuple[Data, int]:
    """Return the data of a run and the number of its tasks."""
    if not (cfg.CONTINUAL.TASKS or cfg.CONTINUAL.DATASETS):
        return load_data(cfg), 1
    data, stream = load_stream(cfg)
    return data, len(stream.tasks)


def _some(data: Data, cfg: CfgNode) -> Any:
    """Return some images of each list, evenly spaced, of the training images also one of each class."""
    train, images = EPOCH * cfg.OPTIM.BATCH_SIZE * cfg.OPTIM.ACCUMULATE, data.images
    found: dict[str, Any] = {}
    for name in ("train", "unlabelled", "val", "test"):
        count = train if name in ("train", "unlabelled") else cfg.TEST.BATCH_SIZE
        items = getattr(images, name)
        first = {item[1]: number for number, item in reversed(list(enumerate(items)))} if name == "train" else {}
        spaced = range(0, len(items), max(1, -(-len(items) // count)))
        found[name] = [items[number] for number in sorted({*spaced, *first.values()})]
    return replace(images, **found)
