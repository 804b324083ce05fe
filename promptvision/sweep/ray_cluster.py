"""Doing jobs on a Ray cluster: a job whose machine dies is done on another, and the driver alone keeps the files."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from promptvision.atomic import write_atomically
from promptvision.errors import InputError
from promptvision.experiment.build import Families
from promptvision.sweep.jobs import Job, Outcome, do
from promptvision.sweep.local import Event, Queue, modules
from promptvision.sweep.shared_backbone import sharing

LAST = "result.json", "search.json"
"""Files that tell that a job is finished, written after all others."""
RETRIES = 5
"""How often a job is begun anew because its machine or process died."""
PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""
Files = dict[str, bytes]


def do_on_cluster(jobs: Sequence[Job], families: Families, address: str, gpus: float = 0.0) -> Iterator[Event]:
    """All jobs on the cluster at `address` ("auto", "HOST:PORT", or "local" for one on this machine), each on one core
    and `gpus` GPUs (or a share of one).

    A job works in a folder of its own machine; its files come back when it ends and are put in OUTPUT_DIR here. The
    data, and weights that are files, must be found at the same paths on every machine, and the same promptvision.
    """
    ray = _connect(address)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_do_elsewhere)
    queue, names = Queue(jobs), {name: family.__name__ for name, family in families.items()}
    running: dict[Any, int] = {}
    try:
        while True:
            while (number := queue.next()) is not None:
                running[remote.remote(jobs[number], names)] = number
                yield Event(number)
            if not running:
                return
            for ended in ray.wait(list(running))[0]:
                number = running.pop(ended)
                yield queue.ended(number, _bring_home(ray, ended, jobs[number]))
    finally:
        for left in running:
            ray.cancel(left, force=True)
        ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'promptvision[ray]'") from error
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit() and "/" not in host:  # Ray itself asks for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from error
    return ray


def _bring_home(ray: Any, ended: Any, job: Job) -> Outcome:
    """Put the files of a job where they belong, those that tell that it is finished last."""
    try:
        outcome, files = ray.get(ended)
    except ray.exceptions.RayError as error:
        return Outcome([], [f"{job.title}: {' '.join(str(error).split())[:300]}"])
    for name in sorted(files, key=lambda name: Path(name).name in LAST):
        path = Path(job.cfg.OUTPUT_DIR, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, files[name])
    return outcome


def _do_elsewhere(job: Job, names: dict[str, str]) -> tuple[Outcome, Files]:
    """On a machine of the cluster: the outcome of a job, and the files it leaves."""
    with tempfile.TemporaryDirectory(prefix="promptvision-") as folder:
        outcome = do(job, _shared(tuple(names.items())), folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
        return outcome, {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@cache
def _shared(names: tuple[tuple[str, str], ...]) -> Families:
    """The families of this process, whose jobs come one after the other."""
    return sharing(modules(dict(names)))
