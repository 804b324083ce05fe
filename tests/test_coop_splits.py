"""CoOp's split files: read as they are written; whatever is wrong or missing is named."""

import json

import pytest
from split_data import plant, refused, small_split

from promptvision.data.cards import card_names, load_card
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash
from promptvision.errors import InputError

SPLIT_CARDS = [name for name in card_names() if load_card(name).reader == "coop_split"]


@pytest.mark.parametrize("name", SPLIT_CARDS)
@pytest.mark.parametrize("folder", [0, 1])
def test_a_coop_split_is_read_as_it_is_written(tmp_path, name, folder):
    card, split = load_card(name), small_split()
    plant(card, tmp_path, split, folder)
    images = read(card, tmp_path)
    for part in ("train", "val", "test"):
        assert [list(item) for item in getattr(images, part)] == split[part]
    assert images.classes == ["red thing", "green_thing", "blue thing"]
    assert images.open(images.test[0][0]).getpixel((0, 0)) == (200, 100, 50)
    assert subset_hash(images.train) == subset_hash(split["train"])


@pytest.fixture
def dtd(tmp_path):
    """Write a DTD of this split (an object, or the text of the file) and return the sentence that refuses it."""

    def refuse(split):
        card = load_card("dtd")
        top = plant(card, tmp_path, small_split())
        (top / card.options["split"]).write_text(split if isinstance(split, str) else json.dumps(split))
        message = refused(card, tmp_path)
        assert str(top / card.options["split"]) in message
        return message

    return refuse


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["a.png", 47, "x"], "label 47 is out of range, the dataset has 47 classes"),
        (["a.png", -1, "x"], "label -1 is out of range"),
        (["a.png", "1", "x"], "the label must be an integer, found '1'"),
        (["a.png", 1.0, "x"], "the label must be an integer, found 1.0"),
        (["a.png", True, "x"], "the label must be an integer, found True"),
        (["a.png", 1], "expected [path, label, class name], found ['a.png', 1]"),
        ("a.png", "expected [path, label, class name], found 'a.png'"),
        ([7, 1, "x"], "path and class name must be texts"),
        (["a.png", 1, None], "path and class name must be texts"),
        (["../a.png", 1, "x"], "the path '../a.png' is outside the folder"),
        (["b/../../../a.png", 1, "x"], "is outside the folder"),
        (["/etc/passwd", 1, "x"], "the path '/etc/passwd' is outside the folder"),
        (["..\\a.png", 1, "x"], "is outside the folder"),
        (["C:\\a.png", 1, "x"], "is outside the folder"),
        (["a.png", 1, "another name"], "label 1 is 'green_thing' and, at a.png, 'another name'"),
        (["a.png", 7, "x"], "labels must be 0 to n - 1 without gaps, but 3 never occurs"),
    ],
)
def test_a_wrong_entry_is_named(dtd, entry, message):
    split = small_split()
    split["val"].append(entry)
    found = dtd(split)
    assert message in found
    assert "val[2]" in found or "label 1 is" in message or "gaps" in message


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    ("split", "message"),
    [
        ('{"train": [', "is not JSON"),
        ("[]", "has no list 'train'"),
        ({"train": [], "val": []}, "has no list 'test'"),
        ({"train": [], "val": {}, "test": []}, "has no list 'val'"),
    ],
)
def test_a_malformed_split_file_is_named(dtd, split, message):
    assert message in dtd(split)


def test_a_split_file_without_images_has_no_classes(tmp_path):
    card = load_card("dtd")
    plant(card, tmp_path, small_split())
    (tmp_path / "dtd" / card.options["split"]).write_text('{"train": [], "val": [], "test": []}')
    assert "dataset 'dtd' has no classes" in refused(card, tmp_path)


@pytest.mark.parametrize("name", SPLIT_CARDS)
def test_whatever_a_coop_split_lacks_is_named(tmp_path, name):
    card = load_card(name)
    folder = card.options["folders"][0]
    assert "DATASET.ROOT is not set" in refused(card, "")
    assert f"the data root {tmp_path / 'none'} does not exist" in refused(card, tmp_path / "none")
    assert f"the data root {tmp_path} is empty" in refused(card, tmp_path)
    (tmp_path / "file").touch()
    assert f"the data root {tmp_path / 'file'} is a file" in refused(card, tmp_path / "file")
    assert f"{tmp_path} has no folder {folder} or" in refused(card, tmp_path)
    top = plant(card, tmp_path, small_split())
    lost = top / card.options["images"] / "green_thing/test_0.png"
    lost.unlink()
    message = refused(card, tmp_path)
    assert "1 of the 9 images" in message and str(lost) in message
    if card.options["images"] != ".":
        (top / card.options["images"]).rename(top / "elsewhere")
        assert f"{top} has no folder {card.options['images']}" in refused(card, tmp_path)
    (top / card.options["split"]).unlink()
    message = refused(card, tmp_path)
    assert f"the split file {top / card.options['split']} is missing; {card.where}" in message
    assert message.endswith(f"with `python tools/data.py split {name}`")


def test_without_a_root_the_folder_data_is_taken(tmp_path, monkeypatch):
    plant(load_card("dtd"), tmp_path / "data", small_split())
    monkeypatch.chdir(tmp_path)
    assert read(load_card("dtd"), "").train == read(load_card("dtd"), tmp_path / "data").train
    with pytest.raises(InputError, match="DATASET.ROOT is not set"):
        read(load_card("folder"), "")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(InputError, match="DATASET.ROOT is not set and there is no folder 'data' here"):
        read(load_card("dtd"), "")
