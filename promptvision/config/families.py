"""The families that METHOD.FAMILY may name, the only place in promptvision that knows them."""

from promptvision.config.methods import LazyTable

FAMILIES = LazyTable({"vpt": "vpt", "coop": "coop"})
