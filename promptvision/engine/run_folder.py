"""The run folder: everything that one run writes."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from promptvision.atomic import locked, write_atomically, write_result
from promptvision.engine.earlier_run import holds_run
from promptvision.engine.loggers import Events, start_wandb
from promptvision.engine.metrics_file import read_rows, scalars
from promptvision.engine.progress import PlainFormatter
from promptvision.errors import InputError

LOG = logging.getLogger("promptvision")
OTHERS = ("eval-*.json", "eval-*.csv", "events.out.tfevents.*", "matrix.png", "prompt_choices.png", "stream.json")
"""Further files of a run, which no checkpoint refers to."""


class RunFolder:
    """OUTPUT_DIR of one run, locked against a second one; use it in a `with` statement.

    `write_config` starts a new run and removes an earlier one, except its log. With `resume`, an earlier run continues
    if it has a checkpoint; its config is replaced once `fit` has checked that the checkpoint belongs to this run.
    `overwrite`: True if the run may replace another one, which `experiment.run` refuses otherwise.
    `wait`: wait for another process that holds the folder.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False, wait: bool = False):
        self.path, self.resume, self.overwrite = Path(path), resume and not overwrite, overwrite
        self.config, self.metrics = self.path / "config.yaml", self.path / "metrics.jsonl"
        self.result, self.learned = self.path / "result.json", self.path / "learned.safetensors"
        self.checkpoint, self.best = self.path / "last.ckpt", self.path / "best.safetensors"
        self.carried = self.path / "carried.ckpt"
        self.predictions, self.page = self.path / "predictions.csv", self.path / "run.html"
        self.log = self.path / "log.txt"
        shown = self.page, self.result, self.predictions
        self.files = self.config, *shown, self.checkpoint, self.carried, self.best, self.learned, self.metrics
        """Files of a run in deletion order: no remaining file refers to one already deleted."""
        self._rows: FileIO | None = None
        self._events: Events | None = None
        self._wandb: Any = None
        self._purge_from: int | None = None
        self._text = b""
        self._lock = ExitStack()
        self._open(wait)

    def _open(self, wait: bool) -> None:
        """Create the folder, log to it, lock it, and remove the half-written files of a killed run."""
        for each in (self.log, *self.path.glob("task_[0-9]*")):  # a stranger's folder must not write elsewhere
            if each.is_symlink() or each.is_fifo():
                raise InputError(
                    f"OUTPUT_DIR {self.path}: {each.name} is a link or pipe, which no run wrote: remove it"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._handler = LogFile(self.log, encoding="utf-8")
        except OSError as error:
            raise InputError(f"OUTPUT_DIR {self.path} cannot be written: {error.strerror}") from error
        self._handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        own = threading.get_ident()  # the lines of a run, not those of runs in other threads (engine/together/stack.py)
        self._handler.addFilter(lambda record: record.thread == own)
        LOG.addHandler(self._handler)
        LOG.setLevel(logging.INFO)
        busy = f"OUTPUT_DIR {self.path} is in use by another run"
        busy += ": waiting for it" if wait else "; wait for it or choose another folder"
        try:
            self._lock.enter_context(locked(self.path / ".lock", busy, wait=wait))
        except InputError:
            self.close()
            raise
        except OSError as error:
            LOG.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)
        for half_written in (rest for file in self.files for rest in self.path.glob(f".{file.name}.*")):
            with suppress(OSError):
                half_written.unlink()

    def write_config(self, text: str) -> None:
        """Start the run: write config.yaml and remove an earlier run with its evaluations and tasks, unless that one is
        resumed."""
        self._text = text.encode()
        if self.resume and self.checkpoint.exists():
            return
        for task in filter(holds_run, self.path.glob("task_[0-9]*")):
            self._remove(task, *self.files, self.log, ".lock")
            with suppress(OSError):  # a folder that holds files of the user stays
                task.rmdir()
        self._remove(self.path, *self.files[1:], *([] if self._wandb else ["wandb.id"]))
        write_atomically(self.config, self._text)

    def _remove(self, folder: Path, *names: str | Path) -> None:
        """Remove these files of a run, and its OTHERS, from a folder."""
        for pattern in (*(Path(name).name for name in names), *OTHERS):
            for file in folder.glob(pattern):
                with writing(file):
                    file.unlink(missing_ok=True)

    def replace_config(self) -> None:
        """Write the config of a resumed run, if it differs in what is evaluated or kept, and remove the old result."""
        if self._text and self.config.exists() and self.config.read_bytes() != self._text:
            self.result.unlink(missing_ok=True)
            write_atomically(self.config, self._text)

    def connect_wandb(self, project: str, config: Mapping[str, Any]) -> None:
        """Send rows and result to Weights & Biases too; a resumed run continues there.

        Call it before `write_config`, as it may raise InputError.
        """
        file = self.path / "wandb.id"
        resumes = self.resume and self.checkpoint.exists() and file.exists()
        number = file.read_text(encoding="utf-8") if resumes else secrets.token_hex(8)
        self._wandb = start_wandb(project, self.path, number, config)
        write_atomically(file, number.encode())
        LOG.info("Curves also go to %s", self.path / "wandb" if self._wandb.offline else self._wandb.url)

    def row(self, **values: Any) -> None:
        """Append a line to metrics.jsonl, at once on disk, and send its numbers to TensorBoard at `step`."""
        line, step, curves = json.dumps(values).encode() + b"\n", values.get("step", 0), scalars(values)
        with writing(self.metrics):
            self._rows = self._rows or self.metrics.open("ab", buffering=0)
            while line:
                line = line[self._rows.write(line) :]
        with writing(self.path / "events.out.tfevents"):
            self._events = self._events or Events(self.path, self._purge_from)
            points = [{"tag": name, "simple_value": value} for name, value in curves]
            self._events.write(step=step, summary={"value": points})
        if self._wandb:  # drops the steps that it already knows
            self._wandb.log(dict(curves), step=step)

    def sync(self) -> None:
        """Make the rows so far survive a power failure, before a checkpoint refers to them."""
        if self._rows:
            with writing(self.metrics):
                os.fsync(self._rows.fileno())

    def forget_from(self, step: int, epoch: int | None = None) -> None:
        """Drop the rows that a resumed run writes again: those from `step` on, and validations from `epoch` on, which
        come after the last step of their epoch."""
        kept = [row for row in read_rows(self.metrics) if row["step"] < step]
        lost = step - len({row["step"] for row in kept if "loss" in row}) if self.metrics.exists() else 0
        if lost > 0:
            LOG.warning("%s lacks the rows of %d of the %d steps before the checkpoint", self.metrics, lost, step)
        if epoch is not None:
            kept = [row for row in kept if "val" not in row or row.get("epoch", 0) < epoch]
        if self._rows:
            self._rows.close()
        self._rows, self._purge_from = None, step
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json; raise NotWritten, which holds the result, if that fails."""
        write_result(self.result, result)
        if self._wandb:
            self._wandb.summary.update(dict(scalars(result)))

    def close(self, failed: bool = False) -> None:
        """Close the files, wait for Weights & Biases, and unlock the folder."""
        LOG.removeHandler(self._handler)
        for file in (self._handler, self._rows, self._events):
            if file:
                with suppress(OSError):  # a full disk was reported when it was written to
                    file.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(failed))
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(failed=error[0] is not None)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


class LogFile(logging.FileHandler):
    """The handler of log.txt; on a full disk a line appears on the terminal only, without a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore the error."""
