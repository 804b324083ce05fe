"""Mistakes that only one layout can have: twins among names, lines of lists, folders of classes."""

import json
from dataclasses import replace

import pytest
from card_trees import JPEG, plant
from split_data import refused

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.readers.class_names import tell_apart
from promptvision.data.readers.synsets import clip_classnames, distinct


@pytest.fixture
def planted(tmp_path):
    """A card and the folder of its tree."""

    def make(name, domain=""):
        card = load_card(name)
        plant(card, tmp_path, domain)
        domains = {domain: card.domains[domain]} if domain else {}
        return replace(card, domains=domains), tmp_path / card.options["folders"][0]

    return make


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
        ("images/1.jpg 10", "label 10 is out of range, the dataset has 10 classes"),
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
    assert "label 9 is out of range, the dataset has 2 classes" in refused(own, tmp_path)


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
