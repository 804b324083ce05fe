"""Curves for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path


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
