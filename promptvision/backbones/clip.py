"""CLIP models of open_clip, by name and tag or from a local file in OpenAI's or open_clip's layout."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.hf_model import HFTextEncoder
from open_clip.model import build_model_from_openai_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor, nn

from promptvision.atomic import parse_json, refuse_damaged
from promptvision.backbones.adapt.check import check_clip
from promptvision.backbones.adapt.transformers_clip import KINDS, clip_of
from promptvision.backbones.compute import Compute
from promptvision.backbones.custom import call_custom
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.positions import check_size, resize_positions
from promptvision.backbones.text import HuggingFaceText, OpenClipText
from promptvision.backbones.towers import CLIP
from promptvision.backbones.weights import expand_rows, load_strictly, read_weights
from promptvision.errors import InputError, unknown
from promptvision.network import Source
from promptvision.own_code import names_code

EMBEDDED = Path(__file__).with_name("embedded.safetensors")
FILES = (".safetensors", ".pth", ".pt", ".bin")
COPY = "copy this folder from a computer that has it"
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
"""Scalars that OpenAI's checkpoints hold beside the weights; a file with them was trained with QuickGELU."""


def load_clip(
    name: str | Path | nn.Module,
    pretrained: str | bool | None = "openai",
    image_size: int = 0,
    resize: str = "timm",
    pool: str = "default",
    *,
    quick_gelu: bool | None = None,
    tokenizer: str = "",
    compute: Compute | None = None,
) -> CLIP:
    """Load a CLIP in float32, frozen and in eval mode.

    `name`: an open_clip name (`ViT-B-16`), "embedded", `module:function`, a weight file, a `CLIP`, or a CLIPModel or
    SiglipModel of transformers. The sizes of a file in OpenAI's layout are inferred; other layouts need open_clip's
    configuration in the file's metadata.
    `pretrained`: a tag of open_clip ("default" is "openai"), "none" for random weights, or a local weight file.
    `image_size`: pixels, 0 for the model's own. `resize`: method of resizing the image tower's position embeddings
    (`positions.WAYS`). `pool`: "default"; a CLIP has no other.
    `quick_gelu`: needed only if neither tag nor file says which activation the weights were trained with.
    `tokenizer`: name or folder of the tokenizer of a model of transformers, by default that of its checkpoint.
    `compute`: how the towers encode prompts, which changes no result.
    """
    if pool != "default":
        raise InputError(f"BACKBONE.POOL {pool}: a CLIP has one way to pool; leave it at default")
    clip = _clip(name, pretrained, quick_gelu, image_size if resize == "timm" else 0, tokenizer)
    if image_size:
        check_size(clip.image, image_size)
        clip.image = resize_positions(clip.image, image_size, resize)
    clip.compute = compute or clip.compute
    return clip.requires_grad_(False).eval()


def _clip(
    name: str | Path | nn.Module, pretrained: str | bool | None, quick_gelu: bool | None, size: int, tokenizer: str
) -> CLIP:
    """Return the CLIP that a name, or a module, stands for; open_clip resizes it to `size` pixels, if any."""
    refuse_other_weights(name, pretrained)
    what = f"BACKBONE.NAME {name} gives" if names_code(name) else "load_clip is given"
    if names_code(name):
        name = call_custom(str(name))
    if isinstance(name, CLIP):
        return check_clip(name.eval())
    if isinstance(name, nn.Module):
        if type(name).__module__.startswith("transformers.") and type(name).__name__ in KINDS:
            return clip_of(name, tokenizer)
        kinds = f"a promptvision.backbones.CLIP, or {' or '.join(KINDS)} of transformers"
        raise InputError(f"{what} a {type(name).__name__}; it must be {kinds}")
    if name == "embedded" or Path(name).suffix in FILES:
        random = name == "embedded" and pretrained in (None, False, "none")
        return _wrap(_from_file(EMBEDDED if name == "embedded" else Path(name), quick_gelu, random), str(name))
    options = {"force_image_size": size} if size else {}
    return _wrap(_from_name(str(name), pretrained, quick_gelu, options), str(name))


def refuse_other_weights(name: str | Path | nn.Module, pretrained: str | bool | None) -> None:
    """Raise InputError for a tag or a file of weights beside a name that brings its own."""
    if isinstance(name, nn.Module) or pretrained in (None, False, True, "", "none", "default", "openai"):
        return
    if name == "embedded" or Path(name).suffix in FILES or names_code(name):
        raise InputError(
            f"BACKBONE.PRETRAINED {pretrained}: BACKBONE.NAME {name} has its own weights; leave it at default"
        )


def _wrap(model: Any, name: str) -> CLIP:
    """Return the two towers of an open_clip model, with its tokenizer."""
    name = "embedded" if name == str(EMBEDDED) else name
    known = name if get_model_config(name) else "ViT-B-32"
    theirs = (get_model_config(known) or {})["text_cfg"].get("hf_tokenizer_name")
    with Source.hub(theirs).use(f"the tokenizer of {name}", COPY) if theirs else nullcontext():
        tokenizer = tokenizer_of(known)
    foreign = isinstance(getattr(model, "text", None), HFTextEncoder)
    text = HuggingFaceText(model.text, tokenizer, name) if foreign else OpenClipText(model, tokenizer, name)
    return CLIP(name, OpenClipImage(model.visual, name), text, model.logit_scale)


@cache
def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of an open_clip model, one for all of its towers, which change nothing in it."""
    return open_clip.get_tokenizer(name)


def _from_name(name: str, pretrained: str | bool | None, quick_gelu: bool | None, options: dict[str, Any]) -> nn.Module:
    """Create the open_clip model of a name, with the weights of a tag or a file, or random ones."""
    if name not in open_clip.list_models():  # get_model_config would also open folders and the Hub
        raise unknown("CLIP backbone", name, ["embedded", *open_clip.list_models()])
    foreign = [key for key in (get_model_config(name) or {})["text_cfg"] if key.startswith("hf_")]
    if foreign and find_spec("transformers") is None:
        raise InputError(f"the text tower of {name} is read with transformers: pip install 'promptvision[hf]'")
    if pretrained in (None, False, "none", ""):
        return _create(name, None, bool(quick_gelu), options)
    tag = "openai" if pretrained in (True, "default") else str(pretrained)
    if Path(tag).suffix in FILES or Path(tag).is_file():
        state, _ = read_weights(tag)
        from_openai = any(key in state for key in OPENAI_ONLY)
        if from_openai and quick_gelu is False:
            raise InputError(f"{tag} is an OpenAI checkpoint, trained with QuickGELU; quick_gelu=False would be wrong")
        return _fill(_create(name, None, from_openai or bool(quick_gelu), options), state, Path(tag))
    facts = get_pretrained_cfg(name, tag)
    if not facts:
        tags = list_pretrained_tags_by_model(name)
        raise unknown(f"weights of {name} (BACKBONE.PRETRAINED)", tag, [*tags, "none"])
    wanted = facts.get("quick_gelu", False)
    if quick_gelu not in (None, wanted):
        activation = "QuickGELU" if wanted else "GELU"
        raise InputError(f"{name} {tag} was trained with {activation}; quick_gelu={quick_gelu} would be wrong")
    return _create(name, tag, wanted, options)


def _create(name: str, tag: str | None, quick_gelu: bool, options: dict[str, Any]) -> nn.Module:
    """Create an open_clip model, without the messages that open_clip sends to the root logger."""
    logging.getLogger().disabled, was = True, logging.getLogger().disabled
    text = (get_model_config(name) or {})["text_cfg"].get("hf_model_name")
    advice = "give a file: BACKBONE.PRETRAINED path/to/weights.pt (or 'none' for random weights)"
    try:
        with (
            Source.hub(text).use(f"the configuration of {name}'s text tower", COPY) if text else nullcontext(),
            source_of(name, tag).use(f"the weights {tag!r} of {name}", advice) if tag else nullcontext(),
        ):
            return open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick_gelu, **options)
    finally:
        logging.getLogger().disabled = was


def source_of(name: str, tag: str) -> Source:
    """Return where open_clip looks for the weights of a tag: on the Hub if they are there, else by their address."""
    facts = get_pretrained_cfg(name, tag)
    if facts.get("hf_hub"):
        return Source.hub(facts["hf_hub"].rpartition("/")[0])
    return Source(facts["url"], Path("~/.cache/clip", facts["url"].rpartition("/")[2]).expanduser())


def _from_file(path: Path, quick_gelu: bool | None, random: bool) -> nn.Module:
    """Build a model from a file with open_clip's configuration in its metadata, or in OpenAI's layout."""
    state, metadata = read_weights(path)
    if "open_clip_config" in metadata:
        model = _described(metadata["open_clip_config"], state, path)
        return model if random else _fill(model, state, path)
    if quick_gelu is None and not any(key in state for key in OPENAI_ONLY):
        raise InputError(
            f"{path} does not say whether it was trained with GELU or QuickGELU; name the model: "
            f"BACKBONE.NAME ViT-B-16 (or ViT-B-16-quickgelu) BACKBONE.PRETRAINED {path}"
        )
    with refuse_damaged(f"{path} is not a CLIP checkpoint in OpenAI's layout"):
        if "token_embedding.rows" in state:
            state = expand_rows(state, int(state.get("vocab_size", torch.tensor(49408))))
        with torch.device("meta"):  # which takes no memory: a model with other shapes than the tensors is refused
            build_model_from_openai_state_dict(dict(state), quick_gelu is not False, torch.float32)
        return build_model_from_openai_state_dict(dict(state), quick_gelu is not False, torch.float32).float()


def _described(text: str, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Return the random CLIP of open_clip's configuration in a file, unless it is far larger than the file's tensors.

    A compact file lacks most rows of the token table.
    """
    config = parse_json(text, f"{path}: its open_clip_config")
    with refuse_damaged(f"{path}: its open_clip_config describes no CLIP"):
        if config["vision_cfg"].get("timm_model_name") or config["text_cfg"].get("hf_model_name"):
            raise ValueError("its towers are of other libraries, which may load other files")
        layers = max(int(config[f"{tower}_cfg"]["layers"]) for tower in ("vision", "text"))
        with torch.device("meta"):  # which takes no memory
            size = sum(p.numel() for p in open_clip.CLIP(**config).parameters()) if layers <= len(state) else math.inf
        if size <= 100 * max(1_000_000, sum(tensor.numel() for tensor in state.values())):
            return open_clip.CLIP(**config)
    raise InputError(f"{path}: its open_clip_config describes a CLIP far larger than the tensors in it")


def _fill(model: Any, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Load a file's weights, in float32, into a model."""
    if "token_embedding.rows" in state:
        with refuse_damaged(f"{path} does not hold the rows of a table of tokens"):
            state = expand_rows(state, model.vocab_size)
    state = {key: value.float() for key, value in state.items() if key not in (*OPENAI_ONLY, "attn_mask")}
    return load_strictly(model, state, path)
