"""Hugging Face text towers inside open_clip models (BERT, RoBERTa, T5): the plain way only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones.text import refuse_too_long
from promptvision.backbones.towers import TextTower


class HuggingFaceText(TextTower):
    """open_clip's `HFTextEncoder`, called with embeddings; `eot` is the last token before padding."""

    causal = False

    def __init__(self, encoder: nn.Module, tokenizer: Any, name: str = ""):
        super().__init__()
        tower: Any = encoder
        self.name, self.encoder, self.tokenizer = name, tower, tokenizer.tokenizer
        self.context_length = tokenizer.context_length
        self.pad = tower.config.pad_token_id
        self.token_embedding = tower.transformer.get_input_embeddings()
        self.width = self.token_embedding.embedding_dim
        marks = self.tokenizer.encode("a")
        self.starts = marks.index(self.tokenizer.encode("a", add_special_tokens=False)[0])
        self.marks = len(marks) - 1

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            refuse_too_long(self, text)
        padded = self.tokenizer(list(texts), padding="max_length", max_length=self.context_length, return_tensors="pt")
        return padded.input_ids.to(self.token_embedding.weight.device)

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def embed(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids)

    def eot(self, ids: Tensor) -> Tensor:
        return (ids != self.pad).sum(dim=-1) - 1

    def encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        mask = (torch.arange(embeddings.shape[1], device=eot.device) <= eot[:, None]).long()
        found = self.encoder.transformer(
            inputs_embeds=embeddings.to(self.token_embedding.weight.dtype), attention_mask=mask
        )
        return self.encoder.proj(self.encoder.pooler(found, mask))
