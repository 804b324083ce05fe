"""The files of weights, and the SHA-256 that OpenAI's addresses and the Hub state of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import open_clip
import timm
from open_clip.pretrained import get_pretrained_cfg

from promptvision.atomic import file_hash
from promptvision.backbones import clip, vit
from promptvision.verify.check import ABSENT, Answer, judged

HASH = re.compile(r"[0-9a-f]{64}")


@cache
def openai_files() -> dict[str, tuple[str, str]]:
    """Return {file name: (SHA-256 that its address states, open_clip's name of the model)} of OpenAI's CLIPs."""
    found = dict[str, tuple[str, str]]()
    for name in open_clip.list_models():
        address = (get_pretrained_cfg(name, "openai") or {}).get("url", "")
        *_, stated, file = ["", "", *str(address).split("/")]
        if HASH.fullmatch(stated):
            found.setdefault(file, (stated, name))
    return found


def is_clip(name: str) -> bool:
    """Return whether a name or file is loaded as a CLIP, not as an image tower alone.

    A file with a .json beside it, or in Google's layout, holds an image tower.
    """
    if Path(name).suffix in vit.FILES:
        return Path(name).suffix in clip.FILES and not Path(name).with_suffix(".json").is_file()
    return name == "embedded" or name in open_clip.list_models()


def weight_file(name: str) -> Path | None:
    """Return the file that holds the weights of a backbone, None if it is not on this machine."""
    if name == "embedded" or Path(name).suffix in vit.FILES:
        file = clip.EMBEDDED if name == "embedded" else Path(name)
        return file if file.is_file() else None
    if not is_clip(name) and not timm.is_model(name.partition(".")[0]):
        return None
    place = (clip.source_of(name, "openai") if is_clip(name) else vit.source_of(name)).place
    found = [place] if place.is_file() else [f for f in place.glob("snapshots/*/*") if f.suffix in vit.FILES]
    return max(found, key=lambda file: (file.suffix == ".safetensors", file.stat().st_mtime), default=None)


def check_hash(file: Path | None) -> Answer:
    """Compare the SHA-256 of a weight file with the one that its address, or its place in the Hub's cache, states."""
    if file is None:
        return Answer(ABSENT, "weights without a known file")
    stated, _ = openai_files().get(file.name, ("", ""))
    stated = stated or (file.resolve().name if HASH.fullmatch(file.resolve().name) else "")
    digest = file_hash(file)
    if not stated and digest not in (known for known, _ in openai_files().values()):
        return Answer(ABSENT, f"{file.name}: SHA-256 {digest[:12]}..., which no address states")
    faults = [f"{file}: SHA-256 {digest[:12]}..., its address states {stated[:12]}..."] if stated != digest else []
    return judged(faults if stated else [], f"{file.name}: SHA-256 {digest[:12]}..., as its address states it")


def published_name(name: str, file: Path | None) -> str:
    """Return the name by which papers' numbers of a backbone are found: of OpenAI's file, that of its model."""
    if file is None or Path(name).suffix not in vit.FILES:
        return name
    digest = file_hash(file)
    return next((model for stated, model in openai_files().values() if stated == digest), name)
