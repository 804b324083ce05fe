"""Adapters: at the MLP (Pfeiffer, arXiv:2005.00247), after attention and MLP (Houlsby, arXiv:1902.00751)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from vpt.parts.attach import Hook, attached, mlp_blocks, mlp_linears, mlp_norm
from vpt.parts.beside import PLAIN, attention_blocks, placed
from vpt.parts.bottleneck import Bottleneck, our_names
from vpt.parts.heads import Head, HeadMethod

INITS = ("identity", "published", "lora", "xavier")
READS = ("stream", "normed")


class Adapter(HeadMethod):
    """A bottleneck at the MLP of every block, and a linear head: h + u + up(gelu(down(u))), u = mlp(norm(h)).

    That is Pfeiffer's form (arXiv:2005.00247), as in VPT's code. `reduction`: the tokens' width D over the
    bottleneck's. `bottleneck`: width of the bottleneck, in place of `reduction`; 0 for that. `parallel`: AdaptFormer's
    form, h + u + scale up(relu(down(h))) (arXiv:2205.13535). `sequential`: after the MLP as in AdaptFormer's code, and
    Pfeiffer's form in arXiv:2409.16434, h + u + scale up(relu(down(u))). `after_attention`: another such bottleneck
    after the attention of every block, Houlsby's form (arXiv:1902.00751). `reads`: input of the parallel form,
    "stream", the tokens h before the block's norm, as in the published image runs, or "normed", norm(h), as in
    equation 3. `scale`: factor of the parallel and the sequential form. `learned_scale`: the factor is learned, from 1.
    `norm`: a layer norm of the adapter's own on its input ("in") or output ("out"). `dropout`: dropout before `up`;
    AdaptFormer's is 0.1.
    `init`: "identity" draws `down` as torch does, Kaiming uniform, and starts `up` at zero, in AdaptFormer's forms the
    bias of `down` too (section 3.2): nothing changes at first and all can learn; "published" is VPT's code, all zeros:
    then only the bias of `up` ever gets a gradient; "lora" starts `down` Xavier uniform and all else at zero, "xavier"
    both weights Xavier uniform (arXiv:2409.16434). `head_init`: init of the classifier, "small" or "published".
    `head_norm`: a batch norm without weights before the classifier, as in AdaptFormer's image runs.
    If a block scales its MLP's output (layer scale), the adapter is part of that output and is scaled too;
    `drop_path` leaves it out with that output.
    Learns `blocks.i.adapter_{down,up}sample.{weight, bias}`, with `after_attention` `attention.i.` of the same,
    `adapter_{norm, scale}` if asked for, and the head; `load_learned_state` takes the names of AdaptFormer's code and
    of ViT_PEFT_Vision too.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        reduction: int = 8,
        bottleneck: int = 0,
        parallel: bool = False,
        sequential: bool = False,
        after_attention: bool = False,
        reads: str = "stream",
        scale: float = 0.1,
        learned_scale: bool = False,
        norm: str = "none",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        init: str = "identity",
        head_init: str = "small",
        head_norm: bool = False,
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init, norm=head_norm)
        for name, value, choices in (("init of an adapter", init, INITS), ("reads of an adapter", reads, READS)):
            if value not in choices:
                raise unknown(name, value, choices)
        if parallel and (sequential or after_attention):
            other = "sequential" if sequential else "after_attention"
            raise InputError(f"an adapter is parallel or {other}, not both; set one of the two")
        widths = [mlp_linears(block)[-1].out_features for block in mlp_blocks(backbone)]
        if not widths:
            raise InputError(f"backbone {backbone.name!r} has no blocks with an MLP to adapt; choose a transformer")
        if not 1 <= reduction <= min(widths):
            raise InputError(f"reduction is {reduction}; it divides the width {min(widths)}: take 1 to {min(widths)}")
        if bottleneck < 0:
            raise InputError(f"bottleneck is {bottleneck}; take a width of 1 or more, or 0 for that of reduction")
        if after_attention:
            attention_blocks(backbone, "an adapter after attention", (*PLAIN, SwinTransformerBlock))
        self.where = ("stream" if reads == "stream" else "beside") if parallel else "after"
        if self.where == "stream":
            [mlp_norm(block) for block in mlp_blocks(backbone)]  # refuses a norm of an unknown name
        self.blocks = nn.ModuleList(self._bottleneck(width) for width in widths)
        self.attention = nn.ModuleList(self._bottleneck(width) for width in widths if after_attention)

    def _bottleneck(self, width: int) -> Bottleneck:
        """Return the adapter of a block of this width at its initial values."""
        ours, hidden = self.options, self.options["bottleneck"] or width // self.options["reduction"]
        scaled = ours["parallel"] or ours["sequential"]
        scale = None if ours["learned_scale"] else (ours["scale"] if scaled else 1.0)
        kind = {"scale": scale, "norm": ours["norm"], "dropout": ours["dropout"]}
        made = Bottleneck(width, hidden, F.relu if scaled else F.gelu, **kind)
        down, up = made.adapter_downsample, made.adapter_upsample
        if ours["init"] in ("lora", "xavier"):
            nn.init.xavier_uniform_(down.weight)
            nn.init.xavier_uniform_(up.weight)
        zeros: list[Tensor] = [up.bias] if ours["init"] == "identity" and not scaled else [up.bias, down.bias]
        zeros += [up.weight] if ours["init"] != "xavier" else []
        for zero in [*zeros, down.weight] if ours["init"] == "published" else zeros:
            nn.init.zeros_(zero)
        return made

    def features(self, images: Tensor) -> Tensor:
        draws, blocks = self.training and self.options["dropout"] > 0, mlp_blocks(self.backbone)
        hooks = list[tuple[nn.Module, Hook]]()
        for block, bottleneck in zip(blocks, self.blocks, strict=True):
            hooks += placed(block, "mlp", self.where, bottleneck, draws)
        for block, bottleneck in zip(blocks, self.attention, strict=False):
            hooks += placed(block, "attention", "after", bottleneck, draws)
        with attached(hooks):
            return self.backbone(images)

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_learned_state(our_names(state))
