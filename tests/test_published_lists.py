"""Lists of published datasets: what a list of a user's own images refuses, they refuse."""

import json
import os
from pathlib import Path

import pytest
from own_images import COLOURS, everything, image

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.readers.checks import Faults, check_once
from promptvision.data.readers.coop_split import read_split
from promptvision.data.readers.words import SPLITS
from promptvision.errors import InputError

FACTS = {"title": "A test", "source": "me", "licence": "CC0", "where": "ask me", "template": "a photo of a {}."}
READ_BY = {
    "coop_split": {"folders": ["."], "images": ".", "split": "split.json"},
    "json_lists": {"folders": ["."], "names": list(COLOURS)},
    "text_lists": {"folders": ["."], "names": list(COLOURS), "lists": {s: f"{s}.txt" for s in SPLITS}},
}


def published(root, reader, lists, **facts):
    """A card of this reader and its files, which list (path, label) pairs."""
    for path, _ in (row for rows in lists.values() for row in rows):
        image(root / path)
    named = {split: [[path, label, list(COLOURS)[label]] for path, label in rows] for split, rows in lists.items()}
    (root / "split.json").write_text(json.dumps(named))
    for split, rows in lists.items():
        (root / f"{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
        entries = ", ".join(f"{json.dumps(path)}: {label}" for path, label in rows)
        (root / f"{split}.json").write_text(f"{{{entries}}}")
    (root / "card.yaml").write_text(json.dumps({**FACTS, "reader": reader, **READ_BY[reader], **facts}))
    return load_card(str(root / "card.yaml"))


def whole_lists():
    return {split: [(f"{split}/{n}.png", n) for n in range(3)] for split in ("train", "val", "test")}


@pytest.mark.fault("results")
@pytest.mark.parametrize("reader", READ_BY)
def test_one_image_under_two_labels_or_in_two_splits_is_refused(tmp_path, caplog, reader):
    two_labels, two_splits = whole_lists(), whole_lists()
    two_labels["train"].append(("train/0.png", 1))
    two_splits["test"] += [("train/0.png", 0), ("./train/1.png", 1)]
    cases = {
        "two_labels": (two_labels, "lists 'train/0.png' as 'red' and as 'green', 1 image under two labels"),
        "two_splits": (two_splits, "lists 'train/0.png' in train and in test, 2 images in two splits"),
    }
    for fault, (lists, sentence) in cases.items():
        with pytest.raises(InputError) as caught:
            read(published(tmp_path, reader, lists), tmp_path)
        assert sentence in str(caught.value) and f"`accepts: [{fault}]`" in str(caught.value)
        caplog.clear()
        images = read(published(tmp_path, reader, lists, accepts=[fault]), tmp_path)
        assert f"{sentence}, as its card says" in caplog.text and len(everything(images)) > 9
    with pytest.raises(InputError, match="unknown accepted fault 'two_lables'; did you mean 'two_labels'"):
        published(tmp_path, reader, whole_lists(), accepts=["two_lables"])


@pytest.mark.fault("results")
@pytest.mark.parametrize("reader", READ_BY)
def test_validation_on_the_test_images_is_noted(tmp_path, caplog, reader):
    lists = whole_lists()
    lists["val"] = lists["test"]
    assert len(everything(read(published(tmp_path, reader, lists), tmp_path))) == 9
    assert "the validation images are the test images" in caplog.text


@pytest.mark.fault("memory")
def test_a_label_far_away_is_named_at_once(tmp_path):
    lists = whole_lists()
    facts = published(tmp_path, "coop_split", lists)
    split = json.loads((tmp_path / "split.json").read_text())
    split["train"][0] = ["train/0.png", 10**15, "far"]
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match="labels must be 0 to n - 1 without gaps, but 3 never occurs"):
        read(facts, tmp_path)


@pytest.mark.fault("parsing")
def test_a_class_name_of_a_split_file_that_is_no_text_is_named(tmp_path):
    card = published(tmp_path, "coop_split", whole_lists())
    (tmp_path / "split.json").write_text((tmp_path / "split.json").read_text().replace('"red"', '"\\ud800"'))
    with pytest.raises(InputError, match=r"train\[0\]: the class name .* is not text in UTF-8: rename it"):
        read(card, tmp_path)


@pytest.mark.skipif("PROMPTVISION_SPLITS" not in os.environ, reason="needs the published split files")
def test_published_split_files_have_no_such_fault():
    for file in Path(os.environ["PROMPTVISION_SPLITS"]).glob("split_zhou_*.json"):
        lists = read_split(file, None, file.parent, Faults())
        check_once(load_card("dtd"), str(file), lists, Faults())
