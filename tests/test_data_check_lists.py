"""`data check` on lists, labels and domains, and its wrong use."""

import json

import pytest
import yaml
from data_root import FACTS, SIZES, image, lists, told

from promptvision.data.prepare.findings import misplaced


def test_parts_that_are_one_list_are_no_copies(tool, root):
    """As the official code's ImageNet, which validates on the test images."""
    split = lists()
    split["val"] = split["test"]
    (root / "pets/split.json").write_text(json.dumps(split))
    status, out, _ = tool("data", "check", "pets", "--root", root)
    found, faults = told(out)
    assert status == 1 and faults["pets"] == {"counts differ from the card's"}
    assert found["pets"]["splits with the same images"] == ["val has the same images as test"]


def test_a_image_listed_in_two_parts_is_named(tool, root):
    split = lists()
    split["test"][0] = split["train"][0]
    (root / "pets/split.json").write_text(json.dumps(split))
    status, out, _ = tool("data", "check", "pets", "--root", root)
    assert status == 1 and told(out)[0]["pets"]["listed twice"] == ["ant/train_0.jpg is in train and test"]


def test_a_label_of_its_own_is_named(tool, root):
    split = lists()
    split["test"][8] = ["cat/test_2.jpg", 3, "cat"]
    (root / "moths/split.json").write_text(json.dumps(split))
    card = (root / "../cards/moths.yaml").read_text().replace("classes: 3\n", "")
    (root / "../cards/moths.yaml").write_text(card)
    status, out, _ = tool("data", "check", "moths", "--root", root)
    assert status == 1 and told(out)[0]["moths"]["wrong labels"] == [
        "labels 2 (such as cat/train_0.jpg) and 3 (such as cat/test_2.jpg) are both 'cat'"
    ]


def test_folders_that_are_no_classes_give_no_class_away():
    flat = {
        part: [(f"images/{part}/{n}.jpg", 4 * (n == 9), "abcde"[4 * (n == 9)]) for n in range(10)] for part in SIZES
    }
    flat["train"] += [("images/train/x.jpg", 1, "b"), ("images/train/y.jpg", 2, "c"), ("images/train/z.jpg", 3, "d")]
    assert misplaced(flat) == []


def test_another_spelling_of_a_missing_file_is_told(tool, root):
    (root / "pets/images/ant/train_0.jpg").rename(root / "pets/images/ant/Train_0.JPG")
    status, out, _ = tool("data", "check", "pets", "--root", root)
    assert status == 1 and "ant/train_0.jpg: no such file, but there is ant/Train_0.JPG" in out


def test_several_processes_find_the_same(tool, root):
    (root / "pets/images/cat/test_1.jpg").write_bytes(b"no image")
    one, two = (tool("data", "check", "pets", "--root", root, "--jobs", jobs) for jobs in ("1", "2"))
    assert one == two and one[0] == 1 and "cat/test_1.jpg" in one[1]


def test_check_of_domains_reports_each(tool, root, tmp_path):
    domains = {"tame": {"folders": ["pets"], "counts": {"train": 18}}, "wild": {"folders": ["moths"]}}
    facts = {**FACTS, "reader": "coop_split", "images": "images", "split": "split.json", "domains": domains}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(facts))
    (root / "moths/images/ant/test_2.jpg").write_bytes(b"")
    status, out, _ = tool("data", "check", tmp_path / "two.yaml", "--root", root)
    assert status == 1 and "1 of 2 fine, not: two, wild" in out
    assert "two, tame: train 18 images" in out and "two, wild: train 18 images" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name the datasets to check, or pass --all"),
        (["pets", "--all"], "name the datasets to check, or pass --all"),
        (["pet"], "unknown dataset 'pet'; did you mean 'pets'"),
        (["pets", "--jobs", "0"], "argument --jobs: '0' is no whole number from 1 on"),
        (["--all", "--root", "nowhere"], "none of the 4 datasets of the cards is under nowhere"),
    ],
)
def test_wrong_use_of_check(tool, root, words, sentence):
    status, _, err = tool("data", "check", *words)
    assert status == 2 and err.startswith("error: ") and sentence in err


@pytest.mark.parametrize(
    ("names", "each", "cases"),
    [
        (["ant"], 4, ["there is one class only, 'ant': a classifier needs two or more"]),
        (["ant", "bee"], 1, ["test has no image"]),
    ],
)
def test_own_images_that_are_too_few_are_named(tool, tmp_path, names, each, cases):
    for name in names:
        for number in range(each):
            image(tmp_path / "own" / name / f"{number}.png", len(name) + number)
    status, out, _ = tool("data", "check", "folder", "--root", tmp_path / "own")
    assert status == 1 and told(out)[0]["folder"]["too few images"] == cases
