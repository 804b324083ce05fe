"""A data root with miniature datasets, their cards, and what `data check` says of them."""

import json
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image

FACTS = {"title": "A test", "source": "me", "licence": "CC0", "where": "ask me", "template": "a photo of a {}."}
NAMES = ["ant", "bee", "cat"]
SIZES = {"train": 6, "val": 2, "test": 3}
"""Images of each class in each part."""


def image(path, seed=None):
    """Noise that no other image has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def lists():
    return {
        part: [[f"{name}/{part}_{n}.jpg", label, name] for label, name in enumerate(NAMES) for n in range(count)]
        for part, count in SIZES.items()
    }


def plant_split(root, name):
    """A dataset in CoOp's layout."""
    split = lists()
    for path, _, _ in (entry for part in split.values() for entry in part):
        image(root / name / "images" / path)
    (root / name / "split.json").write_text(json.dumps(split))


def plant_text(root, name):
    """A dataset in the layout of VTAB-1k."""
    for part, entries in lists().items():
        for path, _, _ in entries:
            image(root / name / "images" / path)
        (root / name / f"{part}.txt").write_text("".join(f"images/{path} {label}\n" for path, label, _ in entries))


def plant_folder(root):
    """Your own images in folders."""
    for part, entries in lists().items():
        for path, _, _ in entries:
            image(root / part / path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with three whole datasets, and cards for them and for one that is not there."""
    cards = tmp_path / "cards"
    cards.mkdir()
    counts = {part: 3 * count for part, count in SIZES.items()}
    files = {part: f"{part}.txt" for part in SIZES}
    split = {"reader": "coop_split", "images": "images", "split": "split.json"}
    text = {"reader": "text_lists", "lists": files, "names": NAMES, "protocols": ["vtab"]}
    for name, own in {"pets": split, "moths": split, "vtab_text": text, "absent": split}.items():
        facts = {**FACTS, **own, "classes": 3, "counts": counts, "folders": [name, name.upper()]}
        (cards / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    (cards / "folder.yaml").write_text(yaml.safe_dump({**FACTS, "reader": "folder"}))
    monkeypatch.setattr("promptvision.data.cards.card_folder", lambda: cards)
    top = tmp_path / "data"
    plant_split(top, "pets")
    plant_split(top, "moths")
    plant_text(top, "vtab_text")
    return top


def told(out):
    """{dataset: {finding: its cases}} of a report, and which findings are faults."""
    found, faults, name, what = {}, {}, "", ""
    for line in out.splitlines():
        if line.startswith("    "):
            found[name][what].append(line.strip())
        elif line.startswith("  ") and ": " in line:
            kind, _, rest = line.strip().partition(": ")
            what = rest.rpartition(" (")[0]
            found[name][what] = []
            if kind == "WRONG":
                faults.setdefault(name, set()).add(what)
        elif line and not line.startswith(" "):
            name = line.partition(":")[0]
            found.setdefault(name, {})
    return found, faults
