"""Train on a layout that no reader knows: python examples/new_reader.py DATASET.ROOT out OUTPUT_DIR out/new_reader

Here the class is the beginning of a file's name, `disc_03.png`. A reader takes the card, the data root and `faults`,
and the card's own keys as keyword-only arguments; it returns `Images`. The card, examples/new_reader.yaml, names it.
"""

import sys
from pathlib import Path

from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.data.decode import open_image
from promptvision.data.images import Images
from promptvision.data.readers import READERS
from promptvision.data.readers.layout import data_root, find_folder
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment import run

CARD = Path(__file__).with_suffix(".yaml")


def read_file_names(card, root, faults, *, folders: list[str], pattern: str = "*.png"):
    """Read the images of a folder: every fifth of a class is tested, the one before it validates."""
    folder = find_folder(card, data_root(card, root), folders)
    files = sorted(path.name for path in folder.glob(pattern))
    if not files:
        raise InputError(f"{folder} holds no {pattern}")
    lists = {"train": [], "val": [], "test": []}
    for label, name in enumerate(sorted({file.partition("_")[0] for file in files})):
        own = [file for file in files if file.startswith(f"{name}_")]
        for number, file in enumerate(own):
            lists[{3: "val", 4: "test"}.get(number % 5, "train")].append((file, label, name))
    return Images(**lists, open=lambda path: open_image(str(folder), path), root=str(folder))


READERS["file_names"] = read_file_names


def main():
    words = ["DATASET.NAME", str(CARD), "DATASET.SHOTS", 0, *sys.argv[1:]]
    cfg = load_config("coop/embedded.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder)
    print(f"{result['accuracy']:.1f} % of {result['n']} images, classes {', '.join(result['classes'])}")


if __name__ == "__main__":
    main()
