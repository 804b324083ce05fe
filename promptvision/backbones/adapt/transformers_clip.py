"""CLIPModel and SiglipModel of transformers as a CLIP, with a tokenizer of transformers."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import LayerNorm, TextTransformer
from torch import Tensor, nn

from promptvision.backbones.adapt.converted import ROUND, agrees, filled, fused, near, renamed
from promptvision.backbones.adapt.modules import adapted
from promptvision.backbones.adapt.transformers_models import ACTIVATIONS, OPEN_CLIP, QKV, clip_vision
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.text import HubTokenizer, OpenClipText
from promptvision.backbones.towers import CLIP, ImageTower
from promptvision.errors import InputError
from promptvision.network import Source

KINDS = ("CLIPModel", "SiglipModel")
OPENAI_WORDS = 49408
"""Size of OpenAI's vocabulary, whose tokenizer open_clip has."""


def clip_of(model: Any, tokenizer: str = "") -> CLIP:
    """Return a CLIPModel or SiglipModel as a CLIP; `tokenizer`: its name on the Hub, or its folder.

    Without one, it is that of the checkpoint that the model was loaded from, or OpenAI's for a vocabulary of its size.
    """
    kind = type(model).__name__
    name = getattr(model, "name_or_path", "") or kind
    text, image = _text(model, name, tokenizer), _image(model, name)
    if text is None or image is None:
        raise InputError(f"{kind} {name!r} has options that have no counterpart in open_clip")
    with torch.no_grad():
        ids = text.eval().tokenize(["a photo of a cat.", "dog"])
        output = model.eval().get_text_features(ids)
        same = near(text.encode(text.embed(ids), text.eot(ids)), getattr(output, "pooler_output", output))
    if not same or not agrees(image, model, _features):
        raise InputError(f"{kind} {name!r} as a CLIP of open_clip gives other features than by transformers' own code")
    return CLIP(name, image, text, nn.Parameter(model.logit_scale.detach().float().reshape(())))


def _features(model: Any, images: Tensor) -> Tensor:
    """Return the image features by transformers' own code, which returns them bare before version 5."""
    output = model.get_image_features(images)
    return getattr(output, "pooler_output", output)


def _image(model: Any, name: str) -> ImageTower | None:
    """Return the image tower of a SiglipModel, or of a CLIPModel with its projection."""
    if type(model).__name__ == "SiglipModel":
        return adapted(model.vision_model)
    same = clip_vision(model.vision_model, model.visual_projection.weight)
    return None if same is None else OpenClipImage(same, name).eval()


def _text(model: Any, name: str, tokenizer: str) -> OpenClipText | None:
    """Return the text tower of a CLIPModel or SiglipModel, None if it cannot be converted."""
    source, config, causal = model.text_model, model.text_model.config, type(model).__name__ == "CLIPModel"
    names = (*OPEN_CLIP, (r"^head\.", "text_projection."))
    state = fused(renamed(source.state_dict(), names), QKV, "attn.in_proj_{}")
    if causal:
        state["text_projection"] = model.text_projection.weight.detach().float().T.contiguous()
    if config.hidden_act not in ACTIVATIONS:
        return None
    pool = ("argmax" if config.eos_token_id == 2 else "eos") if causal else "last"
    same = TextTransformer(
        config.max_position_embeddings, config.vocab_size, config.hidden_size, config.num_attention_heads,
        config.num_hidden_layers, mlp_ratio=config.intermediate_size / config.hidden_size + ROUND,
        output_dim=model.config.projection_dim if causal else config.projection_size, no_causal_mask=not causal,
        eos_id=config.eos_token_id, pool_type=pool, proj_bias=not causal, act_layer=ACTIVATIONS[config.hidden_act],
        norm_layer=partial(LayerNorm, eps=config.layer_norm_eps),
    )  # fmt: skip
    if filled(same, state) is None:
        return None
    return OpenClipText(same, _tokenizer(model, tokenizer, config.vocab_size), name)


def _tokenizer(model: Any, name: str, words: int) -> Any:
    """Return the tokenizer of a name or folder, by default of the model's own checkpoint, or OpenAI's."""
    origin = name or getattr(model, "name_or_path", "")
    if not origin and words == OPENAI_WORDS:
        return open_clip.get_tokenizer("ViT-B-32")
    if not origin:
        raise InputError(
            f"{type(model).__name__} has {words:,} words and does not say which tokenizer is its own; give its name or "
            f"folder: load_clip(model, tokenizer='google/siglip-base-patch16-224')"
        )
    from transformers import AutoTokenizer

    advice = "give the folder of a tokenizer: load_clip(model, tokenizer='path/to/folder')"
    with nullcontext() if Path(origin).is_dir() else Source.hub(origin).use(f"the tokenizer {origin}", advice):
        return HubTokenizer(AutoTokenizer.from_pretrained(origin))
