"""Image models of transformers as the same models of timm or open_clip; transformers itself is not imported."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from open_clip.transformer import LayerNorm as ClipNorm
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as ClipVision
from timm.layers import Mlp, SwiGLUPacked
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvision.backbones.adapt.converted import ROUND, filled, fused, renamed

OLDER = (
    (r"^vision_model\.", ""),
    (r"\.attention\.attention\.(\w)\w+\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
"""Names before and in the first of the releases 5, replaced by later ones."""
TIMM = (
    *OLDER,
    (r"^embeddings\.", ""),
    (r"^((encoder|model)\.)?layers?\.", "blocks."),
    (r"^patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^register_tokens$", "reg_token"),
    (r"\.(attention|self_attn)\.", ".attn."),
    (r"\.attn\.(o|out)_proj\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^head\.attn\.in_proj_", "attn_pool.in_proj_"),
    (r"^head\.attn\.", "attn_pool."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.", "attn_pool."),
)
OPEN_CLIP = (
    *OLDER,
    (r"^embeddings\.", ""),
    (r"^position_embedding\.weight$", "positional_embedding"),
    (r"^patch_embedding\.", "conv1."),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
QKV = ("attn.q_proj.{}", "attn.k_proj.{}", "attn.v_proj.{}")
ACTIVATIONS = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
}


def features(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B, E) by transformers' own forward pass: the pooled ones, of a ViT its class token.

    What ViTModel pools is a layer more, which most checkpoints lack.
    """
    output = model(images)
    return output.last_hidden_state[:, 0] if type(model).__name__ == "ViTModel" else output.pooler_output


def common(config: Any, state: dict[str, Tensor], first: str) -> dict[str, Any]:
    """Return the arguments that the models of timm share; `first`: the first layer of the MLP in block 0."""
    return dict(
        img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.hidden_size,
        depth=config.num_hidden_layers, num_heads=config.num_attention_heads, num_classes=0,
        mlp_ratio=len(state[f"blocks.0.mlp.{first}.weight"]) / config.hidden_size + ROUND,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
    )  # fmt: skip


def vit(model: Any) -> nn.Module | None:
    """Return a ViTModel, Dinov2Model (with registers or not) or SiglipVisionModel as a ViT of timm."""
    config, dropped = model.config, ("pooler.", "embeddings.mask_token")
    state = fused(renamed(model.state_dict(), TIMM, dropped), QKV, "attn.qkv.{}")
    state = fused(state, ("mlp.gate_proj.{}", "mlp.up_proj.{}"), "mlp.fc1.{}")
    state = {key.replace("mlp.down_proj", "mlp.fc2"): each for key, each in state.items()}
    gated = len(state["blocks.0.mlp.fc1.weight"]) == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]
    mlp: Any = SwiGLUPacked if gated else Mlp
    if "pos_embed" not in state or config.hidden_act not in ACTIVATIONS:
        return None
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    same = VisionTransformer(
        **common(config, state, "fc1"), mlp_layer=mlp,
        act_layer=nn.SiLU if gated else ACTIVATIONS[config.hidden_act], qkv_bias=getattr(config, "qkv_bias", True),
        init_values=1.0 if "blocks.0.ls1.gamma" in state else None, class_token="cls_token" in state,
        reg_tokens=registers, no_embed_class=registers > 0, global_pool="token" if "cls_token" in state else "map",
        weight_init="skip",
    )  # fmt: skip
    return filled(same, _pooled(_placed(state, registers), config.hidden_size))


def _placed(state: dict[str, Tensor], registers: int) -> dict[str, Tensor]:
    """Return a state with positions as timm has them, (1, N, D).

    Where there are registers, only the class token and the patches have a position: timm adds the former to the token.
    """
    positions = state["pos_embed"].view(1, -1, state["pos_embed"].shape[-1])
    if not registers:
        return {key: each for key, each in {**state, "pos_embed": positions}.items() if key != "reg_token"}
    return {**state, "pos_embed": positions[:, 1:], "cls_token": state["cls_token"] + positions[:, :1]}


def _pooled(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Return a state with query apart from key and value in the attention that pools SigLIP's patches."""
    found = dict(state)
    for kind in ("weight", "bias"):
        whole = found.pop(f"attn_pool.in_proj_{kind}", None)
        if whole is not None:
            found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = whole.split([width, 2 * width])
    return found


def dinov3(model: Any) -> nn.Module | None:
    """Return a DINOv3ViTModel as an Eva of timm."""
    config = model.config
    state = renamed(model.state_dict(), TIMM, ("embeddings.mask_token",))
    gated = "blocks.0.mlp.gate_proj.weight" in state
    names = [(r"\.ls(\d)\.gamma$", r".gamma_\1"), (r"mlp\.gate_proj", "mlp.fc1_g"), (r"mlp\.down_proj", "mlp.fc2")]
    state = renamed(state, [*names, (r"mlp\.up_proj", "mlp.fc1_x" if gated else "mlp.fc1")])
    same = Eva(
        **common(config, state, "fc1_x" if gated else "fc1"), qkv_bias=config.query_bias, qkv_fused=False,
        swiglu_mlp=gated, swiglu_align_to=int(gated), init_values=1.0, num_reg_tokens=config.num_register_tokens,
        use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3", rope_temperature=config.rope_theta,
        rope_rotate_half=True, dynamic_img_size=config.image_size % config.patch_size == 0, use_fc_norm=False,
        global_pool="token",
    )  # fmt: skip
    return filled(same, {key: each for key, each in state.items() if each.numel()})


def convnext(model: Any) -> nn.Module | None:
    """Return a ConvNextModel as a ConvNeXt of timm."""
    config = model.config
    same: Any = ConvNeXt(
        depths=tuple(config.depths), dims=tuple(config.hidden_sizes), patch_size=config.patch_size, num_classes=0
    )
    same.head.norm.eps = config.layer_norm_eps
    names = (
        (r"^embeddings\.patch_embeddings\.", "stem.0."),
        (r"^embeddings\.layernorm\.", "stem.1."),
        (r"^layernorm\.", "head.norm."),
        (r"^encoder\.", ""),
        (r"\.downsampling_layer\.", ".downsample."),
        (r"\.layers\.", ".blocks."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.layernorm\.", ".norm."),
        (r"\.pwconv(\d)\.", r".mlp.fc\1."),
        (r"\.layer_scale_parameter$", ".gamma"),
    )
    return filled(same, renamed(model.state_dict(), names))


def clip_vision(model: Any, projection: Tensor | None = None) -> nn.Module | None:
    """Return a CLIPVisionModel as the image tower of open_clip; `projection` (E, D), else one that is not used."""
    config = model.config
    state = fused(renamed(model.state_dict(), OPEN_CLIP), QKV, "attn.in_proj_{}")
    state["proj"] = torch.eye(config.hidden_size) if projection is None else projection.detach().float().T.contiguous()
    if config.hidden_act not in ACTIVATIONS:
        return None
    same = ClipVision(
        config.image_size, config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size + ROUND, output_dim=state["proj"].shape[1],
        act_layer=ACTIVATIONS[config.hidden_act], norm_layer=partial(ClipNorm, eps=config.layer_norm_eps),
    )  # fmt: skip
    return filled(same, state)


KINDS = {
    "ViTModel": vit,
    "Dinov2Model": vit,
    "Dinov2WithRegistersModel": vit,
    "SiglipVisionModel": vit,
    "SiglipVisionTransformer": vit,
    "DINOv3ViTModel": dinov3,
    "ConvNextModel": convnext,
    "CLIPVisionModel": clip_vision,
    "CLIPVisionTransformer": clip_vision,
}
HALVES = ("ViTModel", "SiglipVisionModel", "SiglipVisionTransformer")
"""Models whose images are normalised with mean and deviation 0.5; CLIP's have OpenAI's, all others ImageNet's."""
