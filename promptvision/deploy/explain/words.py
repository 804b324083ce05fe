"""The words nearest to learned context vectors (CoOp, arXiv:2109.01134, table 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from promptvision.backbones import CLIP, TextTower
from promptvision.backbones.clip import EMBEDDED
from promptvision.backbones.prompt_encoder import PromptEncoder
from promptvision.errors import InputError
from promptvision.method import Method

GROUPS = 3
"""Classes, or prompts of a class, whose contexts are shown where each has its own."""


@dataclass(frozen=True)
class Contexts:
    """Vectors (M, D) in the places of words of a prompt."""

    title: str
    vectors: Tensor


@dataclass(frozen=True)
class NearWords:
    """The nearest words of every context vector of a prompt, with their Euclidean distances, nearest first."""

    title: str
    rows: list[list[tuple[str, float]]]


@dataclass(frozen=True)
class Vocabulary:
    """Words of a tokenizer that the text tower has embeddings (V, D) of."""

    words: list[str]
    embeddings: Tensor

    def nearest(self, vectors: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Return the `count` nearest words of vectors (M, D), each with its distance."""
        exact = "donot_use_mm_for_euclid_dist"  # a product of matrices would give no word the distance 0
        found = torch.cdist(vectors, self.embeddings, compute_mode=exact).topk(
            min(count, len(self.words)), largest=False
        )
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [[(self.words[place], value) for place, value in zip(*row, strict=True)] for row in rows]

    def spacing(self, sample: int = 500) -> float:
        """Return the median distance of a word from its nearest other word, of `sample` words evenly spread."""
        some = self.embeddings[:: max(1, len(self.words) // sample)]
        return torch.cdist(some, self.embeddings).topk(2, largest=False).values[:, 1].median().item()


def near_words(method: Method, count: int) -> tuple[list[NearWords], float]:
    """Return the nearest words of a method's context vectors, and the spacing of the vocabulary.

    InputError for a method that learns none, and for a tokenizer that cannot spell a token.
    """
    found = list(contexts_of(method))
    if not found:
        raise InputError(f"{type(method).__name__} learns no vectors in the places of words")
    vocabulary = vocabulary_of(method.backbone.text)  # type: ignore[arg-type]
    tables = [NearWords(each.title, vocabulary.nearest(each.vectors, count)) for each in found]
    return tables, vocabulary.spacing()


@torch.no_grad()
def contexts_of(method: Method) -> Iterator[Contexts]:
    """Yield the vectors that enter the first block of the text tower, of the first GROUPS classes if each has its own.

    These are what the method gives its encoder of prompts, or `ctx` where only images complete them.
    """
    given: list[tuple[Any, Tensor]] = []

    def note(encoder: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.append((encoder, inputs[1]))

    encoders = [each for each in method.modules() if isinstance(each, PromptEncoder) and not each.start]
    if not encoders or not isinstance(method.backbone, CLIP):
        return
    encode: Any = getattr(method, "text_features", None)
    if encode:
        hooks = [each.register_forward_pre_hook(note) for each in encoders]
        encode()
        for hook in hooks:
            hook.remove()
    else:
        given = [(encoders[0], method.ctx)]  # type: ignore[list-item]
    for encoder, vectors in given[:1]:
        yield from _grouped(method, encoder, vectors.float())
    for name, parameter in encoders[0].named_parameters(recurse=False):
        yield Contexts(name, parameter.float())


def _grouped(method: Method, encoder: PromptEncoder, vectors: Tensor) -> Iterator[Contexts]:
    """Yield contexts (M, D) of all classes, or, of (R, M, D) and (C, M, D), of each prompt or class that differs."""
    groups = vectors.flatten(0, -3) if vectors.dim() > 2 else vectors[None]
    if (groups == groups[:1]).all():
        yield Contexts("all classes", groups[0])
        return
    for number, own in enumerate(groups[:GROUPS]):
        yield Contexts(method.classes[number] if encoder.class_specific else f"prompt {number + 1}", own)


def vocabulary_of(tower: TextTower) -> Vocabulary:
    """Return the words of a text tower by its own tokenizer; of the embedded CLIP those that it was trained on."""
    shown: Any = tower
    tokenizer, table = getattr(shown, "tokenizer", None), getattr(shown, "token_embedding", None)
    speller: Any = getattr(tokenizer, "tokenizer", tokenizer)
    if table is None or not hasattr(speller, "decode"):
        raise InputError("the text tower shows no token_embedding, or no tokenizer that decodes: no words to name")
    ids = torch.arange(len(table.weight))
    if getattr(shown, "name", "") == "embedded":
        with safe_open(EMBEDDED, "pt") as file:
            ids = file.get_tensor("token_embedding.ids").long()
    words = [speller.decode([number]).strip() or f"token {number}" for number in ids.tolist()]
    return Vocabulary(words, table.weight.detach().float()[ids.to(table.weight.device)])
