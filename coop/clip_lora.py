"""CLIP-LoRA: low-rank few-shot adaptation of vision-language models (Zanella and Ben Ayed, arXiv:2405.18541)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from promptvision.backbones import CLIP, lora
from promptvision.backbones.prompt_encoder import ChangedTexts
from promptvision.errors import InputError, counted, unknown

LAYERS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}
"""The official names of the changed layers, by target."""
SCALINGS = {"sqrt": math.sqrt, "linear": float}
"""Divisor of alpha, as a function of the rank."""


class ClipLora(FeatureMethod):
    """Low-rank changes W x + b + s B A x of attention weights in CLIP's two towers; the classes are texts.

    `rank`: rank r. `alpha` and `scaling`: s is alpha / sqrt(r) for "sqrt" (the official code; rsLoRA,
    arXiv:2312.03732), alpha / r for "linear". `targets`: which weights, any of q, k, v, o. `encoder`: both, vision or
    text. `vision_layers`, `text_layers`: indices of the changed blocks, from 0; all if empty. `dropout`: on the input
    of A, drawn for every token of every image and text. `logit_scale`: factor of the cosine, 0 for the backbone's own
    (published: 100). `template`: a text with `{}` for the class name. The texts of all classes run through the changed
    tower in every step.
    Learns `[visual.]transformer.resblocks.{i}.attn.{q_proj,k_proj,v_proj,proj}.w_lora_{A,B}`, (r, D) and (D, r).
    """

    features: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        rank: int = 2, alpha: float = 1.0, scaling: str = "sqrt", targets: Sequence[str] = ("q", "k", "v"),
        encoder: str = "both", vision_layers: Sequence[int] = (), text_layers: Sequence[int] = (),
        dropout: float = 0.25, logit_scale: float = 0.0, template: str = "a photo of a {}.",
    ):  # fmt: skip
        super().__init__(backbone, classes)
        lora.check(rank, targets, dropout, tuple(LAYERS))
        for option, value, known in (("encoder", encoder, ("both", "vision", "text")), ("scaling", scaling, SCALINGS)):
            if value not in known:
                raise unknown(option, value, known)
        factor = alpha / SCALINGS[scaling](rank)
        new = partial(lora.LowRank, rank=rank, scaling=factor, dropout=dropout, prefix="w_lora_")
        self.vision = {} if encoder == "text" else lora.tower_changes(backbone.image, vision_layers, targets, new)
        self.text = {} if encoder == "vision" else lora.tower_changes(backbone.text, text_layers, targets, new)
        for name, changes in self._places().items():
            for target, change in changes.items():
                put(self, f"{name}.attn.{LAYERS[target]}", change)
        self.frozen_images, self.templates = encoder == "text", [template]
        texts = filled([template], classes)
        if self.text:
            ids = backbone.text.tokenize([text for own in texts for text in own])
            self.texts = ChangedTexts(backbone.text, ids, backbone.text.eot(ids))
        else:
            self.register_buffer("features", class_features(backbone, texts), persistent=False)

    def _places(self) -> dict[str, dict[str, lora.LowRank]]:
        """Return the changes of every block under its official name, in the official order."""
        text = {f"transformer.resblocks.{i}": block for i, block in self.text.items()}
        return text | {f"visual.transformer.resblocks.{i}": block for i, block in self.vision.items()}

    def image_features(self, images: Tensor) -> Tensor:
        if not self.vision:
            return self.backbone.image.as_features(images)
        return lora.changed_image(self.backbone.image, images, self.vision)

    def text_features(self) -> Tensor:
        text = self.backbone.text
        return self.texts(text, lora.changed_views(text, self.text)) if self.text else self.features

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        if not self.options["logit_scale"]:
            return super().logits(image_features, text_features)
        return self.options["logit_scale"] * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T

    def from_official(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the learned tensors of {"weights", "metadata"} as the official `save_lora` writes them.

        They are `weights["layer_{n}"][layer]["w_lora_A"]`; text blocks are counted before those of the image tower.
        """
        weights, metadata, places = content["weights"], content["metadata"], list(self._places())
        self._check_metadata(metadata)
        if len(weights) != len(places):
            raise InputError(
                f"it changes {counted(len(weights), 'block')} (position {metadata.get('position')!r}), this method "
                f"{len(places)}: set METHOD.OPTIONS.TEXT_LAYERS and VISION_LAYERS to the numbers of its blocks"
            )
        return {
            f"{place}.attn.{layer}.{name}": tensor.float()
            for number, place in enumerate(places)
            for layer, tensors in weights[f"layer_{number}"].items()
            for name, tensor in tensors.items()
        }

    def _check_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Raise InputError for a checkpoint that fits by shape but was learned with other settings."""
        ours = {"r": "rank", "alpha": "alpha", "encoder": "encoder", "params": "targets"}
        for key, option in ours.items():
            theirs, own = (
                sorted(v) if isinstance(v, list | tuple) else v for v in (metadata[key], self.options[option])
            )
            if theirs != own:
                raise InputError(f"it was learned with {option} {theirs!r}: set METHOD.OPTIONS.{option.upper()}")
        if self.options["scaling"] != "sqrt":
            raise InputError("the official code divides alpha by the root of the rank: set METHOD.OPTIONS.SCALING sqrt")
        position, chosen = metadata["position"], [*self.options["vision_layers"], *self.options["text_layers"]]
        if position != "all" and not chosen:
            raise InputError(
                f"its position is {position!r}: set METHOD.OPTIONS.TEXT_LAYERS and VISION_LAYERS to its blocks"
            )


def put(root: nn.Module, path: str, part: nn.Module | nn.Parameter) -> None:
    """Add a module or parameter as `root.<path>`, with empty modules in between."""
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    setattr(root, last, part)
