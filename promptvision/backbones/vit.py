"""Image backbones by name: models of timm, the image towers of CLIPs, files, or your own."""

from __future__ import annotations

import ast
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from promptvision.atomic import read_json, refuse_damaged
from promptvision.backbones.adapt.modules import adapted
from promptvision.backbones.clip import load_clip, refuse_other_weights
from promptvision.backbones.compute import Compute
from promptvision.backbones.conversion import fill_from_npz, fitted
from promptvision.backbones.custom import call_custom
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.positions import check_size, resize_positions
from promptvision.backbones.timm_tower import TimmTower
from promptvision.backbones.towers import ImageTower
from promptvision.backbones.weights import load_strictly, read_weights
from promptvision.errors import InputError, unknown
from promptvision.network import Source
from promptvision.own_code import names_code

ELSEWHERE = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments of timm that load other files, which the description of a weight file has no say in."""
FILES = (".safetensors", ".pth", ".pt", ".bin", ".npz")


def load_vit(
    name: str | Path | nn.Module,
    pretrained: str | bool | None = "default",
    image_size: int = 0,
    resize: str = "timm",
    pool: str = "default",
    *,
    compute: Compute | None = None,
) -> ImageTower:
    """Load an image backbone, frozen and in eval mode.

    `name`: a timm name, with or without tag (`vit_base_patch16_224.augreg_in21k`), or `hf-hub:` id; an open_clip name
    that timm does not have (`ViT-B-16`), for the image tower of that CLIP without its projection; "embedded"; a
    weight file with a .json of the same name that has the architecture; `module:function`; or a module.
    `pretrained`: "default" (the library's weights for that name), "none" for random ones, or a local .safetensors,
    .pth or Google .npz file (`conversion.LAYOUTS`). `image_size`: pixels, 0 for the model's own. `resize`: method of
    resizing position embeddings (`positions.WAYS`). `pool`: "token" or "avg" for a timm ViT that pools otherwise.
    `compute`: how the tower encodes prompted images, which changes no result.
    """
    tower = _tower(name, pretrained, image_size, resize, pool)
    if pool != "default" and not isinstance(tower, TimmTower):
        raise InputError(f"BACKBONE.POOL {pool}: backbone {tower.name} has one way to pool; leave it at default")
    if image_size:
        check_size(tower, image_size)
        tower = resize_positions(tower, image_size, resize)
    tower.compute = compute or tower.compute
    return tower.requires_grad_(False).eval()


def _tower(
    name: str | Path | nn.Module, pretrained: str | bool | None, image_size: int, resize: str, pool: str
) -> ImageTower:
    """Return the tower that a name, or a module, stands for."""
    if isinstance(name, nn.Module):
        return adapted(name, image_size)
    refuse_other_weights(name, pretrained)
    if names_code(name):
        return _tower(call_custom(str(name)), pretrained, image_size, resize, pool)
    if name == "embedded" or (name in open_clip.list_models() and not timm.is_model(str(name))):
        image = load_clip(name, pretrained).image
        return OpenClipImage(image.model, str(name), projected=not image.blocks)  # type: ignore[arg-type]
    if Path(name).suffix in FILES:
        return TimmTower(_from_file(Path(name)), Path(name).stem)
    return _from_timm(str(name), pretrained, image_size, resize, pool)


def _from_timm(name: str, pretrained: str | bool | None, image_size: int, resize: str, pool: str) -> ImageTower:
    """Return the tower of a timm model with timm's weights, a file's, or random ones."""
    options = {} if pool == "default" else {"global_pool": pool}
    if pretrained in (True, "default"):
        return TimmTower(_create(name, True, options), name)
    model = _create(name, False, options)
    own_size = TimmTower(model).image_size
    if pretrained not in (None, False, "none", ""):
        path = Path(str(pretrained))
        if not path.is_file():
            raise InputError(
                f"BACKBONE.PRETRAINED {pretrained}: neither 'default', 'none' nor a weight file that exists"
            )
        _fill(model, path)
    tower = TimmTower(model, name)
    return tower if image_size else resize_positions(tower, own_size, resize)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Create a timm model without classifier, after checking its name."""
    architecture = name.partition(".")[0]
    elsewhere = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not elsewhere:
        if not timm.is_model(architecture):
            raise unknown("backbone", name, ["embedded", *timm.list_models("vit_*"), *timm.list_pretrained("vit_*")])
        if "." in name and name not in timm.list_pretrained(f"{architecture}.*"):
            raise unknown("backbone", name, timm.list_pretrained(f"{architecture}.*"))
    advice = "give a file: BACKBONE.PRETRAINED path/to/weights.safetensors (or 'none' for random weights)"
    from_network = (pretrained or elsewhere) and not name.startswith("local-dir:")
    source = source_of(name).use(f"the weights of {name}", advice) if from_network else nullcontext()
    try:
        with refuse_damaged(f"BACKBONE.NAME {name}: no model of timm") if elsewhere else nullcontext(), source:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (AssertionError, TypeError, ValueError) as error:
        if isinstance(error, InputError) or not options:
            raise
        raise InputError(f"backbone {name} cannot pool by BACKBONE.POOL {options['global_pool']} ({error})") from error


def source_of(name: str) -> Source:
    """Return where timm looks for the weights of a model of its own, or on the Hub."""
    kind, _, repo = name.partition(":")
    facts = None if repo else timm.get_pretrained_cfg(name, allow_unregistered=False)
    repo = repo or (facts and facts.hf_hub_id) or ""
    if repo:
        return Source.hub(repo)
    return Source.torch(str(facts.url if facts and facts.url else ""))


def _from_file(path: Path) -> nn.Module:
    """Build the timm model of a weight file from the .json beside it.

    It holds {"architecture": name, "model_args": {...}} or {"timm_constructor": "VisionTransformer(...)"}.
    """
    facts = path.with_suffix(".json")
    if not facts.is_file():
        raise InputError(
            f"{path} needs {facts.name} beside it with the constructor's arguments, or name the model: "
            f"BACKBONE.NAME <timm name> BACKBONE.PRETRAINED {path}"
        )
    with refuse_damaged(f"{facts}: no timm architecture with its arguments"):
        content = read_json(facts)
        if "timm_constructor" in content:
            call: Any = ast.parse(content["timm_constructor"], mode="eval").body
            model: nn.Module = VisionTransformer(**{k.arg: ast.literal_eval(k.value) for k in call.keywords})
        else:
            given = {key: value for key, value in content.get("model_args", {}).items() if key not in ELSEWHERE}
            model = timm.create_model(content["architecture"], **{"num_classes": 0, **given})
    return _fill(model, path)


def _fill(model: Any, path: Path) -> nn.Module:
    """Load a weight file into a timm model."""
    if path.suffix == ".npz":
        fill_from_npz(model, path)
        return model
    return load_strictly(model, fitted(read_weights(path)[0], model, path), path)
