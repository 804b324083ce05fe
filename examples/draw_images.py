"""Draw discs, squares and crosses, in place of your own images: python examples/draw_images.py out/shapes

The folder holds `images/`, whose file names begin with the class (`disc_03.png`); `labels.csv` (file, label);
`split.csv` (file, label, split); and `split.json`, the same split in the format of CoOp.
"""

import csv
import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "cross")
SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
"""Split of each image of a class, in order."""


def draw(shape, chance):
    """Return an image of 32 x 32 pixels of a shape in some colour, size and place."""
    image = Image.new("RGB", (32, 32), tuple(chance.choices(range(60), k=3)))
    size, colour = chance.randint(10, 18), tuple(chance.choices(range(120, 256), k=3))
    left, top = chance.randint(2, 30 - size), chance.randint(2, 30 - size)
    box, pen = (left, top, left + size, top + size), ImageDraw.Draw(image)
    if shape == "cross":
        third = size // 3
        pen.rectangle((left + third, top, left + 2 * third, top + size), colour)
        pen.rectangle((left, top + third, left + size, top + 2 * third), colour)
    else:
        (pen.ellipse if shape == "disc" else pen.rectangle)(box, colour)
    return image


def main():
    folder, chance = Path(sys.argv[1]), random.Random(1)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, lists = [], {split: [] for split in ("train", "val", "test")}
    for label, name in enumerate(CLASSES):
        for number, split in enumerate(SPLITS):
            file = f"{name}_{number:02}.png"
            draw(name, chance).save(folder / "images" / file)
            rows.append((f"images/{file}", name, split))
            lists[split].append([file, label, name])
    for name, columns in (("labels.csv", ("file", "label")), ("split.csv", ("file", "label", "split"))):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([columns, *(row[: len(columns)] for row in rows)])
    (folder / "split.json").write_text(json.dumps(lists))


if __name__ == "__main__":
    main()
