"""Predictions in files: parts that appear whole or not at all, joined at the end; a stopped run loses no part."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from promptvision.atomic import file_hash, locked, read_json, replacing, write_atomically, write_json
from promptvision.engine.checkpoint import load_learned
from promptvision.errors import InputError
from promptvision.experiment.predict import Prediction
from promptvision.experiment.predict_formats import FORMATS, format_of
from promptvision.experiment.predict_inputs import ImageList

PLAN = "_plan.json"
"""File beside the parts that says what they are predictions of; readers of Parquet folders skip such a name."""
OF = {
    "run": "another run",
    "images": "other images",
    "top": "another --top",
    "format": "another format",
}
"""Entry of a plan -> what another one means."""


def plan_of(run: Path, top: int, images: ImageList) -> dict[str, Any]:
    """Return the plan of predictions."""
    learned = run / "learned.safetensors"
    return {
        "run": f"{file_hash(learned)} {file_hash(run / 'config.yaml')}",
        "images": images.fingerprint(),
        "top": min(top, len(load_learned(learned)[1]["classes"])),
    }


class Output:
    """Predictions in `path`, used in a `with` statement: a file that is joined from the parts in `path.parts` beside
    it, or a folder of Parquet parts.

    `plan`: what is predicted, by the keys of OF; parts of another plan are refused, and without `resume` any parts.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], *, resume: bool = False):
        self.path, self.suffix, self.resume = path, format_of(path), resume
        self.single = bool(path.suffix) and not path.is_dir()
        self.folder = path.with_name(f"{path.name}.parts") if self.single else path
        self.plan = {**plan, "format": self.suffix}
        self.format, self.open = FORMATS[self.suffix], ExitStack()

    def __enter__(self) -> Output:
        if self.single and self.path.exists() and not self.folder.exists():
            raise InputError(f"--output {self.path} exists: choose another one, or delete it")
        others = [each for each in self.folder.glob("*") if not each.name.startswith(".")]
        if others and not (self.folder / PLAN).exists():
            raise InputError(f"--output {self.folder} holds other files: choose another one")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.open.enter_context(locked(self.folder / ".lock", f"{self.path} is being written by another process"))
        try:
            self._check()
        except BaseException:
            self.open.close()
            raise
        return self

    def _check(self) -> None:
        """Write the plan, or raise InputError if the parts have another one, or are not to be resumed."""
        if (self.folder / PLAN).exists():
            found = read_json(self.folder / PLAN)
            other = [what for key, what in OF.items() if found.get(key) != self.plan.get(key)]
            if not self.resume:
                raise InputError(f"{self.folder} holds predictions: continue them with --resume, or delete it")
            if other:
                what = " and of ".join(other)
                raise InputError(f"{self.folder} holds predictions of {what}: choose another --output, or delete it")
            for half_written in (*self.folder.glob(".part-*"), *self.path.parent.glob(f".{self.path.name}.*")):
                half_written.unlink()
        else:
            write_json(self.folder / PLAN, self.plan)

    def part(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{number:06d}{self.suffix}"

    def missing(self, count: int) -> list[int]:
        """Return the numbers of the parts, of `count`, that are not finished."""
        if self.single and self.path.exists():  # and was killed when it removed the parts
            return []
        names = {path.name for path in self.folder.iterdir()}
        return [number for number in range(count) if self.part(number).name not in names]

    def write(self, number: int, rows: Sequence[Prediction]) -> None:
        """Write a part."""
        write_atomically(self.part(number), self.format.encode(rows, self.plan["top"]))

    def keep(
        self, batches: Iterable[Sequence[Prediction]], spans: Mapping[int, range]
    ) -> Iterator[Sequence[Prediction]]:
        """Yield batches as they come, and write each part when it is complete; `spans` of the parts in their order."""
        rows: list[Prediction] = []
        parts = iter(spans.items())
        number, span = next(parts, (0, range(0)))
        for batch in batches:
            yield batch
            rows += batch
            if len(rows) == len(span):
                self.write(number, rows)
                rows, (number, span) = [], next(parts, (0, range(0)))

    def errors(self) -> Iterator[str]:
        """Yield the errors in all parts."""
        for part in sorted(self.folder.glob(f"part-*{self.suffix}")):
            yield from self.format.errors(part)

    def finish(self, count: int) -> None:
        """Join `count` parts if they are to be one file, and remove them."""
        if not self.single:
            return
        parts = [self.part(number) for number in range(count)]
        with writing(self.path):
            if not self.path.exists():
                with replacing(self.path) as file:
                    self.format.join(parts, file)
            for part in (*parts, self.folder / PLAN):  # a run that is killed here finds the plan again
                part.unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def __exit__(self, *error: object) -> None:
        self.open.close()


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--output {file} cannot be written: {error.strerror}") from error
