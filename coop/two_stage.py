"""2SFS: two-stage few-shot learning, the towers, then the classifier (Farina et al., CVPR 2025, arXiv:2503.11609)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.clip_lora import LAYERS, put
from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from coop.parts.texts import given_templates
from coop.parts.tuned_towers import names_of_biases, names_of_norms, tuned_copy
from promptvision.backbones import CLIP, lora
from promptvision.backbones.prompt_encoder import ChangedTexts
from promptvision.errors import InputError, unknown

KINDS = ("ln", "bitfit", "lora")


class TwoStage(FeatureMethod):
    """First some tensors of CLIP's towers learn with texts as classes, then a classifier W on the frozen towers.

    W (C, E) starts as the normalised features of the texts after the first stage. Classes of training are named by W,
    all others by the texts through the text tower as the first stage left it.
    `tune`: tensors that the first stage learns: "ln", weights and biases of the norms; "bitfit", all biases in the
    blocks; "lora", low-rank changes of queries, keys and values. `rank`, `dropout` as in clip_lora, for "lora".
    `encoder`: both, vision or text. `vision_start`, `text_start`: the first block that learns, from 0. `outer_norms`:
    "ln" also learns the norms before and after the blocks. `stage_one`: share of the steps in the first stage, after
    which the schedule starts again. `templates`: texts with `{}` for the class name.
    Learns the tensors of CLIP under their official names, and `classifier`, which is zero in the first stage.
    """

    features: Tensor
    towers: dict[str, Any]
    vision: dict[int, dict[str, lora.LowRank]]
    text: dict[int, dict[str, lora.LowRank]]

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        tune: str = "ln", encoder: str = "both", vision_start: int = 0, text_start: int = 0, outer_norms: bool = True,
        rank: int = 2, dropout: float = 0.25, stage_one: float = 0.6, templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        for option, value, known in (("tune", tune, KINDS), ("encoder", encoder, ("both", "vision", "text"))):
            if value not in known:
                raise unknown(option, value, known)
        if not 0 < stage_one < 1:
            raise InputError(f"stage_one is {stage_one:g}; the share of the first stage is above 0 and below 1")
        lora.check(rank, "q", dropout)
        self.templates, self.stages, self.stage = given_templates(templates), (stage_one, 1 - stage_one), 0
        self.vision, self.text, self.frozen_images = {}, {}, encoder == "text"
        towers: dict[str, Any] = {}
        if encoder != "vision":
            towers["text"], self.text = self._tuned(backbone.text, text_start)
        if encoder != "text":
            towers["image"], self.vision = self._tuned(backbone.image, vision_start, "visual.")
        self.__dict__["towers"] = towers  # not submodules: all but the tensors under official names is the backbone's
        texts = filled(self.templates, classes)
        if encoder == "vision":
            self.register_buffer("features", class_features(backbone, texts), persistent=False)
        else:
            ids = backbone.text.tokenize([text for own in texts for text in own])
            self.texts = ChangedTexts(backbone.text, ids, backbone.text.eot(ids))
        self.classifier = nn.Parameter(torch.zeros(len(self.trained_classes), backbone.image.feature_dim))

    def _tuned(self, tower: Any, start: int, prefix: str = "") -> tuple[Any, dict[int, dict[str, lora.LowRank]]]:
        """Return the tower that the first stage tunes, and its low-rank changes; add what they learn to the method."""
        if self.options["tune"] == "lora":
            rank = self.options["rank"]
            new = partial(lora.LowRank, rank=rank, scaling=1 / math.sqrt(rank), prefix="w_lora_")
            layers = range(start, max(start + 1, len(tower.blocks)))
            changes = lora.tower_changes(tower, layers, "qkv", partial(new, dropout=self.options["dropout"]))
            for index, block in changes.items():
                for target, change in block.items():
                    put(self, f"{prefix}transformer.resblocks.{index}.attn.{LAYERS[target]}", change)
            return tower, changes
        biases, outer = self.options["tune"] == "bitfit", self.options["outer_norms"]
        chosen = names_of_biases(tower, start) if biases else names_of_norms(tower, start, outer)
        copied, learned = tuned_copy(tower, chosen.__contains__)
        for name, parameter in learned.items():
            put(self, name, parameter)
        return copied, {}

    def image_features(self, images: Tensor) -> Tensor:
        if self.frozen_images:
            return self.backbone.image.as_features(images)
        self.towers["image"].compute = self.backbone.compute
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stage):
            return lora.changed_image(self.towers["image"], images, self.vision)

    def text_features(self) -> Tensor:
        """Return W for classes of training in the second stage, features of texts for others and in the first."""
        if not self.stage:
            return self.named_by_texts()
        labels = torch.tensor(self.trained_labels, device=self.classifier.device)
        if self.classes == self.trained_classes:
            return self.classifier
        rows = self.classifier[labels.clamp(min=0)]
        return torch.where(labels[:, None] < 0, self.named_by_texts(), rows) if -1 in self.trained_labels else rows

    def named_by_texts(self) -> Tensor:
        """Return the features (C, E) of the texts; those of several templates are normalised and averaged."""
        if "text" not in self.towers:
            return self.features
        self.towers["text"].compute = self.backbone.compute
        found = self.texts(self.towers["text"], lora.changed_views(self.towers["text"], self.text))
        if len(self.templates) == 1:
            return found
        return F.normalize(found, dim=-1).unflatten(0, (len(self.classes), -1)).mean(dim=1)

    @torch.no_grad()
    def start_stage(self, stage: int) -> None:
        self.stage = stage
        if stage:
            self.eval()
        self.classifier.copy_(
            F.normalize(self.named_by_texts(), dim=-1) if stage else torch.zeros_like(self.classifier)
        )

    def train(self, mode: bool = True) -> TwoStage:
        """Switch to training mode; the towers draw no dropout in the second stage."""
        super().train(mode and not self.stage)
        return self

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; without `classifier`, or with zeros, they are those of the first stage."""
        super().load_learned_state({"classifier": torch.zeros_like(self.classifier), **state})
        self.stage = int(self.classifier.any())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TwoStage:
        """Move and convert the copies of the towers along, whose buffers are not shared."""
        super()._apply(fn, recurse)
        for tower in self.towers.values():
            tower._apply(fn, recurse)
        return self
