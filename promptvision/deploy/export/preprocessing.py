"""The steps from an image file to the input of an exported program, in plain values for any other program."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import ToTensor, v2

from promptvision.deploy.classifier import Classifier
from promptvision.errors import InputError


def preprocessing(classifier: Classifier) -> dict[str, Any]:
    """Return the steps of a classifier's transform, and its classes.

    An image is read as RGB, rotated by its EXIF orientation if `upright`, resized (`resize` one number: its shorter
    side; two: height and width) by `library` with `interpolation`, cropped in the centre to `crop`, if any, divided by
    255, normalised by `mean` and `std`, and laid out as `input`. The program returns `output`, whose softmax are
    probabilities of `classes`. "tensor" is the resize of torchvision for tensors, of uint8 where `antialias` is true.
    """
    if classifier.method.image_views:
        name = classifier.cfg.METHOD.NAME
        raise InputError(f"{name} classifies an image by random views of its file, which a program cannot cut")
    transform = classifier.transform
    steps = {type(step): step for step in transform.steps.transforms}
    resize: Any = steps[v2.Resize]
    crop: Any = steps.get(v2.CenterCrop)
    in_pillow = not isinstance(transform.steps.transforms[bool(steps.get(v2.Lambda))], v2.PILToTensor | ToTensor)
    height, width = crop.size if crop else resize.size
    return {
        "input": {"name": "images", "type": "float32", "shape": ["batch", 3, height, width]},
        "output": {"name": "logits", "type": "float32", "shape": ["batch", len(classifier.classes)]},
        "upright": v2.Lambda in steps,
        "resize": list(resize.size),
        "library": "pillow" if in_pillow else "tensor",
        "interpolation": resize.interpolation.value,
        "antialias": bool(resize.antialias),
        "crop": list(crop.size) if crop else None,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "classes": list(classifier.classes),
    }
