"""The contract of backbones: an image tower, a text tower, and a CLIP with both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones.blocks import BlockView, touched
from promptvision.backbones.compute import Compute
from promptvision.backbones.pinning import Tower
from promptvision.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Block = Callable[..., Tensor]
Edit = Callable[[Tensor], Tensor]
"""Tokens (B, N, D) to tokens (B, N', D)."""
Edits = Mapping[int, Edit]


class ImageTower(Tower):
    """An encoder of normalised images (B, 3, H, W) into features (B, E); `untouched` is the backbone's own forward.

    Towers made of transformer blocks also have the steps in between, `embed`, `enter`, `blocks` and `pool`, so that
    `untouched(images) == pool(blocks(enter(embed(images))))` and prompts can be inserted. Others have no `blocks`.
    A subclass sets `feature_dim` and `image_size`, and defines `untouched`, or `blocks`, `width`, `embed` and `pool`.
    """

    name: str = ""
    feature_dim: int
    """E, the length of a feature."""
    image_size: int
    """Height and width of the images, in pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    width: int = 0
    """D, the length of a token; 0 without tokens."""
    patch_size: int = 0
    prefix: int = 1
    """Tokens before the patches (class token, distillation, registers); prompts come after them."""
    compute: Compute = Compute()
    """Settings of how images are encoded, which change no result."""
    pools_first: bool = False
    """True if the feature depends on the first token only, so that `pool(tokens[:, :1])` is enough."""

    why_no_tokens: str = "has no tokens to put prompts among; choose a ViT"
    """The reason that `refusal` gives for a tower without `blocks`."""

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into features (B, E), block by block where COMPUTE asks for it."""
        view = self.last_view()
        if view or (self.compute.checkpoint and self._in_steps()):
            blocks = [*list(self.blocks)[:-1], view or self.blocks[-1]]
            return self.pool(self.run(self.enter(self.embed(images)), blocks=blocks, first=self.pooled))
        features = self.untouched(images)
        if self.compute.checkpoint and features.requires_grad:
            raise InputError(f"backbone {self.name!r} has no blocks to compute again; set COMPUTE.CHECKPOINT to False")
        return features

    def untouched(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into features (B, E) by the backbone's own code, or by its steps."""
        if not self.blocks:
            raise self.lacks("untouched (images to features), nor blocks with embed and pool")
        return self.pool(self.run(self.enter(self.embed(images))))

    def run(
        self, tokens: Tensor, edits: Edits | None = None, blocks: Sequence[Block] = (), first: int | None = None
    ) -> Tensor:
        """Run the blocks on tokens (B, N, D) that have entered: (B, N', D), or only the `first` of these.

        `edits[i]` changes the tokens that enter block i. `blocks`: called in place of the tower's own. A last block
        that the fast way knows computes no more than the first tokens.
        """
        works: list[Block] = list(blocks or self.blocks)
        view = self._view(works[-1]) if first else None
        if first and view:
            works[-1] = partial(view.first, count=first)
        for index, (work, block) in enumerate(zip(works, self.blocks, strict=True)):
            tokens = edits[index](tokens) if edits and index in edits else tokens
            tokens = self.compute.run(work, block, tokens)
        return tokens[:, :first]

    def last_view(self) -> BlockView | None:
        """Return the view by which `forward` computes the last block for the first token alone, None if it does not."""
        return self._view(self.blocks[-1]) if self.pools_first and self._in_steps() else None

    def _in_steps(self) -> bool:
        """Return whether the steps in between can stand for the backbone's own code."""
        return bool(self.blocks) and not any(touched(module) for module in self.callers)

    def _view(self, block: Block) -> BlockView | None:
        """Return the view of a last block that can leave tokens out, or None."""
        if isinstance(block, partial):
            return None
        known = (None if block.draws else block) if isinstance(block, BlockView) else self.view(self.depth - 1)
        problem = f"backbone {self.name!r} has a last block that the fast way does not know, or that draws dropout"
        return self.compute.views(lambda: known, problem)

    @property
    def pooled(self) -> int | None:
        """Number of first tokens that the feature depends on, None for all."""
        return 1 if self.pools_first else None

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    def refusal(self) -> InputError:
        """Return the error for a tower that has no `blocks` to put prompts into."""
        return InputError(f"backbone {self.name!r} {self.why_no_tokens}")

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, N, D), with positions, before any norm."""
        raise self.refusal()

    def enter(self, tokens: Tensor) -> Tensor:
        """Prepare tokens for the first block (CLIP's `ln_pre`; nothing in a plain ViT)."""
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool tokens (B, N, D) after the last block into features (B, E): final norm, pooling, projection."""
        raise self.refusal()

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the final norm to tokens (B, N, D), before any pooling."""
        raise self.refusal()

    def project(self, pooled: Tensor) -> Tensor:
        """Project pooled tokens (B, D) into features (B, E): a norm (`fc_norm`), CLIP's projection, or nothing."""
        return pooled

    def patchify(self, pixels: Tensor) -> Tensor:
        """Embed pixels (B, 3, h, w), of any size that the patch divides, as patches (B, n, D) without positions."""
        raise self.refusal()

    @property
    def class_position(self) -> Tensor:
        """Position embedding (D,) of the class token, zero if it has none."""
        raise InputError(f"backbone {self.name!r} has no class token; choose a ViT that has one")

    @property
    def stem(self) -> tuple[nn.Module, str]:
        """First convolution, over the pixels, as (module, attribute): `getattr(*tower.stem)` is the layer."""
        raise InputError(f"backbone {self.name!r} does not say which convolution sees the pixels first")

    def as_features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into features (B, E); features (B, E), computed earlier, pass through."""
        return images if images.dim() == 2 else self(images)


class TextTower(Tower):
    """An encoder of token embeddings into text features. `encode` adds positions, `embed` does not.

    A subclass sets `width`, `context_length` and where needed `causal`, `starts` and `marks`, and defines `tokenize`,
    `count`, `embed`, `eot` and `encode`.
    """

    width: int
    context_length: int
    causal: bool = True
    compute: Compute = Compute()
    """Settings of how prompts are encoded, which change no result."""
    starts: int = 1
    """Special tokens before a text."""
    marks: int = 2
    """Special tokens before and after a text."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids (N, context_length) of texts; raise InputError for a text that does not fit."""
        raise self.lacks("tokenize: texts to token ids (N, context_length)")

    def count(self, text: str) -> int:
        """Count the tokens of a text, without start and end."""
        raise self.lacks("count: a text to its number of tokens")

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids (N, L) as (N, L, D), without positions."""
        raise self.lacks("embed: token ids to tokens (N, L, width)")

    def eot(self, ids: Tensor) -> Tensor:
        """Return the position (N,) whose output becomes the text feature."""
        raise self.lacks("eot: token ids to end positions (N,)")

    def encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Encode embeddings (N, L, D) with end positions (N,) into features (N, E); every block is called untouched.

        A tower that shows its `blocks` takes a third argument, which is called in their place.
        """
        raise self.lacks("encode: tokens and end positions to features (N, E)")

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into features (N, E), not normalised."""
        ids = self.tokenize(texts)
        eot = self.eot(ids)
        length = int(eot.max()) + 1 if self.causal else ids.shape[1]
        return self.encode(self.embed(ids[:, :length]), eot)


class CLIP(nn.Module):
    """An image tower and a text tower with one feature space and a temperature."""

    def __init__(self, name: str, image: ImageTower, text: TextTower, logit_scale: nn.Parameter):
        super().__init__()
        self.name, self.image, self.text, self.logit_scale = name, image, text, logit_scale

    @property
    def compute(self) -> Compute:
        """Settings of both towers."""
        return self.text.compute

    @compute.setter
    def compute(self, compute: Compute) -> None:
        self.text.compute = self.image.compute = compute

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Compare (B, E) with (C, E), or (B, C, E): logits (B, C), exp(logit_scale) times the cosines."""
        image_features, text_features = (F.normalize(each, dim=-1) for each in (image_features, text_features))
        if text_features.dim() == 3:
            return self.logit_scale.exp() * torch.einsum("be,bce->bc", image_features, text_features)
        return self.logit_scale.exp() * image_features @ text_features.T
