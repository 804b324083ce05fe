"""What a method may ask of a backbone: an image tower, a text tower, a CLIP that holds both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones.compute import Compute
from promptvision.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageTower(nn.Module):
    """Turns normalised images (B, 3, H, W) into features (B, E); `forward` is the backbone untouched.

    Towers made of transformer blocks also offer the steps between: `embed`, `enter`, `blocks`, `pool`, so that
    `forward(images) == pool(blocks(enter(embed(images))))` and prompts can be put in. Others have no `blocks`.
    """

    name: str = ""
    feature_dim: int
    """E, the length of a feature."""
    image_size: int
    """Height and width, in pixels, that the tower was built for."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    width: int = 0
    """D, the length of a token; 0 where there are none."""
    patch_size: int = 0
    prefix: int = 1
    """Tokens before the patches (class token, distillation, registers); prompts are put behind them."""
    blocks: Sequence[nn.Module] = ()
    compute: Compute = Compute()
    """How prompted images are encoded; it changes no result."""
    pools_first: bool = False
    """Whether the feature depends on the first token alone, so that `pool(tokens[:, :1])` is enough."""

    why_no_tokens: str = "has no tokens to put prompts among; choose a ViT"
    """What `refusal` says of a tower without `blocks`."""

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    def refusal(self) -> InputError:
        """Why this tower, having no `blocks`, takes no prompts among its tokens."""
        return InputError(f"backbone {self.name!r} {self.why_no_tokens}")

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to tokens (B, N, D), positions added, before any norm."""
        raise self.refusal()

    def enter(self, tokens: Tensor) -> Tensor:
        """What the tower does to its tokens before the first block (CLIP's `ln_pre`; nothing in a plain ViT)."""
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block to features (B, E): final norm, pooling, projection."""
        raise self.refusal()

    def normalize(self, tokens: Tensor) -> Tensor:
        """The final norm of tokens (B, N, D) -> (B, N, D), before any pooling."""
        raise self.refusal()

    def project(self, pooled: Tensor) -> Tensor:
        """What follows the pooling: (B, D) -> (B, E), a norm (`fc_norm`), CLIP's projection, or nothing."""
        return pooled

    def patchify(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) of any size the patch divides to patch embeddings (B, n, D), without positions."""
        raise self.refusal()

    @property
    def class_position(self) -> Tensor:
        """(D,), the position embedding of the class token, zero where it has none."""
        raise InputError(f"backbone {self.name!r} has no class token; choose a ViT that has one")

    @property
    def stem(self) -> tuple[nn.Module, str]:
        """The first convolution, over the pixels, as (module, attribute): `getattr(*tower.stem)` is the layer."""
        raise InputError(f"backbone {self.name!r} does not tell which convolution sees the pixels first")

    def as_features(self, images: Tensor) -> Tensor:
        """(B, E): `forward` of images (B, 3, H, W); features (B, E), computed earlier, come back as they are."""
        return images if images.dim() == 2 else self(images)


class TextTower(nn.Module):
    """Turns token embeddings into text features. Positions are added by `encode`, not by `embed`."""

    width: int
    context_length: int
    causal: bool = True
    blocks: Sequence[nn.Module] = ()
    compute: Compute = Compute()
    """How prompts are encoded; it changes no result."""
    starts: int = 1
    """Special tokens before a text."""
    marks: int = 2
    """Special tokens before and behind a text."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts to token ids (N, context_length); a text that does not fit is refused."""
        raise NotImplementedError

    def count(self, text: str) -> int:
        """Number of tokens of a text, without start and end."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (N, L) to embeddings (N, L, D), without positions."""
        raise NotImplementedError

    def eot(self, ids: Tensor) -> Tensor:
        """Position (N,) whose output becomes the text feature."""
        raise NotImplementedError

    def encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Embeddings (N, L, D) and positions (N,) to features (N, E), every block called untouched.

        A tower that shows its `blocks` takes a third argument, what to call in their place.
        """
        raise NotImplementedError

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Texts to features (N, E), not normalised."""
        ids = self.tokenize(texts)
        return self.encode(self.embed(ids), self.eot(ids))


class CLIP(nn.Module):
    """An image tower and a text tower with one feature space and a temperature."""

    def __init__(self, name: str, image: ImageTower, text: TextTower, logit_scale: nn.Parameter):
        super().__init__()
        self.name, self.image, self.text, self.logit_scale = name, image, text, logit_scale

    @property
    def compute(self) -> Compute:
        """How the towers encode prompts; setting it sets both."""
        return self.text.compute

    @compute.setter
    def compute(self, compute: Compute) -> None:
        self.text.compute = self.image.compute = compute

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, E) and (C, E), or (B, C, E), to (B, C): exp(logit_scale) times the cosine."""
        image_features, text_features = (
            F.normalize(image_features, dim=-1),
            F.normalize(text_features, dim=-1),
        )
        if text_features.dim() == 3:
            return self.logit_scale.exp() * torch.einsum("be,bce->bc", image_features, text_features)
        return self.logit_scale.exp() * image_features @ text_features.T
