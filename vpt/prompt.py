"""Visual Prompt Tuning, shallow and deep, and its ablations (Jia et al., ECCV 2022, arXiv:2203.12119)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.backbones.image import run_blocks
from promptvision.backbones.prefix import check_blocks, prefixed_features
from promptvision.errors import InputError
from promptvision.method import Batches, Method
from vpt.choices import check_choices, edits_only
from vpt.parts.cls_init import class_token_embeddings, initial_prompts
from vpt.parts.heads import Head
from vpt.parts.locations import init_bound, location_edits, pooled, strip_tokens, token_count
from vpt.parts.prompted_blocks import schedule
from vpt.parts.thaw import thaw_biases, thaw_class_token


class Prompt(Method):
    """Prompt tokens among a frozen ViT's tokens, and a linear head.

    `num_tokens`: P. `deep`: new prompts at every block, else only at the first; `layers`: at the first so many
    blocks, `last`: at the last so many (0: all). `keep`: prompts stay among the tokens behind the last block that
    has its own (`false` is the official FORWARD_DEEP_NOEXPAND). `shared`: the same prompts at every block.
    `location`: "prepend" puts them before the patches; "add" adds one to each token (P is not used), "add_one" the
    same one to all; "pixel" is a learned strip of pixels that the patch embedding makes P tokens of, with `normalize`
    in [0, 1] and normalised as images are.
    `init`: "uniform" (`init_bound`; normalised pixels in [0, 1]), "gaussian" (deviation 0.02; pixels 1), or from
    class tokens of training images: "final-cls", "cls-nolastl", "cls-nofirstl" (`initial_prompts`).
    `project`: the prompts' own width d, brought to the tokens' width D by one linear layer shared by all blocks; -1
    for none. `dropout`: on the prompts, after projection, independently per image.
    `prefix`: P keys and values per block, put before those of the tokens, in the place of prompt tokens.
    `pool`: what the head sees, the "backbone"'s own feature or the mean of some tokens (`pooled`).
    `also`: what learns with the prompts, "bias" (all biases), "cls" or "cls-reinit" (the class token, from N(0, 1e-6)).
    `frozen`: prompts stay as they start (the official "prompt-noupdate"). `head_init`: "small" or "published".
    `delete_patches`: with `last`, the official slip that the first prompts overwrite the first P patches.
    `way`: how the tower is run (`prompted_features`); it changes no result.

    Learns `prompt_embeddings` (1, P, d), with `deep` `deep_prompt_embeddings` (blocks - 1, P, d), with `last` only the
    latter, (last, P, d); with `prefix` `prefix_embeddings` (blocks, 2, P, d); with `project`
    `prompt_proj.{weight, bias}`; and `head.last_layer.{weight, bias}`. The official code counts
    `deep_prompt_embeddings` as trained with shared prompts too, where nothing uses them; here they do not exist.
    """

    backbone: ImageTower
    prompt_embeddings: Tensor
    no_decay = frozenset({"head.last_layer.bias"})

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        num_tokens: int = 10,
        deep: bool = False,
        layers: int = 0,
        last: int = 0,
        keep: bool = True,
        shared: bool = False,
        location: str = "prepend",
        normalize: bool = False,
        init: str = "uniform",
        project: int = -1,
        dropout: float = 0.0,
        prefix: bool = False,
        pool: str = "backbone",
        also: str = "",
        frozen: bool = False,
        head_init: str = "small",
        delete_patches: bool = False,
        way: str = "auto",
    ):
        options = {name: value for name, value in locals().items() if name not in ("self", "backbone", "classes")}
        super().__init__(backbone, classes)
        if not backbone.depth:
            raise backbone.refusal()
        check_choices(options)
        self.plan = schedule(backbone.depth, deep=deep, layers=layers, last=last, keep=keep)
        if "prompt" in pool and not self.plan.left:
            raise InputError(f"pool: {pool} needs prompts behind the last block; set keep to true")
        if prefix:
            check_blocks(backbone)
        self.options, self.edited = options, edits_only(options)
        self._hold_prompts(project if project > 0 else backbone.width)
        self.prompt_proj = _projection(project, backbone.width) if project > 0 else nn.Identity()
        self.prompt_dropout = nn.Dropout(dropout)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self._thaw(also)

    def _hold_prompts(self, dim: int) -> None:
        """Make the prompts of width d, as parameters, or as buffers where they are frozen."""
        for name, shape in self._shapes(dim).items():
            values = self._initial(shape, init_bound(self.backbone.patch_size, dim))
            if self.options["frozen"]:
                self.register_buffer(name, values)
            else:
                self.register_parameter(name, nn.Parameter(values))

    def _shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        location, patch, count = self.options["location"], self.backbone.patch_size, self.plan.count
        tokens = self.options["num_tokens"]
        if location == "pixel":
            return {"prompt_embeddings": (1, 3, patch, patch * tokens)}
        if self.options["prefix"]:
            return {"prefix_embeddings": (count, 2, tokens, dim)}
        tokens = {"add": token_count(self.backbone), "add_one": 1}.get(location, tokens)
        if self.options["shared"] or count == 1 and not self.options["last"]:
            return {"prompt_embeddings": (1, tokens, dim)}
        if self.options["last"]:
            return {"deep_prompt_embeddings": (count, tokens, dim)}
        return {"prompt_embeddings": (1, tokens, dim), "deep_prompt_embeddings": (count - 1, tokens, dim)}

    def _initial(self, shape: tuple[int, ...], bound: float) -> Tensor:
        pixels, values = self.options["location"] == "pixel", torch.empty(shape)
        if self.options["init"] == "gaussian":
            return values.normal_(std=1.0 if pixels else 0.02)
        return values.uniform_(0, 1) if self.options["normalize"] else values.uniform_(-bound, bound)

    def _thaw(self, also: str) -> None:
        if also == "bias":
            thaw_biases(self.backbone)
        elif also:
            thaw_class_token(self.backbone, reinit=also == "cls-reinit")

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """With an `init` from class tokens: set the prompts to what the training images give."""
        if "cls" not in self.options["init"]:
            return
        found = class_token_embeddings(self.backbone, train, len(self.classes), self.options["num_tokens"])
        own = initial_prompts(found, self.options["init"])[self.plan.start :][: self.plan.count]
        for prompts, values in zip(self._per_block(), own, strict=True):
            prompts.copy_(values)

    def _per_block(self) -> list[Tensor]:
        """Views of the prompts of every prompted block, each (P, d), or keys and values (2, P, d)."""
        if self.options["location"] == "pixel":
            return [strip_tokens(self.backbone, self.prompt_embeddings, self.options["normalize"])]
        names = ("prompt_embeddings", "deep_prompt_embeddings", "prefix_embeddings")
        rows = [row for name in names if hasattr(self, name) for row in getattr(self, name)]
        return rows * self.plan.count if self.options["shared"] else rows

    def _tokens(self, embeddings: Tensor, batch: int) -> Tensor:
        """Prompts (..., d) as they enter a block: (..., D), or with dropout (B, ..., D), which differ in the batch."""
        prompts = self.prompt_proj(embeddings)
        if not (self.training and self.options["dropout"]):
            return prompts
        return self.prompt_dropout(prompts.expand(batch, *prompts.shape))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E): what the head sees."""
        options, plan, tower = self.options, self.plan, self.backbone
        prompts = [self._tokens(own, len(images)) for own in self._per_block()]
        if options["prefix"]:
            prefixes = [(own[..., 0, :, :], own[..., 1, :, :]) for own in prompts]
            return prefixed_features(tower, images, [*[None] * plan.start, *prefixes])
        if self.edited:
            add = options["location"] in ("add", "add_one")
            edits = location_edits(tower, prompts, plan, add=add, delete_patches=options["delete_patches"])
            left = prompts[0].shape[-2] if plan.left and not add else 0
            return pooled(tower, run_blocks(tower, images, edits), options["pool"], left)
        first, *others = prompts
        return prompted_features(tower, images, first, others, options["way"], start=plan.start, keep=plan.keep)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _projection(dim: int, width: int) -> nn.Linear:
    """(P, d) to (P, D), Kaiming normal by fan-out, as the official code starts it."""
    layer = nn.Linear(dim, width)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer
