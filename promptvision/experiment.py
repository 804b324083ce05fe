"""From a config to a result: the one place that reads the whole config and knows backbones, data and engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from yacs.config import CfgNode

from promptvision.backbones import CLIP, ImageTower
from promptvision.config import dump, method_options, resolved
from promptvision.data.cards import Card, load_card
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.pictures import Item, Pictures
from promptvision.data.readers import read
from promptvision.data.splits import class_subset, few_shot, short_classes, subset_classes, subset_hash
from promptvision.data.transforms import Transform, test_transform, train_transform
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.device import choose_device, peak_memory
from promptvision.engine.evaluate import evaluate
from promptvision.engine.log import RunFolder, facts
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.train import fit
from promptvision.errors import InputError
from promptvision.method import Method

LOG = logging.getLogger(__name__)
Families = Mapping[str, ModuleType]
KEEP_AT_MOST = 1024
"""Few-shot sets of up to this many pictures are decoded once and kept in memory."""


@dataclass
class Data:
    """The pictures and classes a run may see."""

    card: Card
    pictures: Pictures
    classes: list[str]


def load_data(cfg: CfgNode) -> Data:
    """Few-shot picks first, from all classes, then the class subset, as published."""
    card = load_card(cfg.DATASET.NAME)
    pictures = read(card, cfg.DATASET.ROOT)
    train, val = few_shot(pictures.train, pictures.val, cfg.DATASET.SHOTS, cfg.SEED)
    for name, count in short_classes(pictures.train, cfg.DATASET.SHOTS).items():
        LOG.warning("class %r has only %d training pictures for %d shots: all are used", name, count, cfg.DATASET.SHOTS)

    def subset(items: Sequence[Item]) -> list[Item]:
        return class_subset(items, cfg.DATASET.CLASSES, pictures.classes)

    chosen = Pictures(train=subset(train), val=subset(val), test=subset(pictures.test), open=pictures.open)
    return Data(card, chosen, subset_classes(pictures.classes, cfg.DATASET.CLASSES))


def load_method(cfg: CfgNode, families: Families, classes: Sequence[str]) -> Method:
    """The configured method on its backbone, started from the seed, on the configured device."""
    device, family = choose_device(cfg.TRAIN.DEVICE), families[cfg.METHOD.FAMILY]
    if cfg.TRAIN.THREADS:
        torch.set_num_threads(cfg.TRAIN.THREADS)
    options = method_options(cfg)
    if "templates" in options:
        options["templates"] = options["templates"] or [load_card(cfg.DATASET.NAME).template]
    backbone = family.load_backbone(cfg.BACKBONE.NAME, cfg.BACKBONE.PRETRAINED, cfg.INPUT.SIZE)
    torch.manual_seed(cfg.SEED)
    return family.build(cfg.METHOD.NAME, backbone, classes, **options).to(device)


def image_tower(method: Method) -> ImageTower:
    """The tower that sees the pictures: it decides their size and normalisation."""
    backbone: Any = method.backbone
    return backbone.image if isinstance(backbone, CLIP) else backbone


def transform_of(cfg: CfgNode, method: Method, training: bool = False) -> Transform:
    """The configured recipe, at the backbone's size and normalisation unless the config sets its own."""
    tower = image_tower(method)
    size, mean, std = cfg.INPUT.SIZE or tower.image_size, cfg.INPUT.MEAN or tower.mean, cfg.INPUT.STD or tower.std
    if training:
        return train_transform(cfg.INPUT.TRAIN, size, mean, std)
    return test_transform(cfg.INPUT.TEST, size, mean, std)


def test_loader(cfg: CfgNode, data: Data, method: Method, split: str) -> TestLoader:
    """The pictures of a split, in order."""
    items = getattr(data.pictures, split)
    if not items:
        raise InputError(f"data set {data.card.name!r} has no {split} pictures")
    transform = transform_of(cfg, method)
    size, workers = cfg.TEST.BATCH_SIZE, cfg.TRAIN.WORKERS
    return TestLoader(items, data.pictures.open, transform, batch_size=size, workers=workers)


def train_loader(cfg: CfgNode, data: Data, method: Method) -> TrainLoader:
    """Shuffled, augmented batches of the training pictures."""
    items = data.pictures.train
    return TrainLoader(
        items,
        data.pictures.open,
        transform_of(cfg, method, training=True),
        batch_size=cfg.OPTIM.BATCH_SIZE,
        seed=cfg.SEED,
        workers=cfg.TRAIN.WORKERS,
        keep=cfg.DATASET.SHOTS > 0 and len(items) <= KEEP_AT_MOST,
    )


def rates(cfg: CfgNode) -> list[float]:
    """The learning rate of every epoch."""
    optim = cfg.OPTIM
    return learning_rates(
        optim.SCHEDULE,
        optim.LR,
        optim.EPOCHS,
        steps=optim.STEPS,
        gamma=optim.GAMMA,
        warmup_epochs=optim.WARMUP_EPOCHS,
        warmup_type=optim.WARMUP_TYPE,
        warmup_lr=optim.WARMUP_LR,
        warmup_recount=optim.WARMUP_RECOUNT,
    )


def run(cfg: CfgNode, families: Families, folder: RunFolder, *, progress: bool = True) -> dict[str, Any]:
    """Train, evaluate, and leave in `folder` all that a table needs; gives the contents of result.json."""
    data = load_data(cfg)
    method = load_method(cfg, families, data.classes)
    folder.write_config(dump(cfg))
    trained = train(cfg, data, method, folder, progress)
    save_learned(folder.learned, method.learned_state(), learned_metadata(cfg, data.card, method))
    found = test(cfg, data, method, progress)
    result = {**found, **trained, **describe(cfg, data, method), **environment(method)}
    folder.write_result(result)
    return result


def train(cfg: CfgNode, data: Data, method: Method, folder: RunFolder, progress: bool) -> dict[str, Any]:
    """`fit` with everything the config says; a method that learns nothing reads no training pictures."""
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optim, device = cfg.OPTIM, choose_device(cfg.TRAIN.DEVICE)
    optimizer = build_optimizer(
        optim.NAME, learned.items(), optim.LR, optim.WEIGHT_DECAY, optim.MOMENTUM, method.no_decay
    )

    def validate() -> dict[str, Any]:
        return evaluate(method, test_loader(cfg, data, method, "val"), device, cfg.TRAIN.PRECISION)

    return fit(
        method,
        train_loader(cfg, data, method) if learned else (),  # type: ignore[arg-type]
        optimizer,
        rates(cfg),
        folder,
        seed=cfg.SEED,
        device=device,
        precision=cfg.TRAIN.PRECISION,
        checkpoint_every=cfg.TRAIN.CHECKPOINT_EVERY,
        validate=validate,
        validate_every=cfg.TRAIN.EVAL_EVERY,
        identity=identity(cfg, data),
        progress=progress,
    )


def identity(cfg: CfgNode, data: Data) -> dict[str, Any]:
    """What a checkpoint must agree with: the whole config but where and how often things are written."""
    plain = resolved(cfg)
    sections = {name: plain[name] for name in ("SEED", "METHOD", "BACKBONE", "DATASET", "INPUT", "OPTIM")}
    return {**sections, "pictures": subset_hash(data.pictures.train)}


def test(cfg: CfgNode, data: Data, method: Method, progress: bool = False) -> dict[str, Any]:
    """The scores on TEST.SPLIT."""
    split = cfg.TEST.SPLIT
    loader, device = test_loader(cfg, data, method, split), choose_device(cfg.TRAIN.DEVICE)
    found = evaluate(method, loader, device, cfg.TRAIN.PRECISION, progress=f"testing on {split}" if progress else "")
    return {"split": split, **found}


def describe(cfg: CfgNode, data: Data, method: Method) -> dict[str, Any]:
    """What makes the run repeatable: method, pictures, transforms, templates."""
    plain, tower = resolved(cfg), image_tower(method)
    return {
        "family": cfg.METHOD.FAMILY,
        "method": cfg.METHOD.NAME,
        "options": plain["METHOD"]["OPTIONS"],
        "backbone": cfg.BACKBONE.NAME,
        "dataset": data.card.name,
        "shots": cfg.DATASET.SHOTS,
        "class_subset": cfg.DATASET.CLASSES,
        "classes": data.classes,
        "seed": cfg.SEED,
        "learned_parameters": sum(tensor.numel() for tensor in method.learned_state().values()),
        "backbone_parameters": sum(parameter.numel() for parameter in method.backbone.parameters()),
        "pictures": {split: len(getattr(data.pictures, split)) for split in ("train", "val", "test")},
        "train_hash": subset_hash(data.pictures.train),
        "test_hash": subset_hash(data.pictures.test),
        "templates": getattr(method, "templates", []),
        "train_transform": cfg.INPUT.TRAIN,
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
        "template": card.template,
        "config": dump(cfg),
    }


def load_run(cfg: CfgNode, families: Families, folder: str | Path) -> Method:
    """The trained method of a run folder, for the classes it was trained on."""
    path = Path(folder) / "learned.safetensors"
    state, metadata = load_learned(path)
    for key, ours in (("family", cfg.METHOD.FAMILY), ("method", cfg.METHOD.NAME), ("backbone", cfg.BACKBONE.NAME)):
        if metadata.get(key) != ours:
            raise InputError(f"{path} was learned with {key} {metadata.get(key)!r}, not {ours!r}; train it anew")
    method = load_method(cfg, families, metadata["classes"])
    method.load_learned_state(state)
    return method


def retest(cfg: CfgNode, families: Families, folder: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Evaluate a run again, perhaps on other data: new classes are named if the method can."""
    method, data = load_run(cfg, families, folder), load_data(cfg)
    if data.classes != method.classes:
        LOG.info("the run was trained on %d other classes: naming %d new ones", len(method.classes), len(data.classes))
        method = method.for_classes(data.classes)
    return {**test(cfg, data, method, progress), **describe(cfg, data, method), **environment(method)}
