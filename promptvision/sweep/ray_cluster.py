"""Doing jobs on a Ray cluster: a job whose machine dies is done on another, and only the driver keeps the files."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from promptvision.atomic import write_atomically
from promptvision.engine.cluster import connected_ray
from promptvision.errors import InputError
from promptvision.sweep.completed import Families
from promptvision.sweep.jobs import Job, Outcome, do
from promptvision.sweep.local import Event, Queue

LAST = "result.json", "search.json"
"""Files of a finished job, written after all others."""
RETRIES = 5
"""Number of times that a job starts again because its machine or process died."""
Files = dict[str, bytes]


def do_on_cluster(
    jobs: Sequence[Job], families: Families, address: str, gpus: float = 0.0
) -> Generator[Event, None, None]:
    """Do all jobs on the cluster at `address` ("auto", "HOST:PORT", or "local" for one on this machine), each on one
    core and `gpus` GPUs (or a share of one).

    A job works in a folder of its own machine; its files are copied to OUTPUT_DIR here when it finishes. Every machine
    needs the data, and weights that are files, at the same paths, and the same promptvision.
    """
    ray = connected_ray(address)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(do_elsewhere)
    queue, modules = Queue(jobs), tuple((name, family.__name__) for name, family in families.items())
    running: dict[Any, int] = {}
    try:
        while True:
            while (number := queue.next()) is not None:
                running[remote.remote(jobs[number], modules)] = number
                yield Event(number)
            if not running:
                return
            for finished in ray.wait(list(running))[0]:
                number = running.pop(finished)
                yield queue.finished(number, _bring_home(ray, finished, jobs[number]))
    finally:
        for left in running:
            ray.cancel(left, force=True)
        ray.shutdown()


def _bring_home(ray: Any, finished: Any, job: Job) -> Outcome:
    """Write the files of a job to OUTPUT_DIR, and return its outcome."""
    try:
        outcome, files = ray.get(finished)
    except ray.exceptions.RayError as error:
        return Outcome([], [f"{job.title}: {' '.join(str(error).split())[:300]}"])
    path = Path(job.cfg.OUTPUT_DIR)
    try:
        for name in sorted(files, key=lambda name: Path(name).name in LAST):
            path = Path(job.cfg.OUTPUT_DIR, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, files[name])
    except (OSError, InputError) as error:
        sentence = str(error) if isinstance(error, InputError) else f"{path} cannot be written: {error.strerror}"
        lost = [(f"{job.name}, seed {result['seed']}", result) for result in outcome.results]
        return Outcome(outcome.results, [*outcome.failures, f"{job.title}: {sentence}"], lost)
    return outcome


def do_elsewhere(job: Job, modules: tuple[tuple[str, str], ...]) -> tuple[Outcome, Files]:
    """Do a job on a machine of the cluster; return its outcome and its files."""
    with tempfile.TemporaryDirectory(prefix="promptvision-") as folder:
        outcome = do(job, _shared_families(modules), folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
        return outcome, {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@cache
def _shared_families(modules: tuple[tuple[str, str], ...]) -> Families:
    """Return the families of this process, which share backbones among its jobs."""
    from promptvision.sweep.shared_backbone import sharing

    return sharing({name: import_module(module) for name, module in modules})
