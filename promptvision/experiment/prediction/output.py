"""Predictions in files: parts that appear whole or not at all, joined at the end; a stopped run loses no part."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from promptvision.atomic import file_hash, locked, read_json, replacing, write_atomically, write_json
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.run_folder import writing
from promptvision.errors import InputError
from promptvision.experiment.predict import Prediction
from promptvision.experiment.prediction.formats import FORMATS, Told, format_of
from promptvision.experiment.prediction.inputs import ImageList
from promptvision.method import Method

PLAN = "_plan.json"
"""File beside the parts that says what they are predictions of; readers of Parquet folders skip such a name."""
SIZES = "_sizes.txt"
"""File beside the parts with a line for each: its number and bytes. A part that is cut off later is predicted again."""
OF = {
    "run": "another run",
    "images": "other images",
    "top": "another --top",
    "format": "another format",
    "threshold": "another --threshold",
    "classes": "other --classes",
}
"""Entry of a plan -> what another one means."""
OPTIONAL = ("threshold", "classes")
"""Entries of a plan that is made with these options."""


def plan_of(
    run: Path, top: int, images: ImageList, *, threshold: float = 0.0, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plan of predictions; `classes`: those that the images are classified by, if not those of the run."""
    learned = run / "learned.safetensors"
    return {
        "run": f"{file_hash(learned)} {file_hash(run / 'config.yaml')}",
        "images": images.fingerprint(),
        "top": min(top, len(classes or classes_of(run))),
        **({"threshold": threshold} if threshold else {}),
        **({"classes": list(classes)} if classes else {}),
    }


def classes_of(run: Path) -> list[str]:
    """Return the classes of a run folder, or of a saved classifier."""
    metadata = load_learned(run / "learned.safetensors")[1]
    return metadata.get("named", metadata["classes"])


def planned(method: Method, plan: Mapping[str, Any]) -> Method:
    """Return the method for the classes of a plan."""
    return method.for_classes(plan["classes"]) if "classes" in plan else method


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
        self.joined = False  # by an earlier call, which was stopped when it removed the parts

    def __enter__(self) -> Output:
        if self.single and self.path.exists() and not (self.folder / PLAN).exists():
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
        found = read_json(self.folder / PLAN) if (self.folder / PLAN).exists() else {}
        if not isinstance(found, dict) or (found and not found.keys() >= {*OF} - {*OPTIONAL}):
            raise InputError(f"{self.folder / PLAN} is no plan of predictions: choose another --output, or delete it")
        if found and (any(self.folder.glob("part-*")) or self.path.is_file()):
            other = [what for key, what in OF.items() if found.get(key) != self.plan.get(key)]
            if not self.resume:
                raise InputError(f"{self.folder} holds predictions: continue them with --resume, or delete it")
            if other:
                what = " and of ".join(other)
                raise InputError(f"{self.folder} holds predictions of {what}: choose another --output, or delete it")
            self.joined = self.single and self.path.exists()
            if self.joined and file_hash(self.path) != found.get("joined"):
                raise InputError(f"--output {self.path} exists and is no result of these parts: rename or delete it")
        else:
            write_json(self.folder / PLAN, self.plan)
        self._remove_half_written()

    def _remove_half_written(self) -> None:
        """Remove the temporary files of a call that was killed."""
        names = "|".join(map(re.escape, (f"joined{self.suffix}", PLAN)))
        ours = re.compile(rf"\.(part-\d{{6,}}{re.escape(self.suffix)}|{names})\.\w{{8}}|joined{re.escape(self.suffix)}")
        for path in self.folder.iterdir():
            if ours.fullmatch(path.name) and path.is_file():
                path.unlink()

    def part(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{number:06d}{self.suffix}"

    def missing(self, count: int) -> list[int]:
        """Return the numbers of the parts, of `count`, that are not finished."""
        if self.joined:
            return []
        noted = self.folder / SIZES
        rows = re.findall(r"^(\d+) (\d+)$", noted.read_text() if noted.exists() else "", re.MULTILINE)
        known = {int(number): int(size) for number, size in rows}
        sizes = {path.name: path.stat().st_size for path in self.folder.glob("part-*")}
        return [number for number in range(count) if sizes.get(self.part(number).name, -1) != known.get(number)]

    def write(self, number: int, rows: Sequence[Prediction]) -> None:
        """Write a part."""
        data = self.format.encode(rows, self.plan["top"], "threshold" in self.plan)
        with writing(self.folder), (self.folder / SIZES).open("a") as file:
            file.write(f"\n{number} {len(data)}")  # on a line of its own, though the last one may be cut off
        write_atomically(self.part(number), data)

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

    def rows(self) -> Iterator[Told]:
        """Yield path, label and error of each row in all parts."""
        for part in [self.path] if self.joined else sorted(self.folder.glob(f"part-*{self.suffix}")):
            yield from self.format.read(part)

    def finish(self, count: int) -> None:
        """Join `count` parts if they are to be one file, and remove them."""
        if not self.single:
            return
        parts = [self.part(number) for number in range(count)]
        with writing(self.path):
            if not self.joined:
                self._join(parts)
            for path in (*parts, *(self.folder / name for name in (SIZES, PLAN, ".lock"))):  # the plan after the parts
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds a file of the user
                self.folder.rmdir()

    def _join(self, parts: Sequence[Path]) -> None:
        """Join the parts; the plan has the hash of the file before it takes its place, so that it is known again."""
        whole = self.folder / f"joined{self.suffix}"
        with replacing(whole) as file:
            self.format.join(parts, file)
        write_json(self.folder / PLAN, {**self.plan, "joined": file_hash(whole)})
        if self.path.exists():
            raise InputError(f"--output {self.path} was made by another program: rename it, and continue by --resume")
        os.replace(whole, self.path)

    def __exit__(self, *error: object) -> None:
        self.open.close()
