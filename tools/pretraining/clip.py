"""A CLIP learned from captions alone (arXiv:2103.00020), with a token table of the world's words only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors import torch as safetensors
from torch import Tensor, nn

from pretraining.quality import quality
from pretraining.recipe import Recipe
from pretraining.towers import encode_image, encode_text
from promptvision.atomic import write_atomically
from promptvision.data.world.captions import captions, vocabulary
from promptvision.data.world.render import render
from promptvision.data.world.scene import Scenes


class Words:
    """CLIP's BPE tokenizer, mapped to the few rows of its table that the world's words use; EOT is the last row."""

    def __init__(self) -> None:
        tokens = open_clip.get_tokenizer("ViT-B-32")
        self.encode = tokens.encode
        ends = [tokens.sot_token_id, tokens.eot_token_id]
        ids = {number for text in vocabulary() for number in self.encode(text)}
        self.ids = torch.tensor(sorted({*ids, *ends}))
        self.row = {number: row for row, number in enumerate(self.ids.tolist())}
        self.start, self.end = (self.row[number] for number in ends)
        self.known: dict[str, list[int]] = {}

    def _rows(self, word: str) -> list[int]:
        """Return the rows of a word with its punctuation, which the tokenizer sees once."""
        if word not in self.known:
            self.known[word] = [self.row[number] for number in self.encode(word)]
        return self.known[word]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the rows (n, L) of n texts, cut after the longest; KeyError for a word outside the vocabulary."""
        said = [[row for word in text.split() for row in self._rows(word)] for text in texts]
        length = max(map(len, said)) + 2
        return torch.tensor([[self.start, *rows, self.end, *[0] * (length - len(rows) - 2)] for rows in said])


def sin_cos(side: int, width: int) -> Tensor:
    """Return 2D sine-cosine positions after a zero row for the class token, (1 + side^2, width)."""
    rates = 1e4 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (x, y)]
    return F.pad(torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1), (0, 0, 1, 0))


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return open_clip's configuration of the recipe's model."""
    vision = {"image_size": recipe.side, "patch_size": recipe.patch, "width": recipe.width, "layers": recipe.layers}
    text = {"width": recipe.text_width, "heads": recipe.text_heads, "layers": recipe.text_layers}
    return {
        "embed_dim": recipe.embed_dim,
        "vision_cfg": {**vision, "head_width": recipe.head_width},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, **text},
        "quick_gelu": False,
    }


def build(recipe: Recipe, rows: int) -> CLIP:
    """Return an untrained CLIP with a token table of `rows`, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    config = describe(recipe)
    config["text_cfg"]["vocab_size"] = rows
    model = CLIP(**config)
    model.visual.positional_embedding.data = 0.5 * sin_cos(recipe.side // recipe.patch, recipe.width)
    nn.init.normal_(model.visual.conv1.weight, std=math.sqrt(2 / (3 * recipe.patch**2)))
    return model.train()


class Contrastive:
    """CLIP's symmetric loss on pairs of a rendered scene and a caption of it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.words = recipe, Words()
        self.model = build(recipe, len(self.words.ids))

    def loss(self, rng: np.random.Generator, scenes: Scenes) -> Tensor:
        """Return the loss of a batch of scenes."""
        model = self.model
        with torch.no_grad():  # the scale that the last step left
            model.logit_scale.clamp_(0, math.log(100))
        rows = self.words(captions(rng, scenes))
        logits = model.logit_scale.exp() * encode_image(model, render(scenes)) @ encode_text(model, rows).T
        same = torch.arange(len(scenes))
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    def quality(self) -> dict[str, float]:
        """Return the scale of the logits, and zero-shot accuracies in percent."""
        return {"scale": round(self.model.logit_scale.exp().item(), 1), **quality(self.model, self.words)}

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write open_clip's tensors in half precision; the used token rows and their ids replace the table."""
        tensors = {name: tensor.half().contiguous() for name, tensor in self.model.state_dict().items()}
        tensors["token_embedding.rows"] = tensors.pop("token_embedding.weight")
        tensors["token_embedding.ids"] = self.words.ids
        metadata = {"open_clip_config": json.dumps(describe(self.recipe)), **facts}
        write_atomically(path, safetensors.save(tensors, metadata))
