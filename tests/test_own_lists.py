"""Lists of a user's own images, and classes.txt: read as meant, or refused in one sentence; nothing in silence."""

import json
import shutil

import pytest
from own_images import COLOURS, classes, everything, folder, image, listed, refused

from promptvision.data.cards import load_card
from promptvision.data.readers import read


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


@pytest.mark.fault("results")
def test_a_split_that_is_twice_in_a_json_object_is_read_whole(tmp_path, photos):
    first, second = ([path, label] for path, label in ((photos[0][0], "red"), (photos[4][0], "green")))
    (tmp_path / "my.json").write_text(f'{{"train": {json.dumps([first])}, "train": {json.dumps([second])}}}')
    assert sorted(everything(read(load_card("list"), tmp_path))) == [photos[4][0], photos[0][0]]


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(("name", "text"), [("deep.json", "[" * 100_000), ("my.jsonl", "1" * 5000)])
def test_json_that_python_cannot_parse_is_not_json(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert f"{name}" in refused("list", tmp_path / name) and "is not JSON" in refused("list", tmp_path / name)


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
