"""What is written about a run: whose checkpoint it is, and what makes its result repeatable."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from promptvision.config import dump, resolved
from promptvision.data.card import Card
from promptvision.data.splits import subset_hash
from promptvision.engine.device import peak_memory
from promptvision.engine.environment import facts
from promptvision.experiment.data import Data
from promptvision.experiment.loaders import image_tower
from promptvision.method import Method


def identity(cfg: CfgNode, data: Data) -> dict[str, Any]:
    """What a checkpoint must agree with: the whole config but where and how often things are written."""
    plain = resolved(cfg)
    sections = {name: plain[name] for name in ("SEED", "METHOD", "BACKBONE", "DATASET", "INPUT", "OPTIM")}
    return {
        **sections,
        "TRAIN": {"VIEWS": cfg.TRAIN.VIEWS, "KEEP": cfg.TRAIN.KEEP},
        "pictures": subset_hash(data.images.train),
        "unlabelled": subset_hash(data.images.unlabelled),
    }


def describe(cfg: CfgNode, data: Data, method: Method) -> dict[str, Any]:
    """What makes the run repeatable: method, images, transforms, templates."""
    plain, tower = resolved(cfg), image_tower(method)
    return {
        "family": cfg.METHOD.FAMILY,
        "method": cfg.METHOD.NAME,
        "options": plain["METHOD"]["OPTIONS"],
        "backbone": cfg.BACKBONE.NAME,
        "dataset": data.card.name,
        "shots": cfg.DATASET.SHOTS,
        "class_subset": cfg.DATASET.CLASSES,
        "protocol": {key: value for key, value in plain["DATASET"].items() if key not in ("NAME", "ROOT", "TEMPLATE")},
        "classes": data.classes,
        "seed": cfg.SEED,
        "learned_parameters": method.learned_parameters(),
        "backbone_parameters": sum(parameter.numel() for parameter in method.backbone.parameters()),
        "pictures": {part: len(getattr(data.images, part)) for part in ("train", "val", "test", "unlabelled")},
        **{f"{part}_hash": subset_hash(getattr(data.images, part)) for part in ("train", "val", "test")},
        "pictures_from": data.images.made or "files",
        "bad_pictures": len(data.left_out),
        "left_out": data.left_out,
        "templates": getattr(method, "templates", []),
        "train_transform": cfg.INPUT.TRAIN,
        "train_views": cfg.TRAIN.VIEWS,
        "test_transform": cfg.INPUT.TEST,
        "image_size": cfg.INPUT.SIZE or tower.image_size,
        "mean": list(cfg.INPUT.MEAN or tower.mean),
        "std": list(cfg.INPUT.STD or tower.std),
        "precision": cfg.TRAIN.PRECISION,
    }


def environment(method: Method) -> dict[str, Any]:
    """Where it ran, and the most memory it took."""
    device = next(method.backbone.parameters()).device
    return {"peak_memory_bytes": peak_memory(device), "environment": facts(device)}


def learned_metadata(cfg: CfgNode, card: Card, method: Method) -> dict[str, Any]:
    """What stands beside the learned tensors, so that the file alone tells what it is."""
    return {
        "classes": method.classes,
        "family": cfg.METHOD.FAMILY,
        "method": cfg.METHOD.NAME,
        "backbone": cfg.BACKBONE.NAME,
        "template": cfg.DATASET.TEMPLATE or card.template,
        "config": dump(cfg),
    }
