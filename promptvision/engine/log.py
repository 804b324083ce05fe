"""The run folder: everything that one run leaves behind, and the facts that make it repeatable."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.logging import RichHandler

import promptvision
from promptvision.engine.checkpoint import write_atomically, write_json
from promptvision.errors import InputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = logging.getLogger("promptvision")


def log_to_terminal() -> None:
    """Show what the library tells on the terminal, beside progress bars, and nowhere else."""
    LOG.addHandler(RichHandler(console=Console(stderr=True), show_path=False))
    LOG.propagate = False


class RunFolder:
    """OUTPUT_DIR of one run, locked against a second one; use it in a `with` statement.

    An earlier run in the folder is removed, but for its log, when `write_config` begins the new one; with `resume`
    it goes on, with the config it has if there is a checkpoint (which `fit` compares).
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        self.path, self.resume = Path(path), resume
        self.config, self.metrics = self.path / "config.yaml", self.path / "metrics.jsonl"
        self.result, self.learned = self.path / "result.json", self.path / "learned.safetensors"
        self.checkpoint, self.log = self.path / "last.ckpt", self.path / "log.txt"
        self.best = self.path / "best.safetensors"
        self._rows: FileIO | None = None
        self._events: SummaryWriter | None = None
        self._purge_from: int | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._handler = logging.FileHandler(self.log, encoding="utf-8")
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"OUTPUT_DIR {self.path} cannot be written: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(self._handler)
        LOG.setLevel(logging.INFO)
        self._acquire()

    def write_config(self, text: str) -> None:
        """Begin the run: config.yaml, and nothing of an earlier run unless it is resumed."""
        if not self.resume:
            earlier = (self.metrics, self.result, self.learned, self.checkpoint, self.best)
            for file in [*earlier, *self.path.glob("events.out.tfevents.*")]:
                file.unlink(missing_ok=True)
        if not self.checkpoint.exists():
            write_atomically(self.config, text.encode())

    def row(self, **values: Any) -> None:
        """One line of metrics.jsonl, at once on disk; its numbers also go to TensorBoard at `step`."""
        try:
            self._rows = self._rows or self.metrics.open("ab", buffering=0)
            self._rows.write(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{self.metrics} cannot be written: {error.strerror}") from error
        for name, value in _scalars(values):
            self._tensorboard().add_scalar(name, value, values.get("step"))

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; what a crash left of a line is passed over."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        return [row for line in lines if (row := _parsed(line))]

    def forget_from(self, step: int) -> None:
        """Drop the rows of this step and later ones: a resumed run writes them again."""
        kept = [row for row in self.rows() if row["step"] < step]
        if self._rows:
            self._rows.close()
        self._rows, self._purge_from = None, step
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """result.json."""
        write_json(self.result, result)

    def close(self) -> None:
        """Close the files and give the folder free."""
        LOG.removeHandler(self._handler)
        for file in (self._handler, self._rows, self._events):
            if file:
                file.close()
        os.close(self._lock)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _acquire(self) -> None:
        """Lock for this process, not for its children: workers that outlive a killed run do not hold it."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.close()
            raise InputError(f"OUTPUT_DIR {self.path} is in use by another run; wait for it or take another") from error
        except OSError as error:
            LOG.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)

    def _tensorboard(self) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # a second or more, which only training needs to spend

            self._events = SummaryWriter(str(self.path), purge_step=self._purge_from)
        return self._events


def facts(device: torch.device) -> dict[str, Any]:
    """What makes a run repeatable besides its config: versions, machine, and where the code lies."""
    packages = ("torch", "torchvision", "timm", "open_clip_torch", "numpy")
    versions = {name: _version(name) for name in packages}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "promptvision": promptvision.__version__,
        "code": str(Path(promptvision.__file__).resolve().parent),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The curves in a row: its numbers but for where and when, those of nested dicts as `outer/inner`."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "epoch", "seconds"):
            found.append((f"{prefix}{name}", value))
    return found


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
