"""The families that METHOD.FAMILY may name, the only place in promptvision that knows them."""

from promptvision.config.lazy_table import LazyTable

FAMILIES = LazyTable({"vpt": "vpt", "coop": "coop"})
BACKBONES = {"ImageTower": "vpt", "CLIP": "coop"}
"""Classes of backbones, each with the family that loads it."""
