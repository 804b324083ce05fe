"""A Ray cluster: the connection, and the number of processes that have room on it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from promptvision.errors import InputError, counted

PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""


def connected_ray(address: str) -> Any:
    """Return Ray, connected to the cluster at `address`; InputError if it is not installed or none answers there."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'promptvision[ray]'") from error
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit() and "/" not in host:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from error
    return ray


def actors_for(machines: Sequence[Mapping[str, float]], gpus: float, wanted: int = 0) -> int:
    """Return `wanted` actors, 0 for as many as are sensible, of a CPU and `gpus` GPUs each; InputError without room.

    At least one CPU of the `machines` is left for the tasks that read images: actors that take all would wait for their
    input for good. By default these tasks get a quarter of the CPUs.
    """
    cpus = int(sum(machine.get("CPU", 0) for machine in machines))
    fit = 0
    for machine in machines:
        slots = int(machine.get("GPU", 0) / gpus + 1e-9) if gpus else cpus
        fit += min(int(machine.get("CPU", 0)), slots)
    most = min(fit, cpus - 1)
    each = f"each needs a CPU{f' and {gpus:g} GPUs' if gpus else ''} on one machine, and reading images another CPU"
    has = f"{counted(cpus, 'CPU')} and {sum(machine.get('GPU', 0) for machine in machines):g} GPUs"
    if most < 1:
        raise InputError(f"--ray: the cluster has {has}, which is no room for an actor: {each}")
    if wanted > most:
        raise InputError(f"--actors {wanted}: the cluster has {has}, which is room for {most}: {each}")
    return wanted or min(most, max(1, cpus - max(1, cpus // 4)))
