"""Every benchmark's card on a miniature tree in its exact layout, written on the spot: lists, labels, names, order."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from promptvision.data.cards import card_names, load_card
from promptvision.data.readers import read
from promptvision.data.readers.class_names import class_name, tell_apart
from promptvision.data.readers.synsets import clip_classnames, distinct
from promptvision.data.splits import split_trainval
from promptvision.errors import InputError
from promptvision.method import check_names

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


@pytest.mark.parametrize("name", TREES)
def test_a_tree_is_read_as_it_was_written(tmp_path, name):
    card = load_card(name)
    written = {domain: plant(card, tmp_path, domain) for domain in card.domains or [""]}
    for domain, lists in written.items():
        images = read(card, tmp_path, domain)
        for part in PARTS:
            expected = sorted(lists.get(part, []), key=in_reading_order(card))
            assert getattr(images, part) == expected, (domain, part)
            if expected:
                assert images.open(expected[0][0]).size == (WIDTHS[part], 2)
        assert [label for label, _ in enumerate(images.classes)] == sorted(
            {label for items in lists.values() for _, label, _ in items}
        )
        check_names(images.classes)
    together = read(card, tmp_path)
    for part in PARTS:
        assert len(getattr(together, part)) == sum(len(lists.get(part, [])) for lists in written.values())
    assert together.root == read(card, tmp_path, next(iter(written))).root


def in_reading_order(card):
    """Folders are listed sorted, within a class by file name as text; lists keep their own order."""
    by_name = card.reader in ("synsets", "class_folders")
    return lambda item: (item[1], item[0]) if by_name else 0


@pytest.mark.parametrize("name", TREES)
def test_every_expected_file_is_missed(tmp_path, name):
    card = load_card(name)
    for domain in card.domains or [""]:
        plant(card, tmp_path, domain)
    assert card.files
    for file in card.files:
        place = tmp_path / file
        assert place.exists(), file
        if place.name == "train800val200.txt":
            continue
        place.rename(tmp_path / "away")
        with pytest.raises(InputError) as caught:
            read(card, tmp_path)
        told = str(caught.value)
        assert place.name in told and card.name in told and card.where in told and "\n" not in told
        (tmp_path / "away").rename(place)
    read(card, tmp_path)


@pytest.mark.parametrize("name", CARDS)
def test_facts_that_tools_rely_on(name):
    card = load_card(name)
    assert card.protocols and card.classes
    top = {folder.split("/")[0] for folder in card.options["folders"]}
    assert all(file.split("/")[0] in top for file in card.files)
    for entry in card.download:
        assert str(entry["url"]).startswith("http") and entry["file"]
        assert not entry.keys() - {"url", "file", "md5", "sha256", "size", "part", "into"}
        assert re.fullmatch("[0-9a-f]{32}", str(entry.get("md5", "0" * 32)))
    assert not card.hub or {"repo", "kind"} <= card.hub.keys() <= {"repo", "kind", "files", "into"}
    for domain in card.domains.values():
        assert sum(domain.get("counts", {}).values()) <= sum(card.counts.values())


def test_the_catalogue_is_whole():
    eleven = (
        "imagenet caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101"
    )
    shifted = "imagenet_v2 imagenet_sketch imagenet_a imagenet_r"
    fgvc = "cub nabirds oxford_flowers stanford_dogs stanford_cars"
    others = "office_home office31 visda17 domainnet mini_domainnet imagenet_r_split notmnist svhn stl10 world_domains"
    assert set(card_names()) >= {*eleven.split(), *shifted.split(), *others.split()}
    cards = {name: load_card(name) for name in card_names()}
    assert {name for name, card in cards.items() if "fgvc" in card.protocols} == {f"fgvc_{n}" for n in fgvc.split()}
    vtab = [card for card in cards.values() if "vtab" in card.protocols]
    assert len(vtab) == 19 and all((c.counts["train"], c.counts["val"]) == (800, 200) for c in vtab)
    groups = [next(g for g in ("natural", "specialised", "structured") if g in card.traps[0]) for card in vtab]
    assert [groups.count(group) for group in ("natural", "specialised", "structured")] == [7, 4, 8]
    assert all(len(card.options["names"]) == card.classes for card in vtab)


# What only one layout can have wrong


@pytest.fixture
def planted(tmp_path):
    """A card and the folder of its tree."""

    def make(name, domain=""):
        card = load_card(name)
        plant(card, tmp_path, domain)
        domains = {domain: card.domains[domain]} if domain else {}
        return replace(card, domains=domains), tmp_path / card.options["folders"][0]

    return make


def refused(card, root):
    with pytest.raises(InputError) as caught:
        read(card, root)
    return str(caught.value)


def test_the_twins_of_imagenet_are_told_apart(planted, tmp_path, caplog):
    caplog.set_level("INFO")
    card, _ = planted("imagenet_sketch")
    classes = read(card, tmp_path).classes
    assert [classes[n] for n in (657, 744, 836, 837)] == ["missile", "projectile", "sunglass", "sunglasses"]
    official = list(clip_classnames().values())
    assert [n for n in range(1000) if classes[n] != official[n]] == [744, 836]
    assert "class n04008634 is called 'projectile' here" in caplog.text


def test_other_twins_get_a_number():
    names = {"n1": "crane", "n2": "maillot", "n3": "crane", "n4": "maillot", "n5": "crane"}
    told = distinct(names, {"n4": "tank suit", "n9": "x"})
    assert list(told.values()) == ["crane", "maillot", "crane (2)", "tank suit", "crane (3)"]
    assert distinct({"n4": "maillot"}, {"n4": "tank suit"}) == {"n4": "maillot"}
    assert tell_apart(["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_synset_folders_that_lack_or_add_a_class_are_named(planted, tmp_path):
    card, top = planted("imagenet_a")
    extra = top / "imagenet-a/n00000000"
    extra.mkdir()
    assert f"{extra} is none of the 1000 listed classes" in refused(card, tmp_path)
    extra.rmdir()
    lost = next(top.glob("imagenet-a/n*"))
    lost.rename(top / "away")
    assert f"{top / 'imagenet-a'} has 199 of 200 class folders" in refused(card, tmp_path)
    card, top = planted("imagenet_sketch")
    (top / "images/n01440764").rename(top / "away too")
    assert "has 999 of 1000 class folders: some are missing, such as n01440764" in refused(card, tmp_path)
    (top / "classnames.txt").write_text("n01440764 tench\nn01440764 tench\n")
    assert f"list of class names {top / 'classnames.txt'}: 'n01440764' occurs twice" in refused(card, tmp_path)
    (top / "classnames.txt").write_text("n01440764\n")
    assert "'n01440764' has no name after it" in refused(card, tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/1.jpg", "entry 1: expected a path and a label, found 'images/1.jpg'"),
        ("images/1.jpg one", "expected a path and a label"),
        ("images/1.jpg 10", "label 10 is out of range, the data set has 10 classes"),
        ("images/1.jpg -1", "label -1 is out of range"),
        ("../1.jpg 0", "the path '../1.jpg' is outside the folder"),
        ("/1.jpg 0", "is outside the folder"),
        ("images/none.jpg 0", "images that"),
    ],
)
def test_wrong_lines_of_text_lists_are_named(planted, tmp_path, line, message):
    card, top = planted("vtab_svhn")
    (top / "val200.txt").write_text(f"{line}\n")
    told = refused(card, tmp_path)
    assert message in told and str(top / "val200.txt") in told


def test_labels_beyond_the_names_of_ones_own_card_are_named(planted, tmp_path):
    card, top = planted("vtab_svhn")
    own = replace(card, classes=None, options={**card.options, "names": ["zero", "one"]})
    assert "label 9 is out of range, the data set has 2 classes" in refused(own, tmp_path)


def test_spaces_in_the_paths_of_text_lists(planted, tmp_path):
    card, top = planted("vtab_svhn")
    (top / "images/an image.jpg").write_bytes(JPEG["val"])
    (top / "val200.txt").write_text("images/an image.jpg 3\n\n")
    assert read(card, tmp_path).val == [("images/an image.jpg", 3, "3")]


def test_an_unknown_variant_is_named(planted, tmp_path):
    card, top = planted("fgvc_aircraft")
    (top / "images_variant_val.txt").write_text("1000000 703-320 of 4\n")
    assert "entry 1: unknown class '703-320 of 4'; did you mean '70" in refused(card, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be an object of paths and class ids"),
        ("{", "is not JSON"),
        ('{"a/1.jpg": "x"}', "'a/1.jpg': the class id must be an integer, found 'x'"),
        ('{"a/1.jpg": true}', "the class id must be an integer"),
        ('{"../1.jpg": 1}', "the path '../1.jpg' is outside the folder"),
        (r'{"a/\u0000.jpg": 1}', "is not JSON: it has a NUL character"),
    ],
)
def test_wrong_json_lists_are_named(planted, tmp_path, text, message):
    card, top = planted("fgvc_cub")
    (top / "val.json").write_text(text)
    told = refused(card, tmp_path)
    assert message in told and str(top / "val.json") in told


@pytest.mark.fault("memory")
@pytest.mark.parametrize("pattern", ["(a+)+b", "(?:x|xx)*(y)", "a*b*(c*)d", "(", r"\d+"])
def test_a_name_pattern_that_searches_for_ages_is_refused(planted, tmp_path, pattern):
    card, _ = planted("fgvc_cub")
    own = replace(card, options={**card.options, "name_pattern": pattern})
    assert f"name_pattern {pattern!r}" in refused(own, tmp_path)


def test_json_lists_of_cars_without_their_folder_and_with_names(planted, tmp_path):
    card, top = planted("fgvc_stanford_cars")
    for place in (top / "car_ims").iterdir():
        place.rename(top / place.name)
    (top / "class_names.txt").write_text("7 AM General Hummer SUV 2000\n")
    images = read(card, tmp_path)
    assert images.test[0] == ("test0.jpg", 0, "AM General Hummer SUV 2000")
    assert images.classes[1] == "class 9"


def test_json_lists_of_another_number_of_classes(planted, tmp_path):
    card, top = planted("fgvc_oxford_flowers")
    (top / "train.json").write_text(json.dumps({"jpg/train0.jpg": 1000}))
    assert "has 103 classes, the card names 102" in refused(card, tmp_path)


def test_class_folders_of_another_number_of_classes(planted, tmp_path):
    card, top = planted("office_home", "art")
    (top / "art/TV").rename(top / "away")
    assert f"{top / 'art'} should hold 65 class folders, not 64" in refused(card, tmp_path)


@pytest.mark.parametrize(("name", "domain", "folder"), [("office31", "dslr", "dslr/TV"), ("notmnist", "", "Test/TV")])
def test_an_empty_class_folder_is_named(planted, tmp_path, name, domain, folder):
    card, top = planted(name, domain)
    for file in (top / folder).iterdir():
        file.rename(file.with_suffix(".txt"))
    assert f"the class folder {top / folder} holds no images" in refused(card, tmp_path)


def test_domains_of_a_pair_share_their_classes(planted, tmp_path):
    card, _ = planted("office_home", "art")
    planted("office_home", "clipart")
    art, clipart = (read(load_card("office_home"), tmp_path, name) for name in ("art", "clipart"))
    assert art.classes == clipart.classes and "tv" in art.classes
    assert art.classes.index("tv") + 1 == art.classes.index("table")
    assert {path for path, _, _ in art.train}.isdisjoint(path for path, _, _ in clipart.train)


# Arrays


def test_svhn_in_its_layout(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for part, n in (("train", 100), ("test", 20)):
        labels = np.arange(n) % 10
        arrays[part] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), labels
        stored = np.where(labels == 0, 10, labels)[:, None]
        savemat(tmp_path / f"{part}_32x32.mat", {"X": arrays[part][0].transpose(1, 2, 3, 0), "y": stored})
    check_arrays(load_card("svhn"), tmp_path, arrays)
    (tmp_path / "test_32x32.mat").write_bytes(b"no such format at all")
    assert f"{tmp_path / 'test_32x32.mat'} cannot be read: it is no .mat file, broken or cut short" in refused(
        load_card("svhn"), tmp_path
    )
    (tmp_path / "train_32x32.mat").unlink()
    assert f"the file {tmp_path / 'train_32x32.mat'} is missing" in refused(load_card("svhn"), tmp_path)


def test_svhn_keeps_a_tenth_of_every_class_to_validate():
    sizes = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]  # published number of each digit
    train, val = split_trainval([("", label, "") for label, n in enumerate(sizes) for _ in range(n)], 1, 0.1)
    assert {"train": len(train), "val": len(val), "test": 26032} == load_card("svhn").counts


def test_stl10_in_its_layout(tmp_path):
    rng, arrays, folder = np.random.default_rng(0), {}, tmp_path / "stl10_binary"
    folder.mkdir()
    for part, n in (("train", 100), ("test", 20)):
        arrays[part] = rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8), np.arange(n) % 10
        arrays[part][0].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        (arrays[part][1] + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    check_arrays(load_card("stl10"), tmp_path, arrays)
    np.zeros(7, np.uint8).tofile(folder / "test_X.bin")
    assert f"{folder / 'test_X.bin'} cannot be read: it does not hold 20 images" in refused(
        load_card("stl10"), tmp_path
    )


def check_arrays(card, root, arrays):
    """Ten of each class train, of which one validates; pixels and labels are those of the arrays."""
    images = read(card, root)
    assert [len(images.train), len(images.val), len(images.test)] == [90, 10, 20]
    for path, label, name in [*images.train, *images.val, *images.test]:
        part, number = path.split("/")
        pixels, labels = arrays[part]
        assert label == labels[int(number)] and name == card.options["names"][label]
        assert np.array_equal(np.asarray(images.open(path)), pixels[int(number)])
