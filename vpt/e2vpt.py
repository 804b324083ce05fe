"""E2VPT: VPT with learned keys and values, and prompts that are pruned (Han et al., ICCV 2023, arXiv:2307.13770)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.image import insert, remove
from promptvision.backbones.prefix import Prefix, known_block, prefixed_tokens
from promptvision.errors import InputError
from promptvision.method import Batches
from vpt.parts.keys_values import KeysAndValues, joined
from vpt.parts.pruning import check_pruning, importance, mask_least
from vpt.prompt import Prompt

MASKS = ("prompt_soft_tokens_mask_cls_token", "prompt_soft_tokens_pieces_mask_cls_token")
"""Masks of whole prompts (P,), and of their pieces (P, K)."""
READERS = "keys and values"


class E2VPT(Prompt):
    """VPT, with learned keys and values in every block, whose prompts can be pruned and trained again.

    `num_keys`: keys and values n of each block and head, before those of the tokens. `separate`: keys and values are
    tensors of their own, else one tensor serves as both. `deep`: every block has its own prompts, else only the first.
    `prune_tokens`: share of the P prompts that are masked. `prune_pieces`: share of the P K pieces of prompts. With
    either, the first half of the steps trains all prompts. Then the gradients of masks of ones, over the training
    images without augmentation, rank prompts and pieces; the smallest, signed, are masked, the same in all blocks, and
    the second half trains the others from the start again, with a schedule of its own. A masked prompt is a token of
    zeros. `pieces`: pieces K of a prompt of width d; piece k has its channels k, k + K, k + 2 K and so on.
    `num_tokens`, `project`, `dropout`, `head_init`: as in `prompt`.

    Learns the tensors of `prompt` and `encoder.layer.l.attn.deep_QKV_embeddings` (heads, n, D / heads), with `separate`
    one with `_K` and one with `_V`; with pruning it keeps `prompt_soft_tokens_mask_cls_token` (P,) and
    `prompt_soft_tokens_pieces_mask_cls_token` (P, K).
    """

    remembered = frozenset(MASKS)
    seen: Batches = ()

    def __init__(
        self, backbone: ImageTower, classes: Sequence[str], *,
        num_keys: int = 5, separate: bool = False, prune_tokens: float = 0.0, prune_pieces: float = 0.0,
        pieces: int = 16, num_tokens: int = 10, deep: bool = True, project: int = -1, dropout: float = 0.0,
        head_init: str = "small",
    ):  # fmt: skip
        own = dict(num_tokens=num_tokens, deep=deep, project=project, dropout=dropout, head_init=head_init)
        super().__init__(backbone, classes, **own)  # type: ignore[arg-type]
        if num_keys < 1:
            raise InputError(f"num_keys is {num_keys}; each block needs at least one key and value")
        views = [known_block(backbone, index, READERS) for index in range(backbone.depth)]
        shapes = [(view.heads, num_keys, backbone.width // view.heads) for view in views]
        layers = [nn.ModuleDict({"attn": KeysAndValues(shape, separate)}) for shape in shapes]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.masked = bool(prune_tokens or prune_pieces)
        if self.masked:
            check_pruning(self.options, self.prompt_embeddings.shape[2])
            self.stages = (0.5, 0.5)
            for name, shape in zip(MASKS, ((num_tokens,), (num_tokens, pieces)), strict=True):
                self.register_buffer(name, torch.ones(shape))
            self.start = {name: tensor.detach().clone() for name, tensor in self.trained().items()}

    @property
    def masks(self) -> list[Tensor]:
        """The masks of prompts and of their pieces; none without pruning."""
        return [getattr(self, name) for name in MASKS if self.masked]

    def embeddings(self) -> list[Tensor]:
        """Return the prompts of each prompted block, (P, d), with pruning times their masks."""
        blocks = super().embeddings()
        if not self.masked:
            return blocks
        tokens, pieces = self.masks
        mask = tokens[:, None] * pieces.repeat(1, blocks[0].shape[1] // pieces.shape[1])
        return [block * mask for block in blocks]

    def features(self, images: Tensor) -> Tensor:
        tower, prompts = self.backbone, self.prompts(images.shape[0])
        first, others, at = prompts[0], prompts[1:], tower.prefix
        tokens = tower.embed(images)
        # if the next block has others, which replace them, prompts are keys and values alone
        given: list[Tensor | None] = [tower.enter(first), *others] if others else [None] * tower.depth
        tokens = tower.enter(tokens if others else insert(tokens, first, at))
        prefixes = [self._prefix(index, prompt) for index, prompt in enumerate(given)]
        left = prefixed_tokens(tower, tokens, prefixes, tower.pooled)
        return tower.pool(left if others or tower.pools_first else remove(left, at, first.shape[-2]))

    def _prefix(self, index: int, prompt: Tensor | None) -> Prefix:
        """Return the keys and values of a block, (n, D), joined with those of its prompt, (P, D) or (B, P, D)."""
        own = self.encoder["layer"][index]["attn"]()  # type: ignore[index]
        if prompt is None:
            return own
        view = known_block(self.backbone, index, READERS)
        keys, values = view.part(view.norm1(prompt), 1, 3).chunk(2, dim=-1)
        return joined(own[0], keys), joined(own[1], values)

    def prepare(self, train: Batches, val: Batches) -> None:
        """Remember where the training images are, which rank what is pruned."""
        self.seen = train if self.masked else ()

    @torch.no_grad()
    def start_stage(self, stage: int) -> None:
        """Mask what has the smallest gradients, and go back to the start, before the second half."""
        if not stage:
            return
        mode, shares = self.training, (self.options["prune_tokens"], self.options["prune_pieces"])
        for mask, scores, share in zip(self.masks, importance(self.eval(), self.masks, self.seen), shares, strict=True):
            mask_least(mask, scores, share)
        for name, tensor in self.trained().items():
            tensor.copy_(self.start[name])
        self.seen = ()
        self.train(mode)

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the learned tensors; masks that the state lacks stay as they are."""
        super().load_learned_state({**dict(zip(MASKS, self.masks, strict=False)), **state})
