"""TPT: test-time prompt tuning (Shu et al., NeurIPS 2022, arXiv:2209.07511)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from coop.parts.context_method import ContextMethod
from coop.parts.per_image import parts
from promptvision.backbones import CLIP
from promptvision.errors import InputError

SCALE = 1024.0
"""Factor on the loss before backward, so that 16-bit gradients do not vanish; AdamW does not feel it."""
AT_ONCE = 4
"""Images that are tuned together unless the backbone's `compute` says otherwise."""


def views_of(image: Tensor, count: int, smallest: float, seed: int) -> Tensor:
    """An image (3, H, W) and `count` - 1 random crops of it, flipped half the time: (count, 3, H, W).

    Crops cover `smallest` to all of the area, as in training. They are a function of `seed` and the image alone,
    whatever its batch. Made from the image as the test transform left it, cut and normalised, where the official
    code starts from the file: up to the border that the centre crop takes away it is the same.
    """
    crop = v2.RandomResizedCrop(image.shape[-2:], scale=(smallest, 1.0), interpolation=InterpolationMode.BICUBIC)
    change = v2.Compose([crop, v2.RandomHorizontalFlip(0.5)])
    own = zlib.crc32(image.detach().float().cpu().numpy().tobytes(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own)
        return torch.stack([image, *(change(image) for _ in range(count - 1))])


def confident(logits: Tensor, share: float) -> Tensor:
    """Which `share` of the views of logits (..., V, C) has the least entropy, one at least: (..., K)."""
    count = max(1, int(logits.shape[-2] * share))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return entropy.argsort(dim=-1, stable=True)[..., :count]


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy (...) of the mean of the predictions of logits (..., K, C)."""
    mean = logits.log_softmax(dim=-1).logsumexp(dim=-2) - torch.tensor(float(logits.shape[-2])).log()
    return -(mean.exp() * mean).sum(dim=-1)


class TPT(ContextMethod):
    """Contexts tuned to every test image by itself, without labels, and put back for the next.

    `views` of the image are predicted, the `share` of least entropy is kept, and `steps` of AdamW at rate `lr`
    (weight decay 0.01) lower the entropy of their mean prediction; then the image itself is classified.
    `smallest_crop`: share of the area a view covers at least. `seed`: of the views. `n_ctx`, `ctx_init` as in
    CoOp. COMPUTE.IMAGES_AT_ONCE images, 4 by default, are tuned together, each with contexts of its own.
    Learns `ctx` (M, D): where tuning starts. With OPTIM.EPOCHS 0 it stays at `ctx_init`, as published; training it
    is CoOp, and METHOD.WEIGHTS takes CoOp's official checkpoints (the paper's "TPT + CoOp").
    """

    frozen_images = False

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 4,
        ctx_init: str = "a photo of a",
        views: int = 64,
        share: float = 0.1,
        steps: int = 1,
        lr: float = 0.005,
        smallest_crop: float = 0.08,
        seed: int = 0,
    ):
        own = dict(views=views, share=share, steps=steps, lr=lr, smallest_crop=smallest_crop, seed=seed)
        super().__init__(backbone, classes, n_ctx=n_ctx, ctx_init=ctx_init, **own)
        if views < 1 or steps < 1:
            raise InputError(f"views {views}, steps {steps}: each must be at least 1")
        for name, part in (("share", share), ("smallest_crop", smallest_crop)):
            if not 0 < part <= 1:
                raise InputError(f"{name} is {part:g}; it takes a part of the whole, above 0 and up to 1")
        self.views, self.share, self.steps, self.lr = views, share, steps, lr
        self.smallest_crop, self.seed = smallest_crop, seed

    def tuned(self, features: Tensor) -> Tensor:
        """Features (R, V, E) of the views of R images to contexts (R, M, D), one set for each image."""
        with torch.enable_grad():
            contexts = self.ctx.detach().float().expand(len(features), -1, -1).clone().requires_grad_()
            optimizer = torch.optim.AdamW([contexts], lr=self.lr)
            kept = None
            for _ in range(self.steps):
                logits = self._logits(features, contexts)
                kept = confident(logits.detach(), self.share)[..., None] if kept is None else kept
                loss = marginal_entropy(logits.take_along_dim(kept, dim=-2)).sum()
                (gradient,) = torch.autograd.grad(loss * SCALE, contexts)
                contexts.grad = gradient / SCALE
                optimizer.step()
        return contexts.detach()

    def _logits(self, features: Tensor, contexts: Tensor) -> Tensor:
        """Features (R, V, E) and contexts (R, M, D) to logits (R, V, C), in float32."""
        texts = F.normalize(self.encoder(self.backbone.text, contexts), dim=-1)
        cosines = torch.einsum("rve,rce->rvc", F.normalize(features, dim=-1), texts)
        return (self.backbone.logit_scale.exp() * cosines).float()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to logits (B, C), each image by contexts tuned to it."""
        at_once = self.backbone.compute.images_at_once or AT_ONCE
        return torch.cat([self._classify(images[part]) for part in parts(len(images), at_once)])

    @torch.no_grad()
    def _classify(self, images: Tensor) -> Tensor:
        seen = torch.stack([views_of(image, self.views, self.smallest_crop, self.seed) for image in images])
        features = torch.stack([self.backbone.image(views) for views in seen])
        return self._logits(features[:, :1], self.tuned(features))[:, 0]

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Nothing is shared by images."""
        return self.forward
