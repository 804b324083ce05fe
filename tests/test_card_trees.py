"""Every benchmark's card on a miniature tree in its exact layout, written on the spot: lists, labels, names, order."""

import re

import numpy as np
import pytest
from card_trees import CARDS, PARTS, TREES, WIDTHS, plant
from scipy.io import savemat
from split_data import refused

from promptvision.data.cards import card_names, load_card
from promptvision.data.readers import read
from promptvision.data.splits import split_trainval
from promptvision.errors import InputError
from promptvision.method import check_names


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
