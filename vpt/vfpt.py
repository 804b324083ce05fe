"""Visual Fourier Prompt Tuning (Zeng et al., NeurIPS 2024, arXiv:2411.01327)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from vpt.prompt import Prompt

AXES = {"all": (-2, -1), "sequence": (-2,), "hidden": (-1,)}
"""`dimensions` -> the axes of prompts (k, D) that are transformed."""


class VFPT(Prompt):
    """VPT with a share of each block's prompts replaced by the real part of their Fourier transform.

    `fraction`: share of the P prompts that are transformed; of these there are k = floor(P fraction), the first ones,
    and 0 is VPT. `dimensions`: what is transformed, over the channels ("hidden"), over the k prompts ("sequence"), or
    over both ("all"). `deep`: every block has its own prompts, else only the first. `num_tokens`, `project`, `dropout`,
    `head_init`: as in `prompt`.
    The transform is not normalised, as in the official code: transformed over both axes, prompts are about
    sqrt(k D / 2) times as large. The order of prompts, an option there, changes no output. Learns the tensors of
    `prompt`; channel 0 of a transformed prompt counts for nothing, since blocks begin with a norm.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        fraction: float = 0.5,
        dimensions: str = "all",
        num_tokens: int = 10,
        deep: bool = True,
        project: int = -1,
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        if dimensions not in AXES:
            raise unknown("dimensions", dimensions, tuple(AXES))
        if not 0 <= fraction <= 1:
            raise InputError(f"fraction is {fraction}; it is the share of transformed prompts, from 0 to 1")
        own = dict(num_tokens=num_tokens, deep=deep, project=project, dropout=dropout, head_init=head_init)
        super().__init__(backbone, classes, **own)  # type: ignore[arg-type]
        self.transformed = int(num_tokens * fraction)

    def prompts(self, batch: int) -> list[Tensor]:
        """Return the prompts as they enter each block, (P, D), or with dropout (B, P, D), partly transformed."""
        return [self._mixed(block) for block in super().prompts(batch)]

    def _mixed(self, prompts: Tensor) -> Tensor:
        """Return prompts (..., P, D) with the first k of them transformed."""
        if not self.transformed:
            return prompts
        first, rest = prompts[..., : self.transformed, :], prompts[..., self.transformed :, :]
        whole = first.to(torch.promote_types(first.dtype, torch.float32))  # 16 bits have no transform
        first = torch.fft.fftn(whole, dim=AXES[self.options["dimensions"]]).real.to(prompts.dtype)
        return torch.cat([first, rest], dim=-2)
