"""TPT: test-time prompt tuning (Shu et al., NeurIPS 2022, arXiv:2209.07511)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from coop.parts.context_method import ContextMethod
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown
from promptvision.method import ImageViews

CROPS = ("image", "file")
AT_ONCE = 4
"""Images that are tuned together unless the backbone's `compute` says otherwise."""


def views_of(image: Tensor, count: int, smallest: float, seed: int) -> Tensor:
    """Stack an image (3, H, W) and `count` - 1 random crops of it, flipped half the time, into (count, 3, H, W).

    Crops cover `smallest` to all of the area, as in training. They depend on `seed` and the image only, not on its
    batch.
    """
    crop = v2.RandomResizedCrop(image.shape[-2:], scale=(smallest, 1.0), interpolation=InterpolationMode.BICUBIC)
    change = v2.Compose([crop, v2.RandomHorizontalFlip(0.5)])
    own = zlib.crc32(image.detach().float().cpu().numpy().tobytes(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own)
        return torch.stack([image, *(change(image) for _ in range(count - 1))])


def confident(logits: Tensor, share: float) -> Tensor:
    """Return which `share` of the views of logits (..., V, C) has the least entropy, at least one, (..., K)."""
    count = max(1, int(logits.shape[-2] * share))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return entropy.argsort(dim=-1, stable=True)[..., :count]


def marginal_entropy(logits: Tensor) -> Tensor:
    """Return the entropy (...) of the mean of the predictions of logits (..., K, C)."""
    mean = logits.log_softmax(dim=-1).logsumexp(dim=-2) - torch.tensor(float(logits.shape[-2])).log()
    return -(mean.exp() * mean).sum(dim=-1)


class TPT(ContextMethod):
    """Contexts tuned to each test image alone, without labels, and reset for the next image.

    The method predicts views of the image, keeps those with least entropy, and lowers the entropy of their mean
    prediction by steps of AdamW (weight decay 0.01); then it classifies the image itself. `views`: number of views of
    an image. `share`: share of the views that is kept. `steps`: steps of AdamW per image. `lr`: learning rate of these
    steps. `smallest_crop`: smallest share of the area that a view covers. `crops`: views are cut from the "image" after
    the test transform, bicubically, or from its "file", bilinearly, which includes the border that the centre crop
    removes (the official code); then `forward` takes views (B, V, 3, H, W), which `promptvision` makes in testing.
    `augmix`: views of files go through AugMix (the official code, on all datasets but ImageNet and its variants).
    `seed`: seed of the views. `loss_scale`: factor on the loss before backward, so that 16-bit gradients do not vanish;
    a step whose gradient overflows is left out. `n_ctx`, `ctx_init` as in CoOp. COMPUTE.IMAGES_AT_ONCE images, 4 by
    default, are tuned together, each with contexts of its own. Learns `ctx` (M, D), the start of tuning. With
    OPTIM.EPOCHS 0 it stays at `ctx_init`, as published; training it is CoOp, and METHOD.WEIGHTS accepts CoOp's official
    checkpoints (the paper's "TPT + CoOp").
    """

    frozen_images = False

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 4, ctx_init: str = "a photo of a", views: int = 64, share: float = 0.1,
        steps: int = 1, lr: float = 0.005, smallest_crop: float = 0.08, seed: int = 0,
        crops: str = "image", augmix: bool = False, loss_scale: float = 1024.0,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if views < 1 or steps < 1:
            raise InputError(f"views {views}, steps {steps}: each must be at least 1")
        for name, part in (("share", share), ("smallest_crop", smallest_crop)):
            if not 0 < part <= 1:
                raise InputError(f"{name} is {part:g}; it is a share of the whole, above 0 and up to 1")
        if loss_scale <= 0:
            raise InputError(f"loss_scale is {loss_scale:g}; it must be positive")
        if crops not in CROPS:
            raise unknown("crops", crops, CROPS)
        if augmix and crops != "file":
            raise InputError("augmix changes crops of files: it needs crops file")
        self.views, self.share, self.steps, self.lr = views, share, steps, lr
        self.smallest_crop, self.seed, self.loss_scale = smallest_crop, seed, loss_scale
        if crops == "file":
            self.image_views = ImageViews(views, smallest_crop, augmix, seed)

    def tuned(self, features: Tensor) -> Tensor:
        """Tune contexts (R, M, D), one set for each of R images, to the features (R, V, E) of their views."""
        with torch.enable_grad():
            contexts = self.ctx.detach().float().expand(len(features), -1, -1).clone().requires_grad_()
            optimizer = torch.optim.AdamW([contexts], lr=self.lr)
            kept = None
            for _ in range(self.steps):
                logits = self._logits(features, contexts)
                kept = confident(logits.detach(), self.share)[..., None] if kept is None else kept
                loss = marginal_entropy(logits.take_along_dim(kept, dim=-2)).sum()
                (gradient,) = torch.autograd.grad(loss * self.loss_scale, contexts)
                sound = gradient.isfinite().all(dim=(-2, -1), keepdim=True)
                contexts.grad = (gradient / self.loss_scale).where(sound, 0.0)
                before = contexts.detach().clone()
                optimizer.step()
                contexts.data = contexts.detach().where(sound, before)
        return contexts.detach()

    def _logits(self, features: Tensor, contexts: Tensor) -> Tensor:
        """Compare features (R, V, E) with the prompts of contexts (R, M, D) into logits (R, V, C), in float32."""
        texts = F.normalize(self.encoder(self.backbone.text, contexts), dim=-1)
        cosines = torch.einsum("rve,rce->rvc", F.normalize(features, dim=-1), texts)
        return (self.backbone.logit_scale.exp() * cosines).float()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 3, H, W), or views of each, (B, V, 3, H, W), into logits (B, C).

        Each is classified with contexts tuned to its views, the first of which is the image itself.
        """
        if self.image_views and images.ndim == 4:
            raise InputError("crops is file: forward takes views (B, V, 3, H, W), not images")
        found = []
        for few in images.split(self.backbone.compute.images_at_once or AT_ONCE):
            features = torch.stack([self.backbone.image(self._views(image)) for image in few])
            found.append(self._logits(features[:, :1], self.tuned(features))[:, 0])
        return torch.cat(found)

    def _views(self, image: Tensor) -> Tensor:
        """Return the views (V, 3, H, W) of an image, or those that are given in its place."""
        return views_of(image, self.views, self.smallest_crop, self.seed) if image.ndim == 3 else image

    def predictor(self) -> Callable[[Tensor], Tensor]:
        return self.forward
