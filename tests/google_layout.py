"""A fixture that writes weights as Google publishes them."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def google_layout():
    """`google_layout(state, heads)` gives a timm ViT's weights under the published .npz names, in their shapes."""

    def layout(state, heads):
        """The published .npz names and shapes of a timm ViT's weights."""
        flat = {k: v.numpy() for k, v in state.items()}
        out = {"cls": flat["cls_token"], "Transformer/posembed_input/pos_embedding": flat["pos_embed"]}
        out["embedding/kernel"] = flat["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
        out["embedding/bias"] = flat["patch_embed.proj.bias"]
        out["Transformer/encoder_norm/scale"], out["Transformer/encoder_norm/bias"] = (
            flat["norm.weight"],
            flat["norm.bias"],
        )
        for i in range(sum(key.endswith("norm1.weight") for key in flat)):
            here, there = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
            for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
                out[f"{there}{name}/scale"], out[f"{there}{name}/bias"] = (
                    flat[f"{here}{norm}.weight"],
                    flat[f"{here}{norm}.bias"],
                )
            width = flat[f"{here}attn.proj.weight"].shape[0]
            weights, biases = (np.split(flat[f"{here}attn.qkv.{kind}"], 3) for kind in ("weight", "bias"))
            for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
                out[f"{there}MultiHeadDotProductAttention_1/{name}/kernel"] = weight.T.reshape(width, heads, -1)
                out[f"{there}MultiHeadDotProductAttention_1/{name}/bias"] = bias.reshape(heads, -1)
            out[f"{there}MultiHeadDotProductAttention_1/out/kernel"] = flat[f"{here}attn.proj.weight"].T.reshape(
                heads, -1, width
            )
            out[f"{there}MultiHeadDotProductAttention_1/out/bias"] = flat[f"{here}attn.proj.bias"]
            for j, layer in enumerate(("fc1", "fc2")):
                out[f"{there}MlpBlock_3/Dense_{j}/kernel"] = flat[f"{here}mlp.{layer}.weight"].T
                out[f"{there}MlpBlock_3/Dense_{j}/bias"] = flat[f"{here}mlp.{layer}.bias"]
        return out

    return layout
