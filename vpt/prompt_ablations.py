"""The ablations of Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119, section 4.3 and appendix)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.backbones.image import run_blocks
from promptvision.backbones.prefix import check_blocks, prefixed_features
from promptvision.errors import InputError, unknown
from promptvision.method import Batches
from vpt.parts.cls_init import class_token_embeddings, initial_prompts
from vpt.parts.locations import location_edits, normalized, pooled
from vpt.parts.prompted_blocks import PromptedBlocks, prompted_blocks
from vpt.parts.thaw import biases, class_token
from vpt.prompt import Prompt, init_bound

CHOICES = {
    "location": ("prepend", "add", "add_one", "pixel"),
    "init": ("uniform", "gaussian", "final-cls", "cls-nolastl", "cls-nofirstl"),
    "pool": ("backbone", "cls", "image", "prompt", "image_prompt"),
    "also": ("", "bias", "cls", "cls-reinit"),
}


class PromptAblations(Prompt):
    """Prompt tuning with every choice of the paper's ablations; as `prompt` where they keep their defaults.

    `num_tokens`, `deep`, `project`, `dropout`, `head_init`: as in `prompt`. `layers`: number of first
    blocks with prompts, 0 for all. `last`: number of last blocks with prompts, 0 for all. `keep`: prompts stay among
    the tokens after the last block with its own (`false` is the official FORWARD_DEEP_NOEXPAND). `shared`: all blocks
    have the same prompts.
    `location`: "prepend" puts prompts before the patches; "add" adds one to each token (P is not used), "add_one" the
    same one to all; "pixel" is a learned strip of pixels that the patch embedding turns into P tokens. `normalize`:
    the strip is in [0, 1] and is normalised as images are.
    `init`: "uniform" (`init_bound`; normalised pixels in [0, 1]), "gaussian" (deviation 0.02; pixels 1), or from
    class tokens of training images: "final-cls", "cls-nolastl", "cls-nofirstl" (`initial_prompts`).
    `prefix`: P keys and values per block, put before those of the tokens, instead of prompt tokens.
    `pool`: input of the head: the feature of the "backbone", the "cls" token, or the mean of "image", "prompt" or
    "image_prompt" tokens (`pooled`). `also`: other parameters that learn: "bias" (all biases), "cls" (the class token)
    or "cls-reinit" (the same, from N(0, 1e-6)).
    `frozen`: prompts keep their initial values (the official "prompt-noupdate").
    `delete_patches`: with `last`, the official slip that the first prompts overwrite the first P patches.

    Learns `prompt_embeddings` (1, P, d), with `deep` `deep_prompt_embeddings` (blocks - 1, P, d), with `last` only the
    latter, (last, P, d); with `prefix` `prefix_embeddings` (blocks, 2, P, d); with `project`
    `prompt_proj.{weight, bias}`; and `head.last_layer.{weight, bias}`. The official code counts
    `deep_prompt_embeddings` as trained with shared prompts too, where nothing uses them; here they do not exist.
    """

    plan: PromptedBlocks

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        location: str = "prepend",
        normalize: bool = False,
        init: str = "uniform",
        layers: int = 0,
        last: int = 0,
        keep: bool = True,
        shared: bool = False,
        prefix: bool = False,
        pool: str = "backbone",
        also: str = "",
        frozen: bool = False,
        delete_patches: bool = False,
        num_tokens: int = 10,
        deep: bool = False,
        project: int = -1,
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        own = dict(num_tokens=num_tokens, deep=deep, project=project, dropout=dropout, head_init=head_init)
        super().__init__(backbone, classes, **own)  # type: ignore[arg-type]
        if also == "bias":
            self.thaw(biases(backbone))
        elif also:
            self.thaw([class_token(backbone, reinit=also == "cls-reinit")])

    def make_prompts(self, count: int, dim: int, deep: bool) -> None:
        """Draw the prompts that the options ask for, as parameters, or as buffers where they are frozen."""
        options, tower = self.options, self.backbone
        if not tower.depth:
            raise tower.refusal()
        layers, last, keep = (options[name] for name in ("layers", "last", "keep"))
        self.plan = prompted_blocks(tower.depth, deep=deep, layers=layers, last=last, keep=keep)
        check_choices(options, self.plan, tower.compute.way)
        if options["prefix"]:
            check_blocks(tower)
        bound = init_bound(tower.patch_size, dim)
        for name, shape in self._shapes(count, dim).items():
            values = torch.empty(shape)
            if options["init"] == "gaussian":
                values.normal_(std=1.0 if options["location"] == "pixel" else 0.02)
            elif options["normalize"]:
                values.uniform_(0, 1)
            else:
                values.uniform_(-bound, bound)
            if options["frozen"]:
                self.register_buffer(name, values)
            else:
                self.register_parameter(name, nn.Parameter(values))

    def _shapes(self, count: int, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the prompts by name."""
        location, blocks, tower = self.options["location"], self.plan.count, self.backbone
        if location == "pixel":
            return {"prompt_embeddings": (1, 3, tower.patch_size, tower.patch_size * count)}
        if self.options["prefix"]:
            return {"prefix_embeddings": (blocks, 2, count, dim)}
        if location == "add":
            images = next(tower.parameters()).new_zeros(1, 3, tower.image_size, tower.image_size)
            count = tower.embed(images).shape[1]
        elif location == "add_one":
            count = 1
        if self.options["shared"] or blocks == 1 and not self.options["last"]:
            return {"prompt_embeddings": (1, count, dim)}
        if self.options["last"]:
            return {"deep_prompt_embeddings": (blocks, count, dim)}
        return {"prompt_embeddings": (1, count, dim), "deep_prompt_embeddings": (blocks - 1, count, dim)}

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """Start the prompts from class tokens of the training images, if `init` says so."""
        if "cls" in self.options["init"]:
            found = class_token_embeddings(self.backbone, train, len(self.classes), self.options["num_tokens"])
            own = initial_prompts(found, self.options["init"])[self.plan.start :][: self.plan.count]
            for prompts, values in zip(self.embeddings(), own, strict=True):
                prompts.copy_(values)

    def embeddings(self) -> list[Tensor]:
        """Return views of the prompts of each prompted block, (P, d), or of keys and values, (2, P, d)."""
        if self.options["location"] == "pixel":
            strip = self.prompt_embeddings
            pixels = normalized(strip, self.backbone) if self.options["normalize"] else strip
            return [self.backbone.patchify(pixels)[0]]
        tensors = self.buffers(recurse=False) if self.options["frozen"] else self.parameters(recurse=False)
        blocks = [block for tensor in tensors for block in tensor]
        return blocks * self.plan.count if self.options["shared"] else blocks

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with prompts into features (B, E), the input of the head."""
        options, plan, tower = self.options, self.plan, self.backbone
        prompts = self.prompts(images.shape[0])
        if options["prefix"]:
            prefixes = [(block[..., 0, :, :], block[..., 1, :, :]) for block in prompts]
            return prefixed_features(tower, images, [*[None] * plan.start, *prefixes])
        if edits_only(options):
            add = options["location"] in ("add", "add_one")
            edits = location_edits(tower, prompts, plan, add=add, delete_patches=options["delete_patches"])
            left = prompts[0].shape[-2] if plan.left and not add else 0
            wanted = {"backbone": tower.pooled, "cls": 1}.get(options["pool"])
            return pooled(tower, run_blocks(tower, images, edits, wanted), options["pool"], left)
        first, *others = prompts
        return prompted_features(tower, images, first, others, start=plan.start, keep=plan.keep)


def edits_only(options: Mapping[str, Any]) -> bool:
    """Return whether tokens must be edited between whole blocks, which is the plain way."""
    added = options["location"] in ("add", "add_one")
    return added or options["pool"] != "backbone" or options["delete_patches"]


def check_choices(options: Mapping[str, Any], plan: PromptedBlocks, way: str) -> None:
    """Raise InputError for values that are no choice and for options that exclude each other."""
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise unknown(name, options[name], choices)
    location, pool, projected = options["location"], options["pool"], options["project"] > 0
    if location == "pixel" and (options["deep"] or options["dropout"] > 0 or projected):
        raise InputError("pixels enter at the first block, as patches: set deep to false, dropout to 0, project to -1")
    if options["normalize"] and location != "pixel":
        raise InputError(f"normalize is for pixels, not for location: {location}; set it to false")
    if location in ("add", "add_one") and ("prompt" in pool or not options["keep"]):
        raise InputError(f"added prompts are no tokens (pool: {pool}); take pool: image, and set keep to true")
    if "prompt" in pool and not plan.left:
        raise InputError(f"pool: {pool} needs prompts after the last block; set keep to true")
    if options["shared"] and not options["deep"]:
        raise InputError("shared prompts enter every block; set deep to true")
    if options["frozen"] and projected:
        raise InputError("frozen prompts have no projection, as it would not learn either; set project to -1")
    if options["delete_patches"] and not options["last"]:
        raise InputError("delete_patches repeats what the official code does with the last layers; set last")
    if way == "fast" and edits_only(options):
        raise InputError("the fast way knows prepended prompts and pool: backbone only; set COMPUTE.WAY auto")
    if "cls" in options["init"] and (projected or location != "prepend" or options["prefix"] or options["shared"]):
        raise InputError(f"init: {options['init']} is for prepended prompts without project, prefix and shared")
    if options["prefix"]:
        check_prefix(options, way)


def check_prefix(options: Mapping[str, Any], way: str) -> None:
    """Raise InputError for options that prefixes, having no outputs, cannot have."""
    if not options["deep"]:
        raise InputError("keys and values (prefix) are learned layer by layer; set deep to true")
    if way == "plain":
        raise InputError("keys and values (prefix) reach into the blocks, which COMPUTE.WAY plain does not")
    if edits_only(options) or options["location"] != "prepend" or options["shared"] or not options["keep"]:
        raise InputError(
            "keys and values (prefix) have no outputs: leave location, pool, shared, keep and delete_patches as given"
        )
