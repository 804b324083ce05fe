"""Inputs that are common in the field: read as their author meant, or refused in one sentence; nothing in silence."""

import json
import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from promptvision.data.cards import load_card
from promptvision.data.decode import SUFFIXES, BadImage, open_image
from promptvision.data.readers import read
from promptvision.data.readers.checks import Faults, check_once
from promptvision.data.readers.coop_split import read_split
from promptvision.data.readers.words import SPLITS, split_word
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.errors import InputError
from promptvision.experiment.predict import find_images, in_utf8
from promptvision.report.figures.contact_sheet import contact_sheet, drawable
from promptvision.report.tables.terminal import predictions_table

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def image(path, colour=(1, 2, 3), kind="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, kind, **options)


def classes(root, each=4, names=COLOURS):
    """A folder for each colour with `each` images."""
    for name in names:
        for n in range(each):
            image(root / name / f"{n}.png", COLOURS.get(name, (9, 9, 9)))


def everything(images):
    return [path for own in (images.train, images.val, images.test) for path, _, _ in own]


def folder(root):
    return read(load_card("folder"), root)


def listed(file, text):
    file.write_text(text)
    return read(load_card("list"), file)


def refused(card, root):
    with pytest.raises(InputError) as caught:
        read(load_card(card), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_predictions_search_folders_as_training_does(tmp_path, caplog):
    for name in ("a.png", "._a.png", "b.JFIF", ".ipynb_checkpoints/c.png", "__MACOSX/._a.png", "sub/d.png"):
        image(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    found = [tmp_path / name for name in ("a.png", "b.JFIF", "sub/d.png")]
    assert find_images([str(tmp_path)]) == found
    assert "left out: 1 .txt file, which" in caplog.text and "left out: 2 hidden folders" in caplog.text
    assert find_images([str(tmp_path / "s*")]) == found[2:]
    assert find_images([str(tmp_path / "._a.png")]) == [tmp_path / "._a.png"]
    (tmp_path / "sub/d.png").rename(tmp_path / "sub/d.raw")
    with pytest.raises(InputError, match="no image at .*sub; left out: .* .raw file"):
        find_images([str(tmp_path / "sub")])


def test_names_that_are_not_utf_8_are_escaped():
    assert in_utf8("out/caf\udce9.png") == "'out/caf\\udce9.png'" and in_utf8("out/café.png") == "out/café.png"
    rows = [{"picture": "a[b]\x1b.png", "top": [{"class": "[red]", "probability": 1.0}]}]
    table = predictions_table(rows)
    cells = [str(cell) for column in table.columns for cell in column.cells]
    assert cells == ["'a[b]\\x1b.png'", "[red] 100.0 %"]


def test_a_sheet_of_class_names_in_any_script(tmp_path, recwarn):
    contact_sheet([(name, [Image.new("RGB", (4, 4))]) for name in ("犬", "แมว", "\U0001fabf")], tmp_path / "sheet.png")
    assert not [str(each.message) for each in recwarn.list if "Glyph" in str(each.message)]
    assert drawable("naïve") == "naïve" and drawable("\U0010fffd") == "\\U0010fffd"


# One image


def test_formats_that_cannot_be_read_are_named(tmp_path):
    starts = {
        b"\0\0\0\x18ftypheic\0\0\0\0mif1": "it is HEIC.*pip install pillow-heif.*convert",
        b"\0\0\0\x18ftypmp42": "it is a video",
        b"\xff\x0a" + bytes(20): "it is JPEG XL.*convert",
        b"%PDF-1.7": "it is a PDF",
        b'<?xml version="1.0"?><svg>': "it is SVG",
        b"<!DOCTYPE html><p>": "no image but a web page",
    }
    for start, reason in starts.items():
        (tmp_path / "x.png").write_bytes(start)
        with pytest.raises(BadImage, match=f"x.png cannot be read: .*{reason}"):
            open_image(str(tmp_path), "x.png")


@pytest.mark.fault("memory")
def test_a_png_with_much_text_is_read_and_with_too_much_the_reason_is_named(tmp_path):
    def save(name, size):
        text = PngImagePlugin.PngInfo()
        for n in range(size // 1_500_000):
            text.add_text(f"workflow {n}", "ab" * 750_000, zip=True)
        image(tmp_path / name, pnginfo=text)

    save("much.png", 3_000_000)
    assert open_image(str(tmp_path), "much.png").size == (6, 4)
    save("more.png", 70_000_000)
    with pytest.raises(BadImage, match="the text stored in this PNG is larger than Pillow allows"):
        open_image(str(tmp_path), "more.png")


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("damage", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9), b"Exif\0\0XX", b"Exif\0\0"])
def test_damaged_exif_is_no_stray_warning(tmp_path, recwarn, damage):
    image(tmp_path / "0.jpg", kind="JPEG", exif=damage)
    upright = make_test_transform("vtab", (4, 4), (0,) * 3, (1,) * 3, upright=True)
    assert upright(open_image(str(tmp_path), "0.jpg")).shape == (3, 4, 4)
    assert not recwarn.list


@pytest.mark.fault("memory")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "f.png")
    with pytest.raises(BadImage, match="f.png cannot be read: it is no file but a pipe or device"):
        open_image(str(tmp_path), "f.png")


# Lists


@pytest.fixture
def photos(tmp_path):
    classes(tmp_path / "my img")
    return [(f"my img/{name}/{n}.png", name) for name in COLOURS for n in range(4)]


def numbers(photos):
    return [(path, list(COLOURS).index(name)) for path, name in photos]


HEADERS = {
    "class id,filepaths,labels,data set": lambda n, path, name: (
        f"{n},{path},{name},{('train', 'valid', 'test')[n % 3]}"
    ),
    "label, path": lambda n, path, name: f"{name}, {path}",
    "Image_Name;Category Name": lambda n, path, name: f"{path};{name}",
    'label, "file paths"': lambda n, path, name: f'{name}, "{path}"',
    "image_id,classes": lambda n, path, name: f"{path},{name}",
    "path,label,dataset": lambda n, path, name: f"{path},{name},flickr",
}


@pytest.mark.parametrize("header", HEADERS)
def test_columns_of_many_names(tmp_path, photos, header):
    rows = [HEADERS[header](n, path, name) for n, (path, name) in enumerate(photos)]
    images = listed(tmp_path / "my.csv", "\n".join([header, *rows]))
    assert images.classes == ["blue", "green", "red"] and sorted(everything(images)) == sorted(p for p, _ in photos)
    if "data set" in header:
        assert [len(own) for own in (images.train, images.val, images.test)] == [4, 4, 4]


@pytest.mark.parametrize("line", ["{path} {n}", "{path}   {n}", "{n},{path}", "{n}, {path}"])
def test_lines_without_a_header(tmp_path, photos, line):
    text = "".join(line.format(path=path, n=n) + "\n" for path, n in numbers(photos))
    images = listed(tmp_path / "my.txt", text)
    assert images.classes == ["0", "1", "2"] and len(everything(images)) == 12


def test_labels_of_several_words_after_a_tab(tmp_path, photos):
    names = {"red": "red", "green": "light green", "blue": "blue"}
    images = listed(tmp_path / "my.txt", "".join(f"{path}\t{names[name]}\n" for path, name in photos))
    assert images.classes == ["blue", "light green", "red"]


def test_lists_of_splits_by_any_word_and_with_blanks(tmp_path, photos):
    for name, keep in (("training", range(2)), ("val_list", (2,)), ("Test", (3,))):
        own = [row for n, row in enumerate(numbers(photos)) if n % 4 in keep]
        (tmp_path / f"{name}.txt").write_text("".join(f"{path} {label}\n" for path, label in own))
    images = read(load_card("list"), tmp_path)
    assert [len(own) for own in (images.train, images.val, images.test)] == [6, 3, 3]


def test_a_blank_before_a_path_does_not_lead_out_of_the_folder(tmp_path, photos):
    image(tmp_path.parent / "outside.png")
    (tmp_path / "my.csv").write_text(f"path,label\n {tmp_path.parent}/outside.png,a\n")
    assert "are missing" in refused("list", tmp_path / "my.csv")


@pytest.mark.parametrize("notation", ["csv", "json"])
def test_labels_of_pandas_are_integers(tmp_path, photos, caplog, notation):
    labels = {"red": 10.0, "green": 2.0, "blue": 0.0}
    rows = [{"path": path, "label": labels[name]} for path, name in photos]
    text = "path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows)
    images = listed(tmp_path / f"my.{notation}", json.dumps(rows) if notation == "json" else text)
    assert images.classes == ["0", "2", "10"] and "has no class names, so prompts will say the numbers" in caplog.text


def test_numbers_that_are_names_stay_as_they_are(tmp_path, photos):
    names = {"red": "1.0", "green": "1.5", "blue": "2.0"}
    images = listed(tmp_path / "my.csv", "path,label\n" + "".join(f"{path},{names[name]}\n" for path, name in photos))
    assert images.classes == ["1.0", "1.5", "2.0"]


@pytest.mark.parametrize("ones", ["1", "1.0", "True"])
def test_one_hot_columns(tmp_path, photos, ones):
    zero = {"1": "0", "1.0": "0.0", "True": "False"}[ones]
    rows = [",".join([path, *(ones if own == name else zero for own in COLOURS)]) for path, name in photos]
    images = listed(tmp_path / "my.csv", "\n".join(["filename, red, green, blue", *rows]))
    assert images.classes == ["blue", "green", "red"]
    assert all(path.split("/")[1] == name for path, _, name in images.train)
    as_json = [{"image": path, **{own: int(own == name) for own in COLOURS}} for path, name in photos]
    again = listed(tmp_path / "my.json", json.dumps(as_json))
    assert (again.train, again.test) == (images.train, images.test)


@pytest.mark.parametrize(("cells", "which"), [("1,1,0", "'red' and 'green' are 1"), ("0,0,0", "none is 1")])
def test_one_hot_rows_have_one_class(tmp_path, photos, cells, which):
    (tmp_path / "my.csv").write_text(f"path,red,green,blue\n{photos[0][0]},0,0,1\n{photos[1][0]},{cells}\n")
    sentence = f"my.csv, line 3: an image has one class, but of its columns of classes {which}"
    assert sentence in refused("list", tmp_path / "my.csv")


@pytest.mark.fault("results")
def test_a_path_that_is_twice_in_a_json_object_is_refused(tmp_path, photos):
    path = photos[0][0]
    (tmp_path / "my.json").write_text(f'{{"{path}": "red", "{path}": "blue"}}')
    assert f"lists '{path}' as 'red' and as 'blue'" in refused("list", tmp_path / "my.json")


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(("name", "text"), [("deep.json", "[" * 100_000), ("my.jsonl", "1" * 5000)])
def test_json_that_python_cannot_parse_is_not_json(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert f"{name}" in refused("list", tmp_path / name) and "is not JSON" in refused("list", tmp_path / name)


# Lists of published data sets: what a list refuses, they refuse

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


# classes.txt


@pytest.mark.parametrize("lines", ["{}", "{n} {}", "{n}: {}"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_order_of_classes(tmp_path, lines, first):
    classes(tmp_path)
    order = ["red", "blue", "green"]
    (tmp_path / "classes.txt").write_text(
        "".join(lines.format(name, n=n + first) + "\n" for n, name in enumerate(order))
    )
    images = folder(tmp_path)
    assert images.classes == order and all(path.startswith(f"{order[label]}/") for path, label, _ in images.train)
    rows = "".join(f"{path},{name}\n" for path, _, name in (*images.train, *images.val, *images.test))
    assert listed(tmp_path / "my.csv", f"path,label\n{rows}").classes == order
    (tmp_path / "names.txt").write_text("red,a rose\nblue,a sky\ngreen,a leaf\n")
    assert folder(tmp_path).classes == ["a rose", "a sky", "a leaf"]


def test_the_names_of_numbers(tmp_path, photos):
    (tmp_path / "classes.txt").write_text("rose\nleaf\nsky\n")
    text = "path,label\n" + "".join(f"{path},{n}\n" for path, n in numbers(photos))
    images = listed(tmp_path / "my.csv", text)
    assert images.classes == ["rose", "leaf", "sky"] and {p.split("/")[1] for p, n, _ in images.train if n == 0} == {
        "red"
    }
    for n, name in enumerate(COLOURS):
        shutil.copytree(tmp_path / "my img" / name, tmp_path / f"folders/{n:02d}")
    shutil.copy(tmp_path / "classes.txt", tmp_path / "folders")
    assert folder(tmp_path / "folders").classes == ["rose", "leaf", "sky"]


def test_numbers_before_classes_are_those_of_the_labels(tmp_path, photos):
    (tmp_path / "classes.txt").write_text("1 rose\n2 leaf\n3 sky\n")
    own = [(path, n + 1) for path, n in numbers(photos)]
    images = listed(tmp_path / "my.csv", "path,label\n" + "".join(f"{path},{n}\n" for path, n in own))
    assert images.classes == ["rose", "leaf", "sky"]
    images = listed(tmp_path / "my.csv", "path,label\n" + "".join(f"{path},{n}\n" for path, n in own if n < 3))
    assert images.classes == ["rose", "leaf"]
    (tmp_path / "my.csv").write_text(f"path,label\n{photos[0][0]},0\n{photos[4][0]},1\n")
    assert "no line for the class '0'; it has 3 lines, counted from 1" in refused("list", tmp_path / "my.csv")


def test_mistakes_in_the_order_of_classes(tmp_path, caplog):
    classes(tmp_path)
    (tmp_path / "classes.txt").write_text("red\ngren\nblue\n")
    assert "classes.txt has no line for the class 'green'; did you mean 'gren'?" in refused("folder", tmp_path)
    (tmp_path / "classes.txt").write_text("red\nred\n")
    assert "classes.txt names the class 'red' twice" in refused("folder", tmp_path)
    (tmp_path / "classes.txt").write_text("yellow\nred\ngreen\nblue\n")
    assert folder(tmp_path).classes == ["red", "green", "blue"]
    assert "1 class has no images, such as 'yellow'" in caplog.text


# Shards


def shard(path, members):
    with tarfile.open(path, "w") as opened:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, BytesIO(data))


def png():
    out = BytesIO()
    Image.new("RGB", (5, 4)).save(out, "PNG")
    return out.getvalue()


def test_keys_of_shards_may_have_dots(tmp_path):
    keys = [f"a/red_{n}" for n in range(4)] + [f"red_0.0{n}" for n in range(4)] + [f"v1.2.{n}" for n in range(4)]
    shard(tmp_path / "0.tar", {f"{key}{end}": data for key in keys for end, data in ((".PNG", png()), (".cls", b"0"))})
    images = read(load_card("shards"), tmp_path)
    assert sorted(everything(images)) == sorted(f"0.tar/{key}.png" for key in keys)
    assert images.open("0.tar/v1.2.3.png").size == (5, 4)


def test_compressed_shards_beside_others_are_counted(tmp_path, caplog):
    shard(
        tmp_path / "0.tar", {f"{n}.{end}": png() if end == "png" else b"a" for n in range(4) for end in ("png", "cls")}
    )
    (tmp_path / "1.tar.gz").write_bytes(b"")
    read(load_card("shards"), tmp_path)
    assert "1 compressed shard, which must be unpacked to .tar, such as 1.tar.gz" in caplog.text


def test_members_of_shards_that_are_left_out_are_counted(tmp_path, caplog):
    own = {f"{n}.png": png() for n in range(4)} | {f"{n}.cls": b"0" for n in range(4)}
    more = {
        "0.seg.png": png(),
        "7.v2.png": png(),
        "7.cls": b"1",
        "8.heic": b"x",
        "8.cls": b"1",
        "__MACOSX/._1.png": b"x",
    }
    shard(tmp_path / "0.tar", own | more)
    (tmp_path / "._0.tar").write_bytes(b"x")
    assert len(everything(read(load_card("shards"), tmp_path))) == 4
    assert "2 images of a key that has another image or the label, such as 0.tar/0.seg.png" in caplog.text
    assert "1 .heic file," in caplog.text and "1 hidden file, such as 0.tar/__MACOSX/._1.png" in caplog.text
