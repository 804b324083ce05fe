"""Checks of your own towers: one sentence names the first attribute or step that is missing or not as it must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones.adapt.converted import near
from promptvision.backbones.pinning import Tower
from promptvision.backbones.towers import CLIP, ImageTower, TextTower
from promptvision.errors import InputError
from promptvision.own_code import own_code

MEANINGS = {
    "feature_dim": "the length E of a feature",
    "image_size": "height and width of the images in pixels",
    "width": "the length D of a token",
    "patch_size": "the side of a patch in pixels, 0 without patches",
    "prefix": "the number of tokens before the patches",
    "context_length": "the number of tokens of a text, padding included",
    "starts": "the number of special tokens before a text",
    "marks": "the number of special tokens before and after a text",
}
TEXTS = ("a photo of a cat.", "dog")


def check_image(tower: ImageTower) -> ImageTower:
    """Return an image tower in eval mode; raise InputError for what is not as `ImageTower` says."""
    kind = type(tower).__name__
    for name in ("feature_dim", "image_size"):
        _whole(tower, name, 1)
    for name in ("width", "patch_size", "prefix"):
        _whole(tower, name, 1 if name == "width" and tower.blocks else 0)
    for name in ("mean", "std"):
        value = getattr(tower, name)
        if not (
            isinstance(value, Sequence) and len(value) == 3 and all(isinstance(part, int | float) for part in value)
        ):
            raise InputError(f"{kind}.{name} is {value!r}; it must be three numbers, one for each colour")
    _check_blocks(tower)
    images = torch.rand(2, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(0))
    images = images.to(next(tower.parameters(), images))
    features = _called(tower, "forward", images, shape=(2, tower.feature_dim))
    if tower.blocks:
        _check_steps(tower, images, features)
    return tower


def check_text(tower: TextTower) -> int:
    """Return E of a text tower in eval mode; raise InputError for what is not as `TextTower` says."""
    kind = type(tower).__name__
    for name, least in (("width", 1), ("context_length", 1), ("starts", 0), ("marks", 0)):
        _whole(tower, name, least)
    _check_blocks(tower)
    ids = _called(tower, "tokenize", TEXTS, shape=(2, tower.context_length))
    with own_code(f"{kind}.count"):
        count = tower.count(TEXTS[0])
    if type(count) is not int:
        raise InputError(f"{kind}.count(text) returns a {type(count).__name__}; it must be a whole number of tokens")
    tokens = _called(tower, "embed", ids, shape=(2, tower.context_length, tower.width))
    eot = _called(tower, "eot", ids, shape=(2,))
    if eot.is_floating_point() or int(eot.min()) < 0 or int(eot.max()) >= tower.context_length:
        raise InputError(f"{kind}.eot(ids) returns {eot.tolist()}; it must be positions among the {len(ids[0])} tokens")
    features = _called(tower, "encode", tokens, eot, shape=(2, -1))
    if tower.causal:
        cut = _called(tower, "encode", tokens[:, : int(eot.max()) + 1], eot, shape=features.shape)
        _same(cut, features, f"{kind}.causal is True, but later tokens change what encode returns; set it to False")
    if tower.blocks:
        again = _called(tower, "encode", tokens, eot, list(tower.blocks), shape=features.shape)
        _same(again, features, f"{kind}.encode does not call the blocks that it is given as its third argument")
    return features.shape[1]


def check_clip(clip: CLIP) -> CLIP:
    """Return a CLIP in eval mode; raise InputError for a part that is not as `ImageTower` or `TextTower` says."""
    for name, kind in (("image", ImageTower), ("text", TextTower)):
        found = getattr(clip, name)
        if not isinstance(found, kind):
            raise InputError(f"the CLIP's {name} is a {type(found).__name__}; it must be a {kind.__name__}")
    if not isinstance(clip.logit_scale, Tensor) or clip.logit_scale.numel() != 1:
        raise InputError("the CLIP's logit_scale must be a parameter of one number, the logarithm of the factor")
    check_image(clip.image)
    dim = check_text(clip.text)
    if dim != clip.image.feature_dim:
        raise InputError(
            f"{type(clip.text).__name__}.encode returns features of length {dim}, but {type(clip.image).__name__} has "
            f"feature_dim {clip.image.feature_dim}; a CLIP has one feature space"
        )
    return clip


def _whole(tower: Tower, name: str, least: int) -> None:
    """Raise InputError unless an attribute is a whole number of at least `least`."""
    value = getattr(tower, name, None)
    if type(value) is not int or value < least:
        found = "is missing" if value is None else f"is {value!r}"
        needed = f"a whole number of {least} or more, {MEANINGS[name]}"
        raise InputError(f"{type(tower).__name__}.{name} {found}; set it to {needed}")


def _check_blocks(tower: Tower) -> None:
    """Raise InputError unless the blocks are modules that belong to the tower."""
    kind, blocks = type(tower).__name__, tower.blocks
    if not isinstance(blocks, Sequence | nn.ModuleList | nn.Sequential):
        raise InputError(
            f"{kind}.blocks is a {type(blocks).__name__}; set it to an nn.ModuleList of transformer blocks"
        )
    own = set(tower.parameters())
    for index, block in enumerate(blocks):
        if not isinstance(block, nn.Module):
            raise InputError(
                f"{kind}.blocks[{index}] is a {type(block).__name__}; every block must be a module of torch"
            )
        if not set(block.parameters()) <= own:
            raise InputError(
                f"{kind}.blocks[{index}] has parameters that the tower has not; set blocks to an nn.ModuleList"
            )


def _check_steps(tower: ImageTower, images: Tensor, features: Tensor) -> None:
    """Raise InputError unless the steps of a tower with blocks have their shapes and make its features."""
    kind, dim = type(tower).__name__, tower.feature_dim
    for name, step in (("embed", ImageTower.embed), ("pool", ImageTower.pool)):
        if getattr(type(tower), name) is step:
            raise InputError(f"{kind} has blocks but no {name}, which must be a method as `ImageTower.{name}` says")
    tokens = _called(tower, "embed", images, shape=(2, -1, tower.width))
    tokens = _called(tower, "enter", tokens, shape=tokens.shape)
    if tower.prefix >= tokens.shape[1]:
        raise InputError(f"{kind}.prefix is {tower.prefix}, but embed(images) returns {tokens.shape[1]} tokens")
    for index in range(len(tower.blocks)):
        tokens = _called(tower, f"blocks[{index}]", tokens, shape=tokens.shape)
    pooled = _called(tower, "pool", tokens, shape=(2, dim))
    whole = f"{kind}: pool(blocks(enter(embed(images)))) is not"
    _same(pooled, features, f"{whole} what the tower returns, so that prompts would enter another network")
    _same(pooled, _called(tower, "untouched", images, shape=(2, dim)), f"{whole} untouched(images)")
    if tower.pools_first:
        first = _called(tower, "pool", tokens[:, :1], shape=(2, dim))
        _same(first, pooled, f"{kind}.pools_first is True, but pool reads more than the first token; set it to False")


def _called(tower: Tower, name: str, *given: Any, shape: Sequence[int]) -> Tensor:
    """Return the tensor that a step of a tower makes; raise InputError unless it has this shape, -1 for any size."""
    what = f"{type(tower).__name__}.{name}"
    step: Any = tower.blocks[int(name[7:-1])] if name.startswith("blocks") else getattr(tower, name)
    with torch.no_grad(), own_code(what):
        found = step(*given)
    if not isinstance(found, Tensor):
        raise InputError(f"{what} returns a {type(found).__name__}; it must return a tensor")
    if found.dim() != len(shape) or any(size not in (-1, own) for own, size in zip(found.shape, shape, strict=True)):
        wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
        raise InputError(f"{what} returns a tensor of shape {tuple(found.shape)}; it must be ({wanted})")
    return found


def _same(found: Tensor, expected: Tensor, problem: str) -> None:
    """Raise InputError with `problem` unless two ways to compute features agree up to rounding."""
    if not near(found, expected):
        raise InputError(problem)
