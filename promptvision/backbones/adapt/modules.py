"""Modules as image towers: your own towers, timm's models, those of other libraries, and any map to features."""

from __future__ import annotations

from typing import Any

from promptvision.backbones.adapt import torchvision_models, transformers_models
from promptvision.backbones.adapt.check import check_image
from promptvision.backbones.adapt.converted import agrees
from promptvision.backbones.adapt.plain import PlainTower
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.timm_tower import TimmTower
from promptvision.backbones.towers import ImageTower

LIBRARIES = {"torchvision": torchvision_models, "transformers": transformers_models}
STEMS = {"ConvNeXt": "stem.0", "ResNet": "conv1"}
"""First convolution of converted models of timm that have no `patch_embed`."""


def adapted(module: Any, size: int = 0) -> ImageTower:
    """Return a module as an image tower; `size`: pixels of the images of one that does not say.

    Models of torchvision and transformers are converted (`converted.py`): their weights are copied. One that cannot
    be, or is of another kind, gives features only. Of a CLIP it is the image tower, without its projection.
    """
    if isinstance(module, ImageTower):
        ours = type(module).__module__.startswith("promptvision.")
        return module if ours else check_image(module.eval())
    if hasattr(module, "forward_features") and hasattr(module, "forward_head"):
        return TimmTower(module)
    name, library = type(module).__name__, LIBRARIES.get(type(module).__module__.partition(".")[0])
    if library is transformers_models and hasattr(module, "text_model"):
        return adapted(module.vision_model, size)
    if library is None or name not in library.KINDS:
        return PlainTower(module, size)
    tower = _converted(module, library)
    if tower and agrees(tower, module, library.features):
        return tower.to(next(module.parameters()).device)
    return PlainTower(
        module, size, f"is a {name} with options that have no counterpart in timm: it gives features only"
    )


def _converted(module: Any, library: Any) -> ImageTower | None:
    """Return the tower of a model of torchvision or transformers, None if it cannot be converted."""
    name = type(module).__name__
    model: Any = library.KINDS[name](module)
    if model is None:
        return None
    title = getattr(module, "name_or_path", "") or f"{type(module).__module__.partition('.')[0]} {name}"
    if name.startswith("CLIPVision"):
        return OpenClipImage(model, title, projected=False)
    if type(model).__name__ in STEMS:
        size = getattr(getattr(module, "config", None), "image_size", 224)
        model.pretrained_cfg = {"first_conv": STEMS[type(model).__name__], "input_size": (3, size, size)}
    tower = TimmTower(model, title)
    if name in transformers_models.HALVES:
        tower.mean = tower.std = (0.5, 0.5, 0.5)
    return tower
