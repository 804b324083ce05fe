"""Curves for TensorBoard, and for Weights & Biases."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvision.errors import InputError


class Events:
    """A file of scalars that TensorBoard reads, written at once; OSError where it cannot be.

    TensorBoard's own writer does so in a thread, whose errors reach the terminal as a traceback and the run later or
    never. `purge`: the step from which on earlier files of the folder are out of date, None for none.
    """

    def __init__(self, folder: Path, purge: int | None = None):
        from tensorboard.compat.proto import event_pb2  # half a second, which only training needs to spend
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2", step=purge or 0)
        if purge is not None:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge, session_log=started)

    def add(self, values: list[tuple[str, float]], step: int) -> None:
        """The values of curves at a step."""
        self._write(step=step, summary={"value": [{"tag": name, "simple_value": value} for name, value in values]})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **facts: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **facts).SerializeToString())
        self._records.flush()


class WeightsAndBiases:
    """A run in a project at Weights & Biases, of the name and with the files of `folder`; one of the same `number` is
    gone on with.

    Where it goes is the package's affair: to wandb.ai, to a server of one's own, or with WANDB_MODE=offline no
    further than the folder. InputError without the package, or where it is not let in.
    """

    def __init__(self, project: str, folder: Path, number: str, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise InputError("LOG.WANDB needs Weights & Biases: pip install 'promptvision[wandb]'") from error
        settings = wandb.Settings(silent=True, console="off")
        known = {"project": project, "name": folder.resolve().name, "id": number, "dir": str(folder)}
        try:
            self._run = wandb.init(**known, config=dict(config), resume="allow", settings=settings)
        except wandb.errors.Error as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise InputError(f"LOG.WANDB {project}: {reason}; WANDB_MODE=offline keeps the run here") from error
        self.place = str(folder / "wandb") if self._run.offline else self._run.url

    def add(self, values: list[tuple[str, float]], step: int) -> None:
        """The values of curves at a step; those of earlier steps than the last are known already."""
        self._run.log(dict(values), step=step)

    def summarise(self, values: list[tuple[str, float]]) -> None:
        """What the run ended with."""
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """End the run, and wait until everything is where it goes."""
        self._run.finish(exit_code=int(failed))
