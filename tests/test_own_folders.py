"""Folders of a user's own images: read as their author meant, or refused in one sentence; nothing in silence."""

import pytest
from own_images import COLOURS, classes, everything, folder, image, listed, refused
from PIL import Image

from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.folder import check_output
from promptvision.data.readers.words import SPLITS, split_word
from promptvision.errors import InputError
from promptvision.experiment.prediction.inputs import find_images

# Splits: one table of words


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("TRAIN", "test"),
        ("training_set", "test_set"),
        ("TrainData", "testimages"),
        ("train2017", "test2017"),
        ("1-train", "2-test"),
    ],
)
def test_folders_of_splits_have_many_names(tmp_path, train, test):
    classes(tmp_path / train)
    classes(tmp_path / test, each=2)
    images = folder(tmp_path)
    assert images.classes == ["blue", "green", "red"]
    assert (len(images.train) + len(images.val), len(images.test)) == (12, 6)


def test_splits_in_a_folder_of_their_own_are_found(tmp_path):
    classes(tmp_path / "archive/train")
    classes(tmp_path / "archive/valid", each=1)
    classes(tmp_path / "archive/test", each=2)
    images = folder(tmp_path)
    assert images.classes == ["blue", "green", "red"]
    assert [len(own) for own in (images.train, images.val, images.test)] == [12, 3, 6]
    assert images.open(images.test[0][0]).size == (6, 4)


@pytest.mark.parametrize("word", [word for words in SPLITS.values() for word in words])
def test_a_list_and_a_folder_know_the_same_words(tmp_path, word):
    classes(tmp_path / word.title())
    other = "test" if split_word(word) != "test" else "train"
    classes(tmp_path / other, each=2)
    rows = [(path, name) for path, _, name in (*folder(tmp_path).train, *folder(tmp_path).val, *folder(tmp_path).test)]
    text = "path,label,split\n" + "".join(f"{path},{name},{path.split('/')[0]}\n" for path, name in rows)
    found = listed(tmp_path / "my.csv", text)
    assert sorted(found.test) == sorted(folder(tmp_path).test) and len(everything(found)) == 18


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("train", "Training", "test"):
        classes(tmp_path / name)
    assert "two folders of the train split, 'Training' and 'train': merge them" in refused("folder", tmp_path)


@pytest.mark.parametrize("word", ["test", "Testing", "val"])
def test_a_lone_test_folder_is_tested_whole(tmp_path, word):
    classes(tmp_path / word, each=2)
    images = folder(tmp_path)
    assert images.classes == ["blue", "green", "red"] and not images.train and len(images.test) == 6


def test_a_class_may_be_called_as_a_split(tmp_path):
    classes(tmp_path, names=["test", "other"])
    assert folder(tmp_path).classes == ["other", "test"]


# Searching folders: one rule


def test_every_suffix_is_one_that_pillow_reads():
    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    optional = {".mpo", ".avif", ".heic", ".heif", ".hif"}
    assert set(SUFFIXES) - optional <= known and {".jfif", ".jpe", ".jp2"} <= set(SUFFIXES)


def test_images_of_rare_suffixes_are_read_and_others_counted(tmp_path, caplog, tool):
    classes(tmp_path)
    for n in range(4):
        image(tmp_path / f"red/saved{n}.{'jfif' if n % 2 else 'JPE'}", COLOURS["red"], "JPEG")
    for n in range(2):
        (tmp_path / f"red/phone{n}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    images = folder(tmp_path)
    assert len(everything(images)) == 16 and images.open("red/saved0.JPE").size == (6, 4)
    sentence = "left out: 2 .heic files, which are not read as images, such as red/phone0.HEIC"
    assert sentence in caplog.text
    status, out, _ = tool("data", "check", "folder", "--root", tmp_path)
    assert sentence in " ".join(out.split())


def test_what_macs_and_notebooks_leave_is_left_out_and_counted(tmp_path, caplog):
    classes(tmp_path)
    (tmp_path / "__MACOSX/red").mkdir(parents=True)
    (tmp_path / "__MACOSX/red/._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "red/._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "red/.DS_Store").write_bytes(b"x")
    image(tmp_path / ".ipynb_checkpoints/1.png")
    image(tmp_path / "red/__MACOSX/1.png")
    images = folder(tmp_path)
    assert images.classes == ["blue", "green", "red"] and len(everything(images)) == 12
    assert "left out: 1 hidden file, such as red/._0.png" in caplog.text
    assert "left out: 3 hidden folders, such as .ipynb_checkpoints" in caplog.text and "DS_Store" not in caplog.text


def test_copies_that_network_drives_and_systems_keep_are_left_out(tmp_path, caplog):
    classes(tmp_path)
    image(tmp_path / "red/@eaDir/0.png/SYNOPHOTO_THUMB_M.png")
    for name in ("@eaDir", "lost+found"):
        (tmp_path / name).mkdir()
    images = folder(tmp_path)
    assert images.classes == ["blue", "green", "red"] and len(everything(images)) == 12
    assert "left out: 3 hidden folders" in caplog.text


def test_images_outside_of_classes_and_splits_are_counted(tmp_path, caplog):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    image(tmp_path / "train/loose.png")
    image(tmp_path / "more/red/1.png")
    (tmp_path / "annotations").mkdir()
    folder(tmp_path)
    assert "1 image beside the class folders, such as train/loose.png" in caplog.text
    assert "1 image outside the folders of the splits, such as more/red/1.png" in caplog.text


@pytest.mark.parametrize("places", [("seg_train", "seg_test"), ("art", "sketch"), ("images",)])
def test_folders_inside_classes_that_are_probably_the_classes(tmp_path, caplog, places):
    for place in places:
        classes(tmp_path / place)
    assert folder(tmp_path).classes == sorted(places)
    assert (
        f"the classes are {', '.join(map(repr, sorted(places)))}; if they are rather the folders inside" in caplog.text
    )
    assert "'blue', 'green', 'red' ..., set DATASET.ROOT to the folder that holds them" in caplog.text


@pytest.mark.parametrize("cat", ["cat/puppy/0.png", "cat/0.png", "cat/kitten/0.png"])
def test_folders_inside_classes_may_be_kinds_of_them(tmp_path, caplog, cat):
    for path in (cat, "cat/old/0.png", "dog/puppy/0.png", "dog/old/0.png" if cat == "cat/0.png" else "dog/hound/0.png"):
        image(tmp_path / path)
    assert folder(tmp_path).classes == ["cat", "dog"] and "if they are rather" not in caplog.text


def test_a_table_beside_images_is_for_another_reader(tmp_path):
    for split in ("train", "valid"):
        image(tmp_path / split / "0.jpg")
        (tmp_path / split / "_classes.csv").write_text("filename, red\n0.jpg, 1\n")
    assert "no folders of classes, and the table _classes.csv, which DATASET.NAME list reads" in refused(
        "folder", tmp_path
    )


def test_a_link_out_of_a_linked_class_to_all_classes_is_left_out(tmp_path):
    """`view/red` is a link, so the folder `view`, to which `loop` leads, is not above the folder that it names."""
    classes(tmp_path / "own")
    (tmp_path / "view").mkdir()
    for name in COLOURS:
        (tmp_path / "view" / name).symlink_to(tmp_path / "own" / name)
    (tmp_path / "own/red/loop").symlink_to(tmp_path / "view")
    assert sorted(everything(folder(tmp_path / "view"))) == [f"{c}/{n}.png" for c in sorted(COLOURS) for n in range(4)]


def test_links_are_followed_once(tmp_path, caplog):
    classes(tmp_path / "own")
    image(tmp_path / "elsewhere/far.png")
    (tmp_path / "own/red/loop").symlink_to(tmp_path / "own/red")
    (tmp_path / "own/red/away").symlink_to(tmp_path / "elsewhere")
    assert sorted(everything(folder(tmp_path / "own")))[-1] == "red/away/far.png"
    assert "1 link to a folder that is searched already, such as red/loop" in caplog.text
    assert len(find_images([str(tmp_path / "own")])) == 13


def entries(name):
    return [entry for entry, _, _ in find_images([str(name)])]


def test_predictions_search_folders_as_training_does(tmp_path, caplog):
    for name in ("a.png", "._a.png", "b.JFIF", ".ipynb_checkpoints/c.png", "__MACOSX/._a.png", "sub/d.png"):
        image(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    found = [str(tmp_path / name) for name in ("a.png", "b.JFIF", "sub/d.png")]
    assert entries(tmp_path) == found
    assert "left out: 1 .txt file, which" in caplog.text and "left out: 2 hidden folders" in caplog.text
    assert entries(tmp_path / "s*") == found[2:]
    assert entries(tmp_path / "._a.png") == [str(tmp_path / "._a.png")]
    (tmp_path / "sub/d.png").rename(tmp_path / "sub/d.raw")
    with pytest.raises(InputError, match="no image at .*sub; left out: .* .raw file"):
        find_images([str(tmp_path / "sub")])


# Runs among the images


def test_runs_among_the_class_folders_are_refused(tmp_path, tool):
    classes(tmp_path / "mine")
    for inside in ("mine", "mine/out", "mine/red/out"):
        with pytest.raises(InputError, match="where it would be taken for a class"):
            check_output(str(tmp_path / "mine"), tmp_path / inside)
    for outside in ("out", "mine2/out", "mine/.runs"):
        check_output(str(tmp_path / "mine"), tmp_path / outside)
    status, _, err = tool(
        "train", "--config", "configs/coop/embedded.yaml", "DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "mine",
        "OUTPUT_DIR", tmp_path / "mine/out",
    )  # fmt: skip
    assert status == 2 and "is inside the folder of images" in err and not (tmp_path / "mine/out").exists()


def test_runs_beside_the_folders_of_splits_are_fine(tmp_path):
    for split in ("train", "test"):
        classes(tmp_path / "mine" / split)
    check_output(str(tmp_path / "mine"), tmp_path / "mine/out")
    with pytest.raises(InputError, match="where it would be taken for a class"):
        check_output(str(tmp_path / "mine"), tmp_path / "mine/train/out")
