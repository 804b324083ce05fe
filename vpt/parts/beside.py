"""Small modules in front of, beside or after the attention and the MLP of blocks: one mechanism for all adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from open_clip.transformer import ResidualAttentionBlock
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.blocks import TokenHook
from promptvision.errors import InputError, check_share
from vpt.parts.attach import Hook, attached, mlp_blocks, mlp_norm, own_blocks
from vpt.parts.heads import HeadMethod

PLAIN = (Block, EvaBlock, ResidualAttentionBlock)
"""Blocks h + attention(norm(h)), h + mlp(norm(h)) over all tokens (B, N, D)."""
Change = Callable[[Tensor], Tensor]


def placed(block: Any, part: str, where: str, change: Change, draws: bool) -> Iterator[tuple[nn.Module, Hook]]:
    """Yield the hooks that add a change to part f of a block, its "attention" or "mlp", whose input is x = norm(h).

    `where`: "front" for f(x + change(x)), "beside" for f(x) + change(x), "stream" for f(x) + change(h), "after" for
    f(x) + change(f(x)). `draws`: the change draws something for every token, so that no token can be left out. A last
    block that is computed for its first tokens alone changes these alone.
    """
    hook: type[partial] = partial if draws else TokenHook
    norm, ends = _attention(block) if part == "attention" else (None, [block.mlp])
    seen = list[Tensor]()

    def at_norm(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if where == "front":
            return output + change(output)
        seen[:] = [args[0] if where == "stream" else output]
        return None

    def added(end: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        left = output[0] if isinstance(output, tuple) else output
        given = left if where == "after" else (seen.pop() if seen else args[0])
        left = left + change(given[:, : left.shape[1]])
        return (left, *output[1:]) if isinstance(output, tuple) else left

    if where in ("front", "stream") or (where == "beside" and norm):
        yield norm or mlp_norm(block), hook(at_norm)
    if where != "front":
        yield from ((end, hook(added)) for end in ends)


def _attention(block: Any) -> tuple[nn.Module, list[nn.Module]]:
    """Return the norm before a block's attention, and the modules whose output is that of the attention.

    Of torch's MultiheadAttention its projection is called only where the block is taken apart, itself only elsewhere.
    """
    if isinstance(block, ResidualAttentionBlock):
        return block.ln_1, [block.attn, block.attn.out_proj]
    return block.norm1, [block.attn.proj]


def attention_blocks(tower: ImageTower, method: str, kinds: tuple[type, ...] = PLAIN) -> list[nn.Module]:
    """Return the blocks of a tower if all are of these kinds, else raise InputError that names the method."""
    blocks = own_blocks(tower) or mlp_blocks(tower)
    other = next((type(block).__name__ for block in blocks if type(block) not in kinds), "")
    if other or not blocks:
        found = f"has blocks of a kind that {method} does not know ({other})" if other else "has no transformer blocks"
        raise InputError(f"backbone {tower.name!r} {found}; choose a ViT")
    return blocks


class Beside(HeadMethod):
    """A method of one module at the attention of every block, `blocks.i.adapter_attn`, and one at its MLP,
    `blocks.i.adapter_mlp`; `where` as in `placed`."""

    where: str
    blocks: nn.ModuleList

    def place(self, make: Callable[[], nn.Module], attention_only: bool, kinds: tuple[type, ...] = PLAIN) -> None:
        """Make the modules of all blocks, which are of these kinds."""
        width, dropout = self.options["bottleneck"], self.options["dropout"]
        if width < 1:
            raise InputError(f"bottleneck is {width}; take a width of 1 or more")
        check_share("dropout", dropout)
        names = ("adapter_attn",) if attention_only else ("adapter_attn", "adapter_mlp")
        blocks = attention_blocks(self.backbone, type(self).__name__, kinds)
        self.blocks = nn.ModuleList(nn.ModuleDict({name: make() for name in names}) for _ in blocks)

    def change(self, module: nn.Module, images: Tensor) -> Change:
        """Return what is added to the tokens of these images."""
        return module

    def features(self, images: Tensor) -> Tensor:
        draws, hooks = self.training and self.options["dropout"] > 0, list[tuple[nn.Module, Hook]]()
        for block, modules in zip(own_blocks(self.backbone), self.blocks, strict=True):
            for name, module in modules.items():  # type: ignore[operator]
                part = "attention" if name == "adapter_attn" else "mlp"
                hooks += placed(block, part, self.where, self.change(module, images), draws)
        with attached(hooks):
            return self.backbone(images)
