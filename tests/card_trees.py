"""Miniature trees of the benchmarks' cards, each in its exact layout."""

import io
import json
from collections.abc import Callable
from pathlib import PurePosixPath

from PIL import Image

from promptvision.data.cards import card_names, load_card
from promptvision.data.readers.class_names import class_name
from promptvision.data.readers.synsets import clip_classnames, distinct

PARTS = ("train", "val", "test")
WIDTHS = {"train": 3, "val": 4, "test": 5}


def image(width, kind):
    stream = io.BytesIO()
    Image.new("RGB", (width, 2), (200, 100, 50)).save(stream, kind)
    return stream.getvalue()


JPEG = {part: image(width, "JPEG") for part, width in WIDTHS.items()}
PNG = {part: image(width, "PNG") for part, width in WIDTHS.items()}


def save(top, items, part):
    """Write the images of a list; those of each part have a width of their own."""
    for path, _, _ in items:
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((PNG if path.endswith("png") else JPEG)[part])


def some(card, most=12):
    """Labels of a few classes, each twice, not in label order."""
    n = min(card.classes or most, most)
    return [label for label in range(n)][::-1] + [label for label in range(n)]


# One writer per reader: writes the tree, gives the lists that must be read. `keys` are those of the card or domain.


def write_coop_split(card, root, keys):
    top = root / keys["folders"][0]
    folder = {part: "cars_test/" if part == "test" else "cars_train/" for part in PARTS}
    inner = folder if keys["images"] == "." else dict.fromkeys(PARTS, "")
    lists = {
        part: [(f"{inner[part]}class {y}/{part}_{n}.jpg", y, f"class_{y}") for n, y in enumerate(some(card))]
        for part in PARTS
    }
    for part, items in lists.items():
        save(top / keys["images"], items, part)
    (top / keys["split"]).write_text(json.dumps(lists))
    return lists


def write_synsets(card, root, keys):
    top, names = root / keys["folders"][0], clip_classnames()
    if keys.get("classnames"):
        (top).mkdir(parents=True)
        (top / keys["classnames"]).write_text("".join(f"{synset} {name}\n" for synset, name in names.items()))
    told = distinct(names, keys["twins"])
    synsets = list(names)[-card.classes :]
    folders = [str(n) for n in range(card.classes)] if keys.get("numbered") else synsets
    lists = {}
    for part in {"train", "test"} & set(keys):
        place = keys[part][0]
        lists[part] = [
            (f"{place}/{folder}/{synset}_{n}.JPEG", label, told[synset])
            for label, (folder, synset) in enumerate(zip(folders, synsets, strict=True))
            for n in ((1, 10, 2) if label == 0 else (5,))
        ]
        save(top, lists[part][::-1], part)
        (top / place / "README.txt").write_text("not a class")
        (top / place / folders[0] / ".hidden").touch()
        (top / place / folders[0] / "Thumbs.db").touch()
    return lists


def write_text_lists(card, root, keys):
    top, inner = root / keys["folders"][0], keys.get("images", "")
    names, lists = keys.get("names"), {}
    for part, file in keys["lists"].items():
        rows = []
        for n, y in enumerate(some(card)):
            named, folder = f"images/{file[:-4]}/{n:06d}.jpg", PurePosixPath(file).name.split("_")[0]
            path = named if names else f"{folder}/class_{y}/{part}_{n}.png"
            rows.append((path, y, names[y] if names else PurePosixPath(path).parent.name))
        lists[part] = [(f"{inner}/{path}" if inner else path, y, name) for path, y, name in rows]
        save(top, lists[part], part)
        (top / file).parent.mkdir(parents=True, exist_ok=True)
        (top / file).write_text("".join(f"{path} {y}\n" for path, y, _ in rows))
    for file in card.files:
        if file.endswith("train800val200.txt"):
            (root / file).touch()
    return lists


def write_aircraft(card, root, keys):
    top = root / keys["folders"][0]
    top.mkdir(parents=True)
    names = [f"70{n}-320 of {n}" for n in range(5)]
    (top / keys["variants"]).write_text("\n".join(names) + "\n")
    lists = {}
    for number, (part, file) in enumerate(keys["lists"].items()):
        rows = [(f"{1000000 * number + n:07d}", y) for n, y in enumerate([3, 0, 4, 1, 2, 0])]
        lists[part] = [(f"{keys['images']}/{row}.jpg", y, names[y]) for row, y in rows]
        (top / file).write_text("".join(f"{row} {names[y]}\n" for row, y in rows))
        save(top, lists[part], part)
    return lists


FOLDERS = {
    "fgvc_cub": lambda n: f"{n + 1:03d}.Bird_{n}",
    "fgvc_nabirds": lambda n: f"{n + 295:04d}",
    "fgvc_stanford_dogs": lambda n: f"n{n:08d}-Dog_{n}",
    "fgvc_stanford_cars": lambda n: "car_ims",
    "fgvc_oxford_flowers": lambda n: "jpg",
}
NAMES = {
    "fgvc_cub": lambda n: f"Bird_{n}",
    "fgvc_nabirds": lambda n: f"Bird {n} (male)",
    "fgvc_stanford_dogs": lambda n: f"Dog_{n}",
    "fgvc_stanford_cars": lambda n: f"class {2 * n + 7}",
}


def write_json_lists(card, root, keys):
    top, n = root / keys["folders"][0], card.classes if "names" in keys else 12
    inner = keys.get("images", "")
    named = NAMES.get(card.name) or keys["names"].__getitem__
    parts = {"train": range(n - 1, -1, -1), "val": range(1, n), "test": range(n - 1)}
    lists = {p: [(f"{FOLDERS[card.name](y)}/{p}{y}.jpg", y, named(y)) for y in ys] for p, ys in parts.items()}
    for part, items in lists.items():
        save(top / inner, items, part)
        (top / f"{part}.json").write_text(json.dumps({path: 2 * y + 7 for path, y, _ in items}))
    if card.name == "fgvc_nabirds":
        (top / keys["names_file"]).write_text("".join(f"{y + 295} Bird {y} (male)\n" for y in range(n)))
    return lists


def write_class_folders(card, root, keys):
    top, lists = root / keys["folders"][0], {}
    raws = sorted([f"Thing_{n}" for n in range(card.classes - 2)] + ["TV", "Table"])
    for part, inner in keys["parts"].items():
        images = f"{inner}/images" if card.name == "office31" and inner == "amazon" else inner
        lists[part] = [
            (f"{images}/{raw}/{n}.jpg", label, class_name(card, raw)) for label, raw in enumerate(raws) for n in (10, 9)
        ]
        save(top, lists[part][::-1], part)
    return lists


WRITERS: dict[str, Callable] = {
    "coop_split": write_coop_split,
    "synsets": write_synsets,
    "text_lists": write_text_lists,
    "aircraft": write_aircraft,
    "json_lists": write_json_lists,
    "class_folders": write_class_folders,
}
CARDS = [name for name in card_names() if "folders" in load_card(name).options]
TREES = [name for name in CARDS if load_card(name).reader != "torchvision"]


def plant(card, root, domain=""):
    own = {key: value for key, value in card.domains.get(domain, {}).items() if key != "counts"}
    return WRITERS[card.reader](card, root, {**card.options, **own})
