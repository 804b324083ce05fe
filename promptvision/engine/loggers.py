"""Curves for TensorBoard and for Weights & Biases."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvision.errors import InputError


class Events:
    """A file of scalars that TensorBoard reads, written at once; OSError where it cannot be written.

    TensorBoard's own writer works in a thread, whose errors reach the terminal as a traceback and the run later or
    never. `purge`: the step from which on earlier files of the folder are out of date, None for none.
    """

    def __init__(self, folder: Path, purge: int | None = None):
        from tensorboard.compat.proto import event_pb2  # takes half a second, which only training needs to spend
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")  # stays open: a folder that is gone for a moment does not end the run
        self._records = RecordWriter(self._file)
        self.write(file_version="brain.Event:2", step=purge or 0)
        if purge is not None:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self.write(step=purge, session_log=started)

    def write(self, **facts: object) -> None:
        """Write one event, its fields as in TensorBoard's event.proto."""
        self._records.write(self._event(wall_time=time.time(), **facts).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def start_wandb(project: str, folder: Path, number: str, config: Mapping[str, Any]) -> Any:
    """Start a run at Weights & Biases with the name and files of `folder`, or resume the one of the same `number`.

    The package decides where it goes: to wandb.ai, to your own server, or with WANDB_MODE=offline no further than the
    folder. InputError if the package is missing or its login fails.
    """
    try:
        import wandb
    except ImportError as error:
        raise InputError("LOG.WANDB needs Weights & Biases: pip install 'promptvision[wandb]'") from error
    settings = wandb.Settings(silent=True, console="off")
    known = {"project": project, "name": folder.resolve().name, "id": number, "dir": str(folder)}
    try:
        return wandb.init(**known, config=dict(config), resume="allow", settings=settings)
    except wandb.errors.Error as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"LOG.WANDB {project}: {reason}; WANDB_MODE=offline keeps the run here") from error
