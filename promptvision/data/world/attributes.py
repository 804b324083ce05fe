"""Attributes of the miniature world's scenes, and the words that name them."""

from __future__ import annotations

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.95, 0.90, 0.15),
    "green": (0.15, 0.65, 0.20),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.65),
    "pink": (0.98, 0.60, 0.75),
    "brown": (0.45, 0.27, 0.10),
    "black": (0.05, 0.05, 0.05),
}
"""Name -> RGB. Things are a shade darker, grounds are pastels of the same ten; at night it is the reverse."""
TEXTURES = ("plain", "striped", "dotted", "checkered", "spiral", "hollow")
"""Textures of things."""
SURFACES = ("plain", "striped", "dotted", "checkered", "wavy", "zigzag", "grid", "bricked", "ringed", "speckled")
"""Patterns of grounds, and of surfaces that fill the image."""
LANDS = ("forest", "meadow", "field", "desert", "lake", "river", "road", "crossroads", "village", "coast", "island")
"""Land from above."""
STYLES = ("photo", "sketch", "painting", "negative", "blurry", "grainy", "dark")
VIEWS = ("things", "surface", "land")
"""Kinds of scenes: things on a ground, one surface that fills the image, land from above."""
ARRANGEMENTS = ("one", "two", "several")
"""Things of a scene: one, a larger and a smaller one, or two to six that are alike."""

TEXTURE_ODDS = (0.40, 0.14, 0.13, 0.13, 0.08, 0.12)
STYLE_ODDS = (0.70, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05)

TEXTURE_WORDS = (
    ("plain", "solid"),
    ("striped",),
    ("dotted", "spotted"),
    ("checkered",),
    ("spiral", "swirled"),
    ("hollow", "outlined"),
)
SURFACE_WORDS = (
    ("plain", "smooth"),
    ("striped", "lined"),
    ("dotted", "spotted"),
    ("checkered",),
    ("wavy",),
    ("zigzag",),
    ("grid", "gridded"),
    ("bricked",),
    ("ringed",),
    ("speckled", "sprinkled"),
)
STYLE_WORDS = (
    ("photo", "picture", "image", "snapshot"),
    ("sketch", "drawing", "line drawing"),
    ("painting", "artwork"),
    ("negative", "inverted photo"),
    ("blurry photo", "blurry picture"),
    ("grainy photo", "noisy photo"),
    ("dark photo", "dim photo"),
)
FAMILIES = {
    "spark": "star", "hexagram": "star", "sun": "star", "washer": "ring", "hoop": "ring", "sickle": "moon",
    "clover": "flower", "daisy": "flower", "plus": "cross", "tower": "house", "pentagon": "hexagon",
    "octagon": "hexagon",
}  # fmt: skip
"""Close kinds, and the shape whose name captions may use for them."""
SYNONYMS = {
    "circle": "disc", "square": "box", "heart": "valentine", "moon": "crescent", "diamond": "rhombus",
    "house": "cottage", "tree": "spruce", "flower": "blossom", "bolt": "lightning", "gear": "cog", "cup": "mug",
    "boat": "yacht", "mushroom": "toadstool", "arrow": "pointer",
}  # fmt: skip
"""Other names that captions use now and then."""
