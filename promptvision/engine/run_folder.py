"""The run folder: everything that one run leaves behind."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from promptvision.atomic import locked, write_atomically, write_json
from promptvision.engine.loggers import Events, WeightsAndBiases
from promptvision.engine.metrics_file import read_rows, scalars
from promptvision.errors import InputError

LOG = logging.getLogger("promptvision")


def log_to_terminal() -> None:
    """Show what the library tells on the terminal, beside progress bars, and nowhere else."""
    if not any(isinstance(handler, RichHandler) for handler in LOG.handlers):
        LOG.addHandler(RichHandler(console=Console(stderr=True), show_path=False))
    LOG.propagate = False


class RunFolder:
    """OUTPUT_DIR of one run, locked against a second one; use it in a `with` statement.

    An earlier run in the folder is removed, but for its log, when `write_config` begins the new one; with `resume`
    it goes on if there is a checkpoint, and its config gives way when `fit` has found the checkpoint to be of this run.
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        self.path, self.resume = Path(path), resume
        self.config, self.metrics = self.path / "config.yaml", self.path / "metrics.jsonl"
        self.result, self.learned = self.path / "result.json", self.path / "learned.safetensors"
        self.checkpoint, self.log = self.path / "last.ckpt", self.path / "log.txt"
        self.best = self.path / "best.safetensors"
        self._rows: FileIO | None = None
        self._events: Events | None = None
        self._online: WeightsAndBiases | None = None
        self._purge_from: int | None = None
        self._text = b""
        self._lock = ExitStack()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._handler = LogFile(self.log, encoding="utf-8")
        except OSError as error:
            raise InputError(f"OUTPUT_DIR {self.path} cannot be written: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(self._handler)
        LOG.setLevel(logging.INFO)
        self._acquire()
        self._sweep()

    def write_config(self, text: str) -> None:
        """Begin the run: config.yaml, and nothing of an earlier run unless it is resumed."""
        self._text = text.encode()
        if self.resume and self.checkpoint.exists():
            return
        with self._writing(self.path):
            for file in [*self._files()[1:], *self.path.glob("events.out.tfevents.*")]:
                file.unlink(missing_ok=True)
        write_atomically(self.config, self._text)

    def follow_online(self, project: str, config: Mapping[str, Any]) -> None:
        """From now on rows and result also go to Weights & Biases; a run that goes on does so there. To be called
        before `write_config`, as it may raise InputError."""
        place = self.path / "wandb.id"
        goes_on = self.resume and self.checkpoint.exists() and place.exists()
        number = place.read_text(encoding="utf-8") if goes_on else secrets.token_hex(8)
        self._online = WeightsAndBiases(project, self.path, number, config)
        write_atomically(place, number.encode())
        LOG.info("curves also go to %s", self._online.place)

    def go_on(self) -> None:
        """The checkpoint is of this run: where its config differs in what is evaluated or kept, it is the new one."""
        if self._text and self.config.exists() and self.config.read_bytes() != self._text:
            self.result.unlink(missing_ok=True)
            write_atomically(self.config, self._text)

    def row(self, **values: Any) -> None:
        """One line of metrics.jsonl, at once on disk; its numbers also go to TensorBoard at `step`."""
        line = json.dumps(values).encode() + b"\n"
        with self._writing(self.metrics):
            self._rows = self._rows or self.metrics.open("ab", buffering=0)
            while line:
                line = line[self._rows.write(line) :]
        with self._writing(self.path / "events.out.tfevents"):
            self._events = self._events or Events(self.path, self._purge_from)
            self._events.add(scalars(values), values.get("step", 0))
        if self._online:
            self._online.add(scalars(values), values.get("step", 0))

    def sync(self) -> None:
        """Let the rows so far outlive a power failure, as a checkpoint that counts on them does."""
        if self._rows:
            with self._writing(self.metrics):
                os.fsync(self._rows.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; what a crash left of a line is passed over."""
        return read_rows(self.metrics)

    def forget_from(self, step: int, epoch: int | None = None) -> None:
        """Drop the rows of this step and later ones, and validations of this epoch, which come after its last step: a
        resumed run writes them again."""
        kept = [
            row
            for row in self.rows()
            if row["step"] < step and not (epoch is not None and "val" in row and row.get("epoch", 0) >= epoch)
        ]
        if self._rows:
            self._rows.close()
        self._rows, self._purge_from = None, step
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """result.json."""
        write_json(self.result, result)
        if self._online:
            self._online.summarise(scalars(result))

    def close(self, failed: bool = False) -> None:
        """Close the files and give the folder free."""
        LOG.removeHandler(self._handler)
        for file in (self._handler, self._rows, self._events):
            if file:
                with suppress(OSError):  # what a full disk lost is told where it was written
                    file.close()
        if self._online:
            self._online.close(failed)
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(failed=error[0] is not None)

    def _acquire(self) -> None:
        """Lock the folder for as long as this process lives and has it open."""
        busy = f"OUTPUT_DIR {self.path} is in use by another run; wait for it or take another"
        try:
            self._lock.enter_context(locked(self.path / ".lock", busy))
        except InputError:
            self.close()
            raise
        except OSError as error:
            LOG.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)

    def _files(self) -> tuple[Path, ...]:
        """What a run leaves, in the order in which it may vanish: what is left tells of no more than is there."""
        return self.config, self.result, self.checkpoint, self.best, self.learned, self.metrics

    def _sweep(self) -> None:
        """Remove half-written files of a run that was killed: whoever holds the lock is alone here."""
        for file in self._files():
            for rest in self.path.glob(f".{file.name}.*"):
                with suppress(OSError):
                    rest.unlink()

    @contextmanager
    def _writing(self, what: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{what} cannot be written: {error.strerror}") from error


class LogFile(logging.FileHandler):
    """log.txt: a line that a full disk refuses is on the terminal, and no traceback in its place."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over it."""
