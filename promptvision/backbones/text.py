"""Text towers of open_clip, its own and those of Hugging Face, in the plain way: every block is called as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError


def refuse_too_long(tower: TextTower, text: str) -> None:
    """Raise InputError for a text that would be truncated."""
    count, room = tower.count(text), tower.context_length - tower.marks
    if count > room:
        raise InputError(f"{text[:60]!r}... has {count} tokens; the text tower takes {room} between start and end")


@lru_cache(maxsize=1 << 16)
def _length(tokenizer: Any, text: str) -> int:
    """Count the tokens of a text without marks; that of a prompt is asked for more than once."""
    return len(tokenizer.encode(text))


class HubTokenizer:
    """A tokenizer of transformers, called as those of open_clip; `clean` prepares a text."""

    def __init__(self, tokenizer: Any, clean: Callable[[str], str] = str):
        self.tokenizer, self.clean = tokenizer, clean

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        settings = dict(padding="max_length", max_length=context_length, return_tensors="pt")
        return self.tokenizer([self.clean(text) for text in texts], **settings).input_ids

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text without marks."""
        return self.tokenizer.encode(self.clean(text), add_special_tokens=False)

    @property
    def marks(self) -> tuple[int, int]:
        """Numbers of marks before a text, and before and after it."""
        marked, (first, *_) = self.tokenizer.encode("a"), self.encode("a")
        return marked.index(first), len(marked) - len(self.encode("a"))


class OpenClipText(TextTower):
    """The text tower of an open_clip model: OpenAI's causal one, or one without causal mask (SigLIP's)."""

    mask: Tensor | None
    eos_id: Any

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = ""):
        super().__init__()
        tower: Any = model.text if hasattr(model, "text") else model
        if hasattr(model, "text") and (not isinstance(tower, TextTransformer) or tower.cls_emb is not None):
            raise InputError(f"the text tower of {name} ({type(tower).__name__}) takes no learned contexts yet")
        if isinstance(tokenizer, HFTokenizer):
            tokenizer = HubTokenizer(tokenizer.tokenizer, tokenizer.clean_fn)
        if isinstance(tokenizer, HubTokenizer):
            self.starts, self.marks = tokenizer.marks
        self.name, self.tokenizer = name, tokenizer
        self.token_embedding, self.transformer = tower.token_embedding, tower.transformer
        self.positional_embedding, self.ln_final = tower.positional_embedding, tower.ln_final
        self.projection = tower.text_projection
        self.register_buffer("mask", tower.attn_mask, persistent=False)
        self.pool_type = getattr(model, "text_pool_type", None) or tower.pool_type
        self.eos_id = getattr(model, "text_eos_id", None) or getattr(tower, "eos_id", None)
        self.context_length, self.width = tower.context_length, self.token_embedding.embedding_dim
        self.causal = tower.attn_mask is not None

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        return self.transformer.resblocks

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            refuse_too_long(self, text)
        ids = self.tokenizer(list(texts), context_length=self.context_length)
        if len(ids) and int(ids.max()) >= len(self.token_embedding.weight):
            rows = len(self.token_embedding.weight)
            raise InputError(f"the text tower of {self.name} knows {rows:,} tokens, fewer than its tokenizer writes")
        return ids.to(self.token_embedding.weight.device)

    def count(self, text: str) -> int:
        return _length(self.tokenizer, text)

    def embed(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids)

    def eot(self, ids: Tensor) -> Tensor:
        if self.pool_type == "argmax":
            return ids.argmax(dim=-1)
        if self.pool_type == "eos":
            return ids.eq(self.eos_id).int().argmax(dim=-1)
        return torch.full_like(ids[:, 0], 0 if self.pool_type == "first" else ids.shape[1] - 1)

    def encode(self, embeddings: Tensor, eot: Tensor, blocks: Sequence[Callable[..., Tensor]] | None = None) -> Tensor:
        """Encode embeddings (N, L, D) with end tokens (N,) into features (N, E).

        In a causal tower no end token attends to later tokens, so L need not be more than the last of them.
        `blocks`: called in place of the tower's own, as `block(tokens, attn_mask=mask)`.
        """
        length = embeddings.shape[1]
        tokens = embeddings.to(self.positional_embedding.dtype) + self.positional_embedding[:length]
        mask = None if self.mask is None else self.mask[:length, :length].to(tokens.dtype)
        for block in self.blocks if blocks is None else blocks:
            tokens = block(tokens, attn_mask=mask)
        return self.project(tokens[torch.arange(len(tokens), device=tokens.device), eot])

    def project(self, tokens: Tensor) -> Tensor:
        """Project end tokens (..., D) after the last block into features (..., E)."""
        normed = self.ln_final(tokens)
        if self.projection is None:
            return normed
        return self.projection(normed) if isinstance(self.projection, nn.Module) else normed @ self.projection


class HuggingFaceText(TextTower):
    """open_clip's `HFTextEncoder`, for BERT, RoBERTa, T5, called with embeddings; `eot` is the token before padding."""

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
