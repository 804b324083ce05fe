"""The method that a config asks for, on its backbone, and the learned tensors that it starts from."""

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
    cfg: CfgNode, families: Families, classes: Sequence[str], domains: tuple[str, str] | None = None
) -> Method:
    """The configured method on its backbone, started from the seed, on the configured device.

    `domains`: source and target that the method knows by name, if it asks; those of DATASET where they are not given.
    """
    device, family = choose_device(cfg.TRAIN.DEVICE), families[cfg.METHOD.FAMILY]
    repeatable(cfg.TRAIN.DETERMINISTIC)
    if cfg.TRAIN.THREADS:
        torch.set_num_threads(cfg.TRAIN.THREADS)
    options = method_options(cfg)
    if "templates" in options:
        options["templates"] = options["templates"] or given_template(cfg) or own_templates(cfg.DATASET.NAME, options)
    for option, domain in zip(("source_domain", "target_domain"), domains or given_domains(cfg.DATASET), strict=True):
        if option in options:
            options[option] = options[option] or domain
    name, weights, resize, pool = (cfg.BACKBONE[key] for key in ("NAME", "PRETRAINED", "RESIZE", "POOL"))
    backbone = family.load_backbone(name, weights, cfg.INPUT.SIZE, resize, pool)
    backbone.compute = Compute(cfg.COMPUTE.WAY, cfg.COMPUTE.CHUNK, cfg.COMPUTE.IMAGES_AT_ONCE)
    torch.manual_seed(cfg.SEED)
    return family.build(cfg.METHOD.NAME, backbone, classes, **options).to(device)


def given_domains(wanted: Mapping[str, Any]) -> tuple[str, str]:
    """DATASET.SOURCE and DATASET.TARGET."""
    return wanted.get("SOURCE", ""), wanted.get("TARGET", "")


def given_template(cfg: CfgNode) -> list[str]:
    """DATASET.TEMPLATE, if it is set."""
    template = cfg.DATASET.TEMPLATE
    if template and "{}" not in template:
        raise InputError(f"DATASET.TEMPLATE {template!r} has no {{}} for the class name")
    return [template] if template else []


def own_templates(dataset: str, options: Mapping[str, Any]) -> list[str]:
    """The data set's template; an ensemble goes without that of ImageNet (CoOp `ZeroshotCLIP2`)."""
    card = load_card(dataset)
    return [] if options.get("ensemble") and card.name == "imagenet" else [card.template]


def start_from(cfg: CfgNode, family: ModuleType, method: Method) -> None:
    """Set the learned tensors to those of METHOD.WEIGHTS, ours or of the official code, if they fit."""
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
    """Refuse learned tensors of another method or backbone."""
    for key, ours in (("family", cfg.METHOD.FAMILY), ("method", cfg.METHOD.NAME), ("backbone", cfg.BACKBONE.NAME)):
        if metadata.get(key) != ours:
            raise InputError(f"{path} was learned with {key} {metadata.get(key)!r}, not {ours!r}; train it anew")
