"""A trained run as a classifier of images: `promptvision.load("out/run")`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.config import changed, load_config
from promptvision.config.families import FAMILIES
from promptvision.data.transforms import Transform
from promptvision.deploy.hub import PREFIX, RUN_FILES, fetched
from promptvision.deploy.images import listed, opened
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.device import choose_device
from promptvision.engine.run_folder import writing
from promptvision.errors import InputError
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.predict import Guesses, Predictor
from promptvision.experiment.run import load_run
from promptvision.method import Method


def load(run: str | Path, *, device: str = "", trust: bool = False, overrides: Sequence[str] = ()) -> Classifier:
    """Return the classifier of a run folder, of a saved classifier, or of a model on the Hub (`hf-hub:user/name`).

    `device`: auto, cpu, cuda or cuda:N; by default that of the run, or auto if the run was trained on a GPU. `trust`:
    run code that the run's config names. `overrides`: other values of keys of that config, KEY VALUE ... The global
    random state stays as it is.
    """
    if str(run).startswith(PREFIX) and trust:
        raise InputError(f"{run} comes from elsewhere, so its code is not run; download it, read it, load the folder")
    folder = fetched(str(run)) if str(run).startswith(PREFIX) else Path(run)
    cfg = load_config(folder / "config.yaml", overrides, FAMILIES, trust=trust, of_run=True)
    wanted = str(choose_device(device)) if device else re.sub("cuda.*", "auto", cfg.TRAIN.DEVICE)
    cfg = changed(cfg, ["TRAIN.DEVICE", wanted], FAMILIES)
    return Classifier(cfg, _method(cfg, folder), folder)


def _method(cfg: CfgNode, folder: Path) -> Method:
    """Return the trained method of a folder, and leave the global random state as it is."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return load_run(cfg, FAMILIES, folder)


class Classifier:
    """A trained method with its classes, its transform and the folder that it was loaded from.

    Its methods take one image, a list of images, or a batch: paths, PIL images, arrays (H, W, 3) or (H, W) of uint8,
    tensors (3, H, W) of uint8 or of floats from 0 to 1. They are computed in batches of TEST.BATCH_SIZE.
    """

    def __init__(self, cfg: CfgNode, method: Method, folder: Path):
        self.cfg, self.method, self.folder = cfg, method, folder
        self._predictor: Predictor | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of `probabilities`."""
        return self.method.classes

    @property
    def transform(self) -> Transform:
        """The transform of an RGB image into the method's input."""
        return self.predictor.transform if self._predictor else transform_of(self.cfg, self.method)

    @property
    def device(self) -> torch.device:
        """The device of the method."""
        return next(self.method.backbone.parameters()).device

    @property
    def predictor(self) -> Predictor:
        """The method made ready to predict on its device, on first use."""
        if self._predictor is None or self._predictor.device != self.device:
            self._predictor = Predictor(self.cfg, self.method.to(self.device))
        return self._predictor

    def __call__(self, images: Any, top: int = 5) -> list[Any]:
        """Return for each image its `top` most likely (class, probability) pairs; for a single image one such list."""
        if not isinstance(top, Integral) or top < 1:
            raise InputError(f"top is {top!r}; it must be at least 1, a whole number")
        given, single = listed(images)
        found: list[Guesses] = self.predictor.most_likely(self.probabilities(given), top)
        return found[0] if single else found

    def probabilities(self, images: Any) -> Tensor:
        """Return the probabilities (N, C) of all classes, float32, on the CPU."""
        return self._computed(images, self.predictor.probabilities)

    def features(self, images: Any) -> Tensor:
        """Return the image features (N, E) that the method classifies, float32, on the CPU; not normalised."""
        return self._computed(images, self.predictor.features)

    def _computed(self, images: Any, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `compute` to the pixels of images, batch by batch."""
        given, size = listed(images)[0], self.cfg.TEST.BATCH_SIZE
        names = ["image" if len(given) == 1 else f"image {number}" for number in range(len(given))]
        found = []
        for start in range(0, len(given), size):
            batch = zip(given[start : start + size], names[start : start + size], strict=True)
            pixels = [self.transform.pixels(opened(image, name)).contiguous() for image, name in batch]
            found.append(compute(torch.stack(pixels)).cpu())
        return torch.cat(found)

    def with_classes(self, names: Sequence[str]) -> Classifier:
        """Return a classifier of other classes with the same learned tensors; InputError if the method has none."""
        if isinstance(names, str):
            raise InputError(f"with_classes takes a list of names: [{names!r}]")
        held = self._predictor is not None and self.cfg.TRAIN.PRECISION != "fp32"
        method = _method(self.cfg, self.folder).to(self.device) if held else self.method  # texts of float32 weights
        return Classifier(self.cfg, method.for_classes(list(names)), self.folder)

    def to(self, device: str | torch.device) -> Classifier:
        """Move the classifier to a device and return it."""
        self.method.to(choose_device(str(device)))
        return self

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load` reads, of config, result and learned tensors, and return it.

        InputError if the folder is not empty. It contains neither the weights of the backbone nor your own code.
        """
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{place} exists: choose another folder, or delete it")
        state, metadata = load_learned(self.folder / RUN_FILES[-1])
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            for name in RUN_FILES:
                if (self.folder / name).exists():
                    shutil.copyfile(self.folder / name, place / name)
        if self.classes != metadata.get("named", metadata["classes"]):
            save_learned(place / RUN_FILES[-1], state, {**metadata, "named": self.classes})
        return place
