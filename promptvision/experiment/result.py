"""Facts about a run: what identifies its checkpoint, and what makes its result repeatable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptvision.config import dump, resolved
from promptvision.data.splits import subset_hash
from promptvision.engine.device import peak_memory
from promptvision.engine.earlier_run import differences
from promptvision.engine.environment import facts
from promptvision.errors import briefly
from promptvision.experiment.data import Data
from promptvision.experiment.loaders import image_tower, transform_of
from promptvision.method import Method

TESTED = ("METHOD.", "BACKBONE.")
"""Sections of settings that change the score of a trained run, apart from those of images and texts."""


def identity(cfg: CfgNode, data: Data) -> dict[str, Any]:
    """Return what a checkpoint must agree with: the config, except where and how often things are written."""
    plain, train = resolved(cfg), cfg.TRAIN
    sections = {name: plain[name] for name in ("SEED", "METHOD", "BACKBONE", "DATASET", "INPUT", "OPTIM")}
    ends = {"EVAL_EVERY": train.EVAL_EVERY} if train.PATIENCE else {}
    return {
        **sections,
        "TRAIN": {"VIEWS": train.VIEWS, "KEEP": train.KEEP, "PATIENCE": train.PATIENCE, **ends},
        "pictures": subset_hash(data.images.train),
        "unlabelled": subset_hash(data.images.unlabelled),
    }


def describe(cfg: CfgNode, data: Data, method: Method) -> dict[str, Any]:
    """Return what makes a run repeatable: method, images, transforms, templates."""
    plain, tower, images = resolved(cfg), image_tower(method), data.images
    return {
        "family": cfg.METHOD.FAMILY,
        "method": cfg.METHOD.NAME,
        "options": plain["METHOD"]["OPTIONS"],
        "backbone": cfg.BACKBONE.NAME,
        "dataset": data.card.name,
        "root": Path(cfg.DATASET.ROOT).name,
        "shots": cfg.DATASET.SHOTS,
        "class_subset": cfg.DATASET.CLASSES,
        "protocol": {key: value for key, value in plain["DATASET"].items() if key not in ("NAME", "ROOT", "TEMPLATE")},
        **({"selected_on_test": True} if cfg.TRAIN.KEEP == "best_test" else {}),
        "classes": data.classes,
        "seed": cfg.SEED,
        "learned_parameters": method.learned_parameters(),
        "backbone_parameters": sum(parameter.numel() for parameter in method.backbone.parameters()),
        "pictures": images.counts,
        "pictures_found": data.found,
        **{f"{split}_hash": subset_hash(getattr(images, split)) for split in ("train", "val", "test")},
        "pictures_from": images.made or "files",
        "bad_pictures": len(data.left_out),
        "left_out": briefly(data.left_out),
        "templates": getattr(method, "templates", []),
        "train_transform": cfg.INPUT.TRAIN,
        "train_views": cfg.TRAIN.VIEWS,
        "test_transform": cfg.INPUT.TEST,
        "resize": cfg.INPUT.RESIZE,
        "image_size": cfg.INPUT.SIZE or tower.image_size,
        "mean": list(cfg.INPUT.MEAN or tower.mean),
        "std": list(cfg.INPUT.STD or tower.std),
        "precision": cfg.TRAIN.PRECISION,
    }


def evaluation_hash(cfg: CfgNode, data: Data, method: Method, trained: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a later test evaluates: images with their labels, texts, transform, precision, and
    how its settings differ from those of the run (`trained`, the run's config) where they change a score."""
    items = getattr(data.images, cfg.TEST.SPLIT)
    changes = {key: now for key, (_, now) in differences(trained, resolved(cfg)).items() if key.startswith(TESTED)}
    parts = {
        "pictures": [data.images.fingerprint(items), subset_hash(items)],
        "texts": [method.classes, getattr(method, "templates", []), cfg.DATASET.TEMPLATE or data.card.template],
        "transform": repr(transform_of(cfg, method)),
        "precision": cfg.TRAIN.PRECISION,
        "together": cfg.TEST.BATCH_SIZE if getattr(method, "batchwise_test", False) else 1,
        "changes": changes,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment(method: Method) -> dict[str, Any]:
    """Return the versions and the machine of a run, and the most memory it took."""
    device = next(method.backbone.parameters()).device
    return {"peak_memory_bytes": peak_memory(device), "environment": facts(device)}


def learned_metadata(cfg: CfgNode, data: Data, method: Method) -> dict[str, Any]:
    """Return the metadata of learned.safetensors, so that the file describes itself; in a stream with its progress."""
    progress = {"task": method.task, "tasks": method.tasks} if method.tasks > 1 else {}
    return {
        "classes": list(method.trained_classes),
        "family": cfg.METHOD.FAMILY,
        "method": cfg.METHOD.NAME,
        "backbone": cfg.BACKBONE.NAME,
        "template": cfg.DATASET.TEMPLATE or data.card.template,
        "config": dump(cfg),
        **progress,
    }
