"""Frozen backbones: `load_vit` for image towers, `load_clip` for an image and a text tower with one feature space."""

from promptvision.backbones.clip import load_clip
from promptvision.backbones.towers import CLIP, ImageTower, TextTower
from promptvision.backbones.vit import load_vit

__all__ = ["CLIP", "ImageTower", "TextTower", "load_clip", "load_vit"]
