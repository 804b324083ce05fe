"""`data split`: a missing split is made on purpose only, from the official lists."""

import json
import shutil

import numpy as np
from data_root import NAMES
from scipy.io import savemat

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash


def test_a_missing_split_is_made_on_purpose_only(tool, root):
    card = load_card("pets")
    (root / "pets/split.json").unlink()
    (root / "pets/images/README.txt").write_text("not a class")
    status, out, _ = tool("data", "split", "pets", "--root", root, "--seed", "3")
    assert status == 0 and "not the published split" in out
    made = json.loads((root / "pets/split.json").read_text())
    assert made["note"] == "not the published split: made by tools/data.py split, seed 3"
    assert f"{root / 'pets/split.json'} is not the published split" in tool("data", "check", "pets", "--root", root)[1]
    first = read(card, root)
    assert [len(part) for part in (first.train, first.val, first.test)] == [18, 6, 9] and first.classes == NAMES
    status, _, err = tool("data", "split", "pets", "--root", root)
    assert status == 2 and f"{root / 'pets/split.json'} exists already and is not overwritten" in err
    (root / "pets/split.json").unlink()
    assert tool("data", "split", "pets", "--root", root, "--seed", "4")[0] == 0
    assert subset_hash(read(card, root).train) != subset_hash(first.train)


def test_a_split_that_cannot_be_made(tool, root):
    status, _, err = tool("data", "split", "vtab_text", "--root", root)
    assert status == 2 and "dataset 'vtab_text' has no split file to make: its reader is text_lists" in err
    shutil.rmtree(root / "pets/images")
    (root / "pets/images").mkdir()
    (root / "pets/split.json").unlink()
    status, _, err = tool("data", "split", "pets", "--root", root)
    assert status == 2 and f"{root / 'pets/images'} holds no folders of classes" in err


def made(tool, root, name):
    """The split that is made for a real card."""
    card = load_card(name)
    (root / card.options["folders"][0] / card.options["images"]).mkdir(parents=True, exist_ok=True)
    status, _, err = tool("data", "split", name, "--root", root)
    assert status == 0, err
    return json.loads((root / card.options["folders"][0] / card.options["split"]).read_text())


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_split_of_pets_keeps_the_official_test(tool, tmp_path):
    place = tmp_path / "oxford_pets/annotations"
    write(place / "trainval.txt", "".join(f"Abyssinian_{n} 1 1 1\nyorkshire_terrier_{n} 2 2 25\n" for n in range(10)))
    write(place / "test.txt", "yorkshire_terrier_99 2 2 25\nAbyssinian_98 1 1 1\n")
    split = made(tool, tmp_path, "oxford_pets")
    assert split["test"] == [
        ["yorkshire_terrier_99.jpg", 1, "yorkshire_terrier"],
        ["Abyssinian_98.jpg", 0, "abyssinian"],
    ]
    assert [len(split[part]) for part in ("train", "val")] == [16, 4]
    (place / "test.txt").write_text("Abyssinian_98\n")
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").unlink()
    status, _, err = tool("data", "split", "oxford_pets", "--root", tmp_path)
    assert status == 2 and "are not of the official form" in err
    (place / "test.txt").unlink()
    status, _, err = tool("data", "split", "oxford_pets", "--root", tmp_path)
    assert status == 2 and f"the official list {place / 'test.txt'} is missing" in err


def test_a_split_of_flowers_takes_names_and_labels_from_their_files(tool, tmp_path):
    top = tmp_path / "oxford_flowers"
    top.mkdir()
    savemat(top / "imagelabels.mat", {"labels": np.array([[2] * 10 + [1] * 10])})
    write(top / "cat_to_name.json", json.dumps({"1": "pink primrose", "2": "hard-leaved pocket orchid"}))
    split = made(tool, tmp_path, "oxford_flowers")
    assert {(label, name) for _, label, name in split["train"]} == {
        (0, "pink primrose"),
        (1, "hard-leaved pocket orchid"),
    }
    assert all((int(path[6:11]) <= 10) == (label == 1) for path, label, _ in split["train"])
    assert [len(split[part]) for part in ("train", "val", "test")] == [10, 4, 6]


def test_a_split_of_caltech_leaves_out_and_renames(tool, tmp_path):
    for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "ant"):
        for n in range(4):
            write(tmp_path / f"caltech-101/101_ObjectCategories/{name}/image_{n}.jpg", "")
    split = made(tool, tmp_path, "caltech101")
    assert {(path.split("/")[0], label, name) for path, label, name in split["train"]} == {
        ("Faces", 0, "face"),
        ("ant", 1, "ant"),
    }
