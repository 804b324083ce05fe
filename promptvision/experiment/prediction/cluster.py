"""Predictions on a Ray cluster: tasks read images, actors hold the method, and the driver writes the parts."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from promptvision.data.transforms import Transform
from promptvision.engine.cluster import actors_for, connected_ray
from promptvision.engine.progress import Meter
from promptvision.errors import InputError, counted
from promptvision.experiment.build import Families
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.predict import Prediction, Predictor, joined, read_batches
from promptvision.experiment.prediction.inputs import ImageList, expanded, shown_entry
from promptvision.experiment.prediction.output import Output, planned
from promptvision.experiment.run import load_run

BLOCK = 32 << 20
"""Bytes of images that a task gives to an actor at once, or a batch if that has more."""
READS = 1000
"""Parts that a process reads before a new one replaces it. Actors cannot have this setting: Ray merges tasks into the
actors of the same settings, which would then wait for their own reading."""
Columns = dict[str, Any]
"""A batch of one row, as Ray Data passes it: arrays of one element."""


@dataclass(frozen=True)
class Cluster:
    """The address of a Ray cluster, GPUs (or the share of one) of each actor, and their number, 0 to choose it."""

    address: str
    gpus: float = 0.0
    actors: int = 0


@dataclass(frozen=True)
class Read:
    """The task that reads a part: rows that hold a batch of pixels each, as loaders without Ray make them.

    `root`: the folder of the call, which relative paths begin in.
    """

    transform: Transform
    size: int
    root: str

    def __call__(self, part: Columns) -> Iterator[Columns]:
        """Yield (number of the part, first image, images of the part, batch)."""
        with suppress(OSError):  # a machine without the folder has none of its images
            os.chdir(self.root)
        images = ImageList(expanded(pickle.loads(part["entries"][0])))
        for batch in read_batches(images, self.transform, self.size, [range(len(images))]):
            paths = [shown_entry(images.entry(number)) for number in batch.numbers]
            data = pickle.dumps((batch.pixels, batch.faults, paths), protocol=5)
            yield row(part["part"][0], batch.numbers.start, len(images), data)


class Classify:
    """The actor: a method that is loaded once and predicts batch after batch."""

    def __init__(self, cfg: CfgNode, modules: Mapping[str, str], run: str, plan: Mapping[str, Any]):
        families = {name: import_module(module) for name, module in modules.items()}
        self.predictor, self.plan = Predictor(cfg, planned(load_run(cfg, families, run), plan)), plan

    def __call__(self, batch: Columns) -> Columns:
        """Return the predictions of a batch in place of its pixels."""
        pixels, faults, paths = pickle.loads(batch["data"][0])
        top, ours = self.plan["top"], self.predictor
        known = [] if pixels is None else ours.most_likely(ours.probabilities(pixels), top)
        found = joined(paths, known, faults, self.plan.get("threshold", 0.0))
        return row(batch["part"][0], batch["first"][0], batch["of"][0], pickle.dumps(found))


def row(part: int, first: int, of: int, data: bytes) -> Columns:
    """Return a batch of one row; `data` is pickled by a process of this cluster for another one."""
    return {"part": [part], "first": [first], "of": [of], "data": np.array([data], dtype=object)}


def predict_on_cluster(
    cfg: CfgNode, families: Families, run: Path, images: ImageList, output: Output, cluster: Cluster
) -> Iterator[list[Prediction]]:
    """Write the missing parts of an output, and yield the predictions of each.

    A part is a shard, or a block of other images (`ImageList.parts`). Every machine needs the images and the run at
    the same paths. What a process that dies has not finished is done again by another one.
    """
    parts = images.parts()
    todo = output.missing(len(parts))
    local = cfg.clone()
    local.defrost()
    local.TRAIN.DEVICE = "cpu"
    method = planned(load_run(local, families, run), output.plan)
    read = Read(transform_of(cfg, method), cfg.TEST.BATCH_SIZE, os.getcwd())
    local.TRAIN.DEVICE = "cuda" if cluster.gpus else "cpu"
    if not todo:
        return
    try:
        import ray.data  # noqa: F401 - needs more packages than Ray itself
    except ImportError as error:
        raise InputError(f"--ray needs Ray Data: pip install 'promptvision[ray]' ({error})") from error
    ray = connected_ray(cluster.address)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        actors = actors_for(machines, cluster.gpus, cluster.actors)
        modules = {name: family.__name__ for name, family in families.items()}
        entries = ([images.entry(number) for number in parts[part]] for part in todo)
        blocks = [{"part": part, "entries": pickle.dumps(own)} for part, own in zip(todo, entries, strict=True)]
        classify = {"fn_constructor_args": (local, modules, os.path.abspath(run), output.plan)}
        data = _quiet(ray).from_items(blocks, override_num_blocks=len(blocks))
        data = data.map_batches(read, batch_size=1, num_cpus=1, max_calls=READS)
        pool = ray.data.ActorPoolStrategy(size=actors)
        data = data.map_batches(Classify, batch_size=1, compute=pool, num_cpus=1, num_gpus=cluster.gpus, **classify)
        title = f"predicting with {counted(actors, 'actor')}"
        with Meter(title, len(parts), "part", done=len(parts) - len(todo)) as meter:
            yield from _complete(data.iter_rows(), output, todo, meter)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        raise InputError(str(cause or error).strip().splitlines()[-1]) from error
    finally:
        ray.shutdown()


def _quiet(ray: Any) -> Any:
    """Return ray.data without progress bars and notes of its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.target_max_block_size = False, BLOCK
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


def _complete(rows: Any, output: Output, todo: list[int], meter: Meter) -> Iterator[list[Prediction]]:
    """Write each part when all of its images are predicted; a batch that comes twice counts once."""
    waiting: dict[int, dict[int, list[Prediction]]] = {part: {} for part in todo}
    shares: dict[int, float] = {}
    images = 0
    for each in rows:
        part, found = each["part"], pickle.loads(each["data"])
        if part not in waiting or each["first"] in waiting[part]:
            continue
        waiting[part][each["first"]] = found
        images += len(found)
        shares[part] = sum(map(len, waiting[part].values())) / each["of"]
        if shares[part] == 1:
            predictions = [one for _, batch in sorted(waiting.pop(part).items()) for one in batch]
            output.write(part, predictions)
            yield predictions
        meter.update(meter.first + sum(shares.values()), details=f" ({counted(images, 'image')})")
    if waiting:
        raise InputError(f"the cluster lost {counted(len(waiting), 'part')}: --resume predicts them again")
