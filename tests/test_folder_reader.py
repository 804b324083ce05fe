"""Your own folder of classes: how it is split, and what it may lack."""

import pytest
from split_data import paths, refused, save

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash


def own_folder(root, counts, prefix=""):
    for name, count in counts.items():
        for n in range(count):
            save(root / prefix / name / f"{n:02d}.png")


def test_a_folder_is_split_50_20_30_and_stays_so(tmp_path):
    own_folder(tmp_path, {"dog": 10, "cat": 20})
    images = read(load_card("folder"), tmp_path)
    assert images.classes == ["cat", "dog"]
    assert [len(part) for part in (images.train, images.val, images.test)] == [15, 6, 9]
    everything = images.train + images.val + images.test
    assert sorted(paths(everything)) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")
    )
    again = read(load_card("folder"), tmp_path)
    assert (again.train, again.val, again.test) == (images.train, images.val, images.test)
    assert subset_hash(images.train) == "9be376dad453e52067af1fa23706c157eab2fb06fd434b541252d4997b1c3f0f"
    assert images.open(images.train[0][0]).size == (6, 4)


def test_nested_folders_suffixes_and_hidden_files(tmp_path):
    save(tmp_path / "cat/a/b/1.PNG")
    save(tmp_path / "cat/2.JpEg")
    save(tmp_path / "cat/naïve name's.webp")
    save(tmp_path / "cat/.hidden.png")
    save(tmp_path / "cat/.thumbs/3.png")
    save(tmp_path / ".git/4.png")
    (tmp_path / "cat/notes.txt").touch()
    (tmp_path / "readme.md").touch()
    images = read(load_card("folder"), tmp_path)
    found = paths(images.train + images.val + images.test)
    assert sorted(found) == ["cat/2.JpEg", "cat/a/b/1.PNG", "cat/naïve name's.webp"]
    assert images.classes == ["cat"]


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "valid", "Test"), ("train", "validation", "test")]
)
def test_given_splits_are_kept(tmp_path, names):
    for folder, counts in zip(names, ({"b": 3, "a": 2}, {"b": 1}, {"a": 1, "c": 2}), strict=True):
        own_folder(tmp_path, counts, folder)
    images = read(load_card("folder"), tmp_path)
    assert images.classes == ["a", "b", "c"]
    assert images.train[0] == (f"{names[0]}/a/00.png", 0, "a") and len(images.train) == 5
    assert images.val == [(f"{names[1]}/b/00.png", 1, "b")]
    assert [label for _, label, _ in images.test] == [0, 2, 2]


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_one_held_out_folder_is_tested_on(tmp_path, held_out):
    own_folder(tmp_path, {"a": 10, "b": 10}, "train")
    own_folder(tmp_path, {"a": 3, "b": 3}, held_out)
    (tmp_path / "annotations").mkdir()
    images = read(load_card("folder"), tmp_path)
    assert [len(part) for part in (images.train, images.val, images.test)] == [16, 4, 6]
    assert all(path.startswith(f"{held_out}/") for path in paths(images.test))
    assert all(path.startswith("train/") for path in paths(images.train + images.val))


def test_a_lone_train_folder_is_split(tmp_path):
    own_folder(tmp_path, {"a": 10, "b": 10}, "train")
    images = read(load_card("folder"), tmp_path)
    assert images.classes == ["a", "b"] and len(images.test) == 6


def test_train_can_be_a_class(tmp_path):
    own_folder(tmp_path, {"bus": 4, "train": 4})
    assert read(load_card("folder"), tmp_path).classes == ["bus", "train"]


def test_whatever_a_folder_lacks_is_named(tmp_path):
    card = load_card("folder")
    assert "DATASET.ROOT is not set" in refused(card, "")
    assert f"the data root {tmp_path / 'none'} does not exist" in refused(card, tmp_path / "none")
    assert f"the data root {tmp_path} is empty" in refused(card, tmp_path)
    (tmp_path / ".hidden").touch()
    assert f"the data root {tmp_path} is empty" in refused(card, tmp_path)
    (tmp_path / "notes.txt").touch()
    assert f"{tmp_path} holds no folders of classes" in refused(card, tmp_path)
    save(tmp_path / "loose.PNG")
    message = refused(card, tmp_path)
    assert f"{tmp_path} holds images but no folders of classes" in message and message.endswith(card.where)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/notes.txt").touch()
    assert "the class folder 'cat'" in refused(card, tmp_path)
