"""The configured method on its backbone, and the learned tensors that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from yacs.config import CfgNode

from promptvision.backbones.compute import Compute
from promptvision.config import method_options
from promptvision.data.cards import load_card
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.device import choose_device, repeatable
from promptvision.errors import InputError
from promptvision.method import Method

Families = Mapping[str, ModuleType]


def load_method(
    cfg: CfgNode, families: Families, classes: Sequence[str], trained_on: Mapping[str, Any] | None = None
) -> Method:
    """Build the configured method on its backbone, started from the seed, on the configured device.

    `trained_on`: the DATASET section of a trained run, if it differs from the config's; a method may know its domains
    by name.
    """
    device, family = choose_device(cfg.TRAIN.DEVICE), families[cfg.METHOD.FAMILY]
    repeatable(cfg.TRAIN.DETERMINISTIC)
    if cfg.TRAIN.THREADS:
        torch.set_num_threads(cfg.TRAIN.THREADS)
    options = method_options(cfg)
    if "templates" in options:
        options["templates"] = options["templates"] or default_templates(cfg.DATASET, options)
    for option, domain in (("source_domain", "SOURCE"), ("target_domain", "TARGET")):
        if option in options:
            options[option] = options[option] or (trained_on or cfg.DATASET).get(domain, "")
    backbone = load_backbone(cfg, families)
    torch.manual_seed(cfg.SEED)
    return family.build(cfg.METHOD.NAME, backbone, classes, **options).to(device)


def load_backbone(cfg: CfgNode, families: Families) -> Any:
    """Load the configured backbone, as it is before a method adapts it: an image tower, or a CLIP."""
    name, weights, resize, pool = (cfg.BACKBONE[key] for key in ("NAME", "PRETRAINED", "RESIZE", "POOL"))
    backbone = families[cfg.METHOD.FAMILY].load_backbone(name, weights, cfg.INPUT.SIZE, resize, pool)
    way, chunk, images, checkpoint = (cfg.COMPUTE[key] for key in ("WAY", "CHUNK", "IMAGES_AT_ONCE", "CHECKPOINT"))
    backbone.compute = Compute(way, chunk, images, checkpoint)
    return backbone


def default_templates(dataset: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return DATASET.TEMPLATE, else the template of the card; for an ensemble not ImageNet's (CoOp `ZeroshotCLIP2`)."""
    template = dataset["TEMPLATE"]
    if template:
        if "{}" not in template:
            raise InputError(f"DATASET.TEMPLATE {template!r} has no {{}} for the class name")
        return [template]
    card = load_card(dataset["NAME"])
    return [] if options.get("ensemble") and card.name == "imagenet" else [card.template]


def start_from(cfg: CfgNode, family: ModuleType, method: Method) -> None:
    """Load the learned tensors of METHOD.WEIGHTS, ours or those of the official code."""
    path = Path(cfg.METHOD.WEIGHTS)
    if path.suffix == ".safetensors":
        state, metadata = load_learned(path)
        check_origin(cfg, path, metadata)
    elif hasattr(family, "load_checkpoint"):
        state = family.load_checkpoint(path, method)
    else:
        raise InputError(f"METHOD.WEIGHTS {path}: the {cfg.METHOD.FAMILY} family starts from learned.safetensors only")
    try:
        method.load_learned_state(state)
    except InputError as error:
        raise InputError(f"METHOD.WEIGHTS {path} does not fit: {error}") from error


def check_origin(cfg: CfgNode, path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise InputError for learned tensors of another method or backbone."""
    for key, ours in (("family", cfg.METHOD.FAMILY), ("method", cfg.METHOD.NAME), ("backbone", cfg.BACKBONE.NAME)):
        if metadata.get(key) != ours:
            raise InputError(f"{path} was learned with {key} {metadata.get(key)!r}, not {ours!r}; train it again")
