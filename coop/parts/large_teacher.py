"""Another CLIP, or another run, as a teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from promptvision.backbones import CLIP, load_clip
from promptvision.backbones.compute import Compute
from promptvision.backbones.weights import read_weights
from promptvision.errors import InputError
from promptvision.method import Method
from promptvision.safe_yaml import WRONG, parse


def load_teacher(student: CLIP, name: str, weights: str, classes: Sequence[str], templates: Sequence[str]) -> Method:
    """A trained method of a run folder, or zero-shot CLIP by `templates` on a backbone; frozen, for these classes.

    `name`: the folder of a run, else as BACKBONE.NAME, with `weights` as BACKBONE.PRETRAINED, or empty for
    the student's. A run that was trained on other classes is refused.
    """
    learned = Path(name) / "learned.safetensors"
    if name and Path(name).is_dir():
        teacher = _of_run(learned, classes, student.compute)
    else:
        clip = load_clip(name, weights, compute=student.compute) if name else student
        teacher = _build("zero_shot", clip, classes, {"templates": templates})
    return teacher.requires_grad_(False).eval()


def class_vectors(teacher: Method) -> Tensor:
    """(C, E): the teacher's features of the classes, not normalised; InputError where it has no such thing."""
    make = getattr(teacher, "text_features", None)
    found = make() if make else getattr(teacher, "features", None)
    if found is None or found.dim() != 2:
        raise InputError(f"a teacher must have one feature for each class, which {type(teacher).__name__} has not")
    return found.detach()


def check_same_images(student: CLIP, teacher: CLIP) -> None:
    """Refuse a teacher that wants images of another size or normalisation than the student."""
    for what in ("image_size", "mean", "std"):
        ours, theirs = getattr(student.image, what), getattr(teacher.image, what)
        if ours != theirs:
            raise InputError(
                f"teacher {teacher.name!r} takes images of {what.replace('_', ' ')} {theirs}, the student "
                f"{student.name!r} of {ours}; both see the same tensors, so take two that agree"
            )


def _of_run(path: Path, classes: Sequence[str], compute: Compute) -> Method:
    if not path.is_file():
        raise InputError(f"teacher {path.parent} holds no learned.safetensors; has the run been trained to its end?")
    state, metadata = read_weights(path)
    if metadata.get("family") != "coop":
        raise InputError(f"teacher {path.parent} is no run of a coop method")
    try:
        theirs, config = json.loads(metadata["classes"]), parse(metadata["config"])
        options = _options(config["METHOD"]["OPTIONS"], metadata["template"])
        backbone = [config["BACKBONE"][key] for key in ("NAME", "PRETRAINED", "RESIZE", "POOL")]
        name, size = config["METHOD"]["NAME"], config["INPUT"]["SIZE"]
    except WRONG as error:
        raise InputError(f"teacher {path.parent}: {path.name} does not tell what it was trained with") from error
    _check_classes(path.parent, theirs, classes)
    clip = load_clip(backbone[0], backbone[1], size, *backbone[2:], compute=compute)
    teacher = _build(name, clip, classes, options)
    teacher.load_learned_state(state)
    return teacher


def _check_classes(folder: Path, theirs: Sequence[str], ours: Sequence[str]) -> None:
    if list(theirs) == list(ours):
        return
    label = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    shown = f"its class {label} is {theirs[label]!r}, here {ours[label]!r}" if label is not None else "the first agree"
    raise InputError(f"teacher {folder} was trained on {len(theirs)} classes, not these {len(ours)} ({shown})")


def _options(given: Mapping[str, Any], template: str) -> dict[str, Any]:
    """METHOD.OPTIONS of a run; where it took its data set's template, that one."""
    options = {name.lower(): tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return options | ({"templates": options["templates"] or (template,)} if "templates" in options else {})


def _build(name: str, clip: CLIP, classes: Sequence[str], options: Mapping[str, Any]) -> Method:
    import coop  # only here: its table holds the methods that have teachers

    return coop.build(name, clip, classes, **options)
