"""Writes a run as a file for other programs, runs that file in a fresh process, and keeps it only if it agrees."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor

from promptvision.atomic import write_json
from promptvision.config import changed
from promptvision.config.families import FAMILIES
from promptvision.deploy.classifier import Classifier, load
from promptvision.deploy.export import KINDS, run_file
from promptvision.deploy.export.head import write_head
from promptvision.deploy.export.preprocessing import preprocessing
from promptvision.deploy.export.program import traced, write_onnx, write_pt2
from promptvision.engine.run_folder import writing
from promptvision.errors import InputError
from promptvision.experiment.loaders import image_tower

BATCHES = (1, 6)
"""Images of the batches that a file is tried with."""
CLOSE = 1e-4
"""Largest difference of probabilities, and of logits in relation to the largest of them (1 at least)."""
TORCH = "2.6"
"""First version of torch whose exporters do all that is needed here."""
WHY = {
    "timm": ": the method has not become a plain ViT; use --to onnx or pt2",
    "zero-shot head": ": the method is more than image features times class features; use --to onnx or pt2",
}
"""Kind of a file of features -> why it may compute something else than the run."""


@dataclass(frozen=True)
class Exported:
    """A file, the description beside it, and the largest differences from the run, which predicts in `precision`."""

    file: Path
    facts: Path
    logits: float
    probabilities: float
    precision: str


def export(run: str | Path, kind: str, file: Path | None, *, overwrite: bool = False, trust: bool = False) -> Exported:
    """Write a run as a file of a kind, and return how far what it computes is from the run, in float32 on the CPU.

    InputError for a method that has no such file, for a file that exists, and for a file that computes something
    else; then nothing is written.
    """
    _check_installed(kind)
    path = Path(run) / KINDS[kind] if file is None else file
    beside = path.with_name(f"{path.name}.json")
    for each in (path, beside):
        if each.exists() and not overwrite:
            raise InputError(f"{each} exists: choose another --output, or replace it with --overwrite")
    trained = load(run, device="cpu", trust=trust)
    precision, single = trained.cfg.TRAIN.PRECISION, changed(trained.cfg, ["TRAIN.PRECISION", "fp32"], FAMILIES)
    classifier = Classifier(single, trained.method, trained.folder)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    with folder as place, writing(path):
        made = Path(place, path.name)
        facts = write(classifier, kind, made)
        differences = compared(classifier, kind, made, facts)
        write_json(made.with_name(beside.name), facts)
        os.replace(made, path)
        os.replace(made.with_name(beside.name), beside)
    return Exported(path, beside, *differences, precision)


def _check_installed(kind: str) -> None:
    """Raise InputError if torch is too old, or if ONNX is wanted and what writes or runs it is missing."""
    if kind != "classifier" and Version(torch.__version__) < Version(TORCH):
        raise InputError(f"--to {kind} needs torch {TORCH} or later; this is {torch.__version__}")
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        if find_spec(package) is None:
            raise InputError(f"--to onnx needs {package}: pip install 'promptvision[export]'")


def write(classifier: Classifier, kind: str, path: Path) -> dict[str, Any]:
    """Write the file of a classifier, and return what describes it."""
    facts, method = preprocessing(classifier), type(classifier.method).__name__
    if kind == "classifier":
        return write_head(classifier, path, facts)
    height, width = facts["input"]["shape"][2:]
    program = traced(classifier.predictor.predict, (height, width), method)
    if kind == "onnx":
        write_onnx(program, path, facts, method)
    else:
        write_pt2(program, path, facts)
    return facts


def compared(classifier: Classifier, kind: str, path: Path, facts: dict[str, Any]) -> tuple[float, float]:
    """Run the file in a fresh process, and return the largest differences of logits and of probabilities.

    InputError if it fails, or if they are too large.
    """
    images = [samples(classifier, count) for count in BATCHES]
    with torch.no_grad():
        wanted = [classifier.predictor.predict(each).float() for each in images]
        of_features = facts.get("kind") == "zero-shot head"
        given = [image_tower(classifier.method)(each) for each in images] if of_features else images
    found = in_fresh_process(kind, path, facts, given)
    logits = _largest(found, wanted, lambda each: each)
    probabilities = _largest(found, wanted, lambda each: each.softmax(dim=1))
    size = max(1.0, *(each.abs().max().item() for each in wanted))
    if not (probabilities <= CLOSE and logits <= CLOSE * size):  # NaN too
        raise InputError(
            f"{path.name} is not written, as it computes something else than the run (probabilities differ by "
            f"{probabilities:.1g}, logits of up to {size:.3g} by {logits:.1g}){WHY.get(facts.get('kind', ''), '')}"
        )
    return logits, probabilities


def _largest(found: list[Tensor], wanted: list[Tensor], of: Callable[[Tensor], Tensor]) -> float:
    return max((of(ours) - of(theirs)).abs().max().item() for ours, theirs in zip(found, wanted, strict=True))


def samples(classifier: Classifier, count: int) -> Tensor:
    """Return `count` images (B, 3, H, W) of coloured blots, of different sizes, as the transform makes them."""
    draws = np.random.default_rng(count)
    images = []
    for number in range(count):
        blots = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        images.append(blots.resize((200 + 40 * number, 260), Image.Resampling.BICUBIC))
    return torch.stack([classifier.transform(image) for image in images])


def in_fresh_process(kind: str, path: Path, facts: dict[str, Any], inputs: list[Tensor]) -> list[Tensor]:
    """Return what a file computes of inputs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, target, described = (Path(folder, name) for name in ("in.npz", "out.npz", "facts.json"))
        np.savez(source, *(each.numpy() for each in inputs))
        write_json(described, facts)
        words = [sys.executable, run_file.__file__, kind, *map(str, (path, source, target, described))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
            raise InputError(f"{path.name} is not written, as it does not run: {told}")
        return [torch.from_numpy(each) for each in np.load(target).values()]
