"""Another CLIP, or another run, as a teacher."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from promptvision.backbones import CLIP, load_clip
from promptvision.backbones.compute import Compute
from promptvision.backbones.weights import read_weights
from promptvision.errors import InputError, counted
from promptvision.method import Method
from promptvision.safe_yaml import WRONG, parse

LOG = logging.getLogger("promptvision")


def load_teacher(student: CLIP, name: str, weights: str, classes: Sequence[str], templates: Sequence[str]) -> Method:
    """Load a trained method from a run folder, or a backbone as zero-shot CLIP with `templates`; frozen.

    `name`: the folder of a run on the same classes, else as BACKBONE.NAME, with `weights` as BACKBONE.PRETRAINED, or
    empty for the student's backbone.
    """
    if name and Path(name).is_dir():
        teacher = load_run_teacher(Path(name) / "learned.safetensors", classes, student.compute)
    else:
        clip = load_clip(name, weights, compute=student.compute) if name else student
        teacher = build("zero_shot", clip, classes, {"templates": templates})
    return teacher.requires_grad_(False).eval()


def class_vectors(teacher: Method) -> Tensor:
    """Return the teacher's class features (C, E), not normalised; raise InputError if it has none."""
    make = getattr(teacher, "text_features", None)
    found = make() if make else getattr(teacher, "features", None)
    if found is None or found.dim() != 2:
        raise InputError(f"a teacher must have one feature for each class, which {type(teacher).__name__} has not")
    return found.detach()


def check_same_images(student: CLIP, teacher: CLIP) -> None:
    """Raise InputError for a teacher that takes images of another size or normalisation than the student."""
    for what in ("image_size", "mean", "std"):
        ours, theirs = getattr(student.image, what), getattr(teacher.image, what)
        if ours != theirs:
            raise InputError(
                f"teacher {teacher.name!r} takes images of {what.replace('_', ' ')} {theirs}, the student "
                f"{student.name!r} of {ours}; both see the same tensors, so take two that agree"
            )


def load_run_teacher(path: Path, classes: Sequence[str], compute: Compute) -> Method:
    """Load the method of a run from its learned.safetensors; it names `classes` if it was trained on others."""
    if not path.is_file():
        raise InputError(f"teacher {path.parent} holds no learned.safetensors; is the run finished?")
    state, metadata = read_weights(path)
    if metadata.get("family") != "coop":
        raise InputError(f"teacher {path.parent} is no run of a coop method")
    try:
        theirs, config = json.loads(metadata["classes"]), parse(metadata["config"])
        given = config["METHOD"]["OPTIONS"].items()
        options = {name.lower(): tuple(value) if isinstance(value, list) else value for name, value in given}
        if "templates" in options:
            options["templates"] = options["templates"] or (metadata["template"],)
        backbone, size = config["BACKBONE"], config["INPUT"]["SIZE"]
        name, place = config["METHOD"]["NAME"], (backbone["NAME"], backbone["PRETRAINED"], size)
        resize, pool = backbone["RESIZE"], backbone["POOL"]
    except WRONG as error:
        raise InputError(f"teacher {path.parent}: {path.name} does not say how it was trained") from error
    teacher = build(name, load_clip(*place, resize, pool, compute=compute), theirs, options)
    teacher.load_learned_state(state)
    return teacher if list(theirs) == list(classes) else naming(teacher, path.parent, classes)


def naming(teacher: Method, folder: Path, ours: Sequence[str]) -> Method:
    """Return a teacher of other classes as a classifier of ours; raise InputError if it cannot name them."""
    theirs = teacher.classes
    try:
        found = teacher.for_classes(ours)
    except InputError as error:
        label = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
        first = (
            f"its class {label} is {theirs[label]!r}, here {ours[label]!r}" if label is not None else "the first agree"
        )
        what = f"was trained on {counted(len(theirs), 'class')}, not these {len(ours)} ({first})"
        raise InputError(f"teacher {folder} {what}, and {error}") from error
    LOG.info("The teacher was trained on %s; naming these %d", counted(len(theirs), "class"), len(ours))
    return found


def build(name: str, clip: CLIP, classes: Sequence[str], options: Mapping[str, Any]) -> Method:
    """Build a coop method."""
    import coop  # only here: its table contains the methods that have teachers

    return coop.build(name, clip, classes, **options)
