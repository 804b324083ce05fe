"""Contexts made by a small network, as in P-tuning (Liu et al., arXiv:2103.10385, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptvision.errors import unknown

KINDS = ("mlp", "lstm")


class Network(nn.Module):
    """A map of input embeddings (..., M, D) to contexts (..., M, D), in float32: an MLP, with "lstm" after an LSTM.

    Input embeddings start as N(0, 1). The LSTM runs over the M vectors in both directions, with two layers of width
    D / 2 in each; the MLP is D -> D -> ReLU -> D, vector by vector (THUDM/P-tuning, PromptEncoder).
    """

    def __init__(self, kind: str, width: int):
        super().__init__()
        if kind not in KINDS:
            raise unknown("reparameterize", kind, KINDS)
        self.lstm = nn.LSTM(width, width // 2, 2, bidirectional=True, batch_first=True) if kind == "lstm" else None
        last = nn.Linear(width, width)
        nn.init.normal_(last.weight, std=0.02 / width**0.5)  # contexts start no larger than CoOp's noise
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)

    def forward(self, embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            hidden = self.lstm(embeddings)[0] if self.lstm else embeddings
            return self.mlp(hidden)
