"""Classifiers of features: a zero-shot head for open_clip, and a plain ViT for timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from promptvision.atomic import write_atomically
from promptvision.backbones import CLIP
from promptvision.deploy.classifier import Classifier
from promptvision.errors import InputError
from promptvision.experiment.loaders import image_tower

FORMULA = "logits = logit_scale * normalize(image_features) @ class_features.T"


def write_head(classifier: Classifier, path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the classifier of a run's image features, and return the facts with what the file is."""
    if isinstance(classifier.method.backbone, CLIP):
        tensors, more = zero_shot_head(classifier)
    else:
        tensors, more = timm_state(classifier)
    facts = {**facts, **more}
    write_atomically(path, save(tensors, {"format": "pt", "promptvision": json.dumps(facts)}))
    return facts


def zero_shot_head(classifier: Classifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return `class_features` (C, E) and `logit_scale` of a CLIP method that is FORMULA with them.

    They are what the method predicts for the unit vectors in place of image features; that the formula holds for all
    others is for a check to find out.
    """
    method, name, cfg = classifier.method, classifier.cfg.METHOD.NAME, classifier.cfg
    if not method.frozen_images or method.frozen_layers:
        raise InputError(f"{name} changes CLIP's image features: no head on these predicts as it does; use --to onnx")
    predict = classifier.predictor.predict
    with torch.no_grad():
        scale = method.backbone.logit_scale.exp()  # type: ignore[operator, union-attr]
        weight = predict(torch.eye(image_tower(method).feature_dim)).T / scale
    tensors = {"class_features": weight.contiguous(), "logit_scale": scale.detach().reshape(1)}
    return tensors, {
        "kind": "zero-shot head",
        "formula": FORMULA,
        "open_clip": {"model": cfg.BACKBONE.NAME, "pretrained": cfg.BACKBONE.PRETRAINED},
    }


def timm_state(classifier: Classifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict of a timm model with a classifier that is the run's, and the arguments of the model."""
    method, name = classifier.method, classifier.cfg.METHOD.NAME
    tower: Any = merged(method)
    model: Any = getattr(tower, "model", None)
    facts = getattr(model, "pretrained_cfg", None) or {}
    last = getattr(getattr(method, "head", None), "last_layer", None)
    if not facts.get("architecture"):
        raise InputError(f"backbone {tower.name!r} is no model that timm creates by its name; use --to onnx or pt2")
    if not isinstance(last, nn.Linear):
        raise InputError(f"{name} has no linear head, which a model of timm ends with; use --to onnx or pt2")
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    ending = facts.get("classifier") or "head"
    state |= {f"{ending}.{key}": value.detach().clone() for key, value in last.state_dict().items()}
    arguments = {"num_classes": len(classifier.classes), "global_pool": model.global_pool}
    if tower.image_size != facts.get("input_size", (3, 0))[1]:
        arguments["img_size"] = tower.image_size
    return state, {"kind": "timm", "architecture": facts["architecture"], "model_args": arguments}


def merged(method: Any) -> nn.Module:
    """Return the backbone with the method's changes folded into its weights, as it is for one that folds nothing."""
    try:
        return method.merged() if hasattr(method, "merged") else method.backbone
    except InputError:  # it does not fold
        return method.backbone
