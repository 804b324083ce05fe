"""Image backbones of timm: any model gives features; a VisionTransformer also takes prompts."""

from __future__ import annotations

import ast
import json
import zipfile
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from promptvision.backbones.clip import EMBEDDED, OpenClipImage, load_clip
from promptvision.backbones.custom import call_custom, is_custom
from promptvision.backbones.timm_tower import TimmTower
from promptvision.backbones.towers import ImageTower
from promptvision.backbones.weights import load_strictly, read_weights
from promptvision.errors import InputError, unknown

FILES = (".safetensors", ".pth", ".pt", ".bin", ".npz")


def load_vit(
    name: str | Path | nn.Module, pretrained: str | bool | None = "default", image_size: int = 0
) -> ImageTower:
    """An image backbone, frozen and in eval mode.

    `name`: a timm name, with or without tag (`vit_base_patch16_224.augreg_in21k`), or `hf-hub:` id; "embedded"; a
    weight file with the constructor's arguments in a .json beside it; `module:function`; or a module.
    `pretrained`: "default" (timm's weights for that name), "none" for random ones, or a local .safetensors, .pth or
    Google .npz file. `image_size`: pixels, 0 for the model's own; position embeddings are resized timm's way.
    """
    if isinstance(name, nn.Module):
        tower = name if isinstance(name, ImageTower) else TimmTower(name)
    elif is_custom(name):
        return load_vit(call_custom(str(name)))
    elif name == "embedded":
        tower = OpenClipImage(load_clip(EMBEDDED, pretrained).image.model, "embedded", projected=False)  # type: ignore
    elif Path(name).suffix in FILES:
        tower = TimmTower(_from_file(Path(name)), Path(name).stem)
    else:
        tower = TimmTower(_from_timm(str(name), pretrained, image_size), str(name))
    if image_size not in (0, tower.image_size):
        raise InputError(
            f"backbone {tower.name} takes pictures of {tower.image_size} pixels; INPUT.SIZE asks for {image_size}"
        )
    return tower.requires_grad_(False).eval()


def _from_timm(name: str, pretrained: str | bool | None, image_size: int) -> nn.Module:
    hub = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not hub and not timm.is_model(name.partition(".")[0]):
        raise unknown("backbone", name, ["embedded", *timm.list_models("vit_*"), *timm.list_pretrained("vit_*")])
    if not hub and "." in name and name not in timm.list_pretrained(name.partition(".")[0] + ".*"):
        raise unknown("backbone", name, timm.list_pretrained(name.partition(".")[0] + ".*"))
    options: dict[str, Any] = {"num_classes": 0, **({"img_size": image_size} if image_size else {})}
    if pretrained in (None, False, "none", ""):
        return timm.create_model(name, pretrained=False, **options)
    if pretrained in (True, "default"):
        return _downloaded(name, options)
    path = Path(str(pretrained))
    if not path.is_file():
        raise InputError(f"BACKBONE.PRETRAINED {pretrained}: neither 'default', 'none' nor a weight file that exists")
    return _fill(timm.create_model(name, pretrained=False, **options), path)


def _downloaded(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the weights of {name} could not be downloaded through timm ({type(error).__name__}); give a file: "
            f"BACKBONE.PRETRAINED path/to/weights.safetensors (or 'none' for random weights)"
        ) from error


def _from_file(path: Path) -> nn.Module:
    facts = path.with_suffix(".json")
    if not facts.is_file():
        raise InputError(
            f"{path} needs {facts.name} beside it with the constructor's arguments, or name the model: "
            f"BACKBONE.NAME <timm name> BACKBONE.PRETRAINED {path}"
        )
    return _fill(_construct(facts), path)


def _fill(model: Any, path: Path) -> nn.Module:
    if path.suffix == ".npz":
        _fill_from_npz(model, path)
        return model
    classifier = ("head.", "head_dist.", "fc.")
    own = model.state_dict()
    state = {k: v for k, v in read_weights(path)[0].items() if k in own or not k.startswith(classifier)}
    return load_strictly(model, state, path)


def _fill_from_npz(model: Any, path: Path) -> None:
    try:
        model.load_pretrained(str(path))
    except (ValueError, KeyError, OSError, AssertionError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an .npz of the published ViT layout for this model ({error})") from error


def _construct(facts: Path) -> Any:
    """A model from {"architecture": name, "model_args": {...}} or {"timm_constructor": "VisionTransformer(...)"}."""
    try:
        content = json.loads(facts.read_text())
        if "timm_constructor" in content:
            call = ast.parse(content["timm_constructor"], mode="eval").body
            return VisionTransformer(**{k.arg: ast.literal_eval(k.value) for k in call.keywords})  # type: ignore
        return timm.create_model(content["architecture"], **{"num_classes": 0, **content.get("model_args", {})})
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, RuntimeError) as error:
        raise InputError(f"{facts}: no timm architecture with its arguments ({error})") from error
