"""Own images by list: every notation a user would try is read the same, and every mistake is one sentence."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
COOP = str(ROOT / "configs/coop/embedded.yaml")
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.fixture
def photos(tmp_path):
    """Ten noisy images of each colour, in one folder; (path, class) of each, relative to `tmp_path`."""
    rows = []
    (tmp_path / "photos").mkdir()
    for name, colour in COLOURS.items():
        for n in range(10):
            noise = np.random.default_rng(n).integers(-25, 25, (40 + n, 50, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(tmp_path / f"photos/{name} {n}.png")
            rows.append((f"photos/{name} {n}.png", name))
    return rows


def refused(root, card="list"):
    with pytest.raises(InputError) as caught:
        read(load_card(card), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lists(images):
    return images.train, images.val, images.test


def part(n):
    return ("train", "val", "test")[min(n % 10 // 5 + n % 10 // 8, 2)]


def with_parts(rows):
    return [(path, name, part(n)) for n, (path, name) in enumerate(rows)]


def expected(rows, keep):
    order = sorted(COLOURS)
    return [(path, order.index(name), name) for path, name, own in rows if own == keep]


def table(file, header, rows, delimiter=",", encoding="utf-8"):
    with file.open("w", newline="", encoding=encoding) as out:
        csv.writer(out, delimiter=delimiter).writerows([header, *rows])
    return file


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings(tmp_path, photos, delimiter, encoding):
    rows = with_parts(photos)
    images = read(load_card("list"), table(tmp_path / "my.csv", ["path", "label", "split"], rows, delimiter, encoding))
    assert images.classes == ["blue", "red"] and images.root == str(tmp_path)
    for keep, found in zip(("train", "val", "test"), lists(images), strict=True):
        assert found == expected(rows, keep) and found
    assert np.asarray(images.open(photos[0][0]))[..., 0].mean() > 150


HEADERS = [
    ("path", "label", "split"),
    ("file", "class", "part"),
    ("filename", "class_name", "subset"),
    ("image", "target", "SPLIT"),
    ("File Name", "Class Name", "Split"),
    ("IMAGE-PATH", "Category", "set"),
]


@pytest.mark.parametrize(("path", "label", "split"), HEADERS)
def test_names_of_columns_in_any_order(tmp_path, photos, path, label, split):
    rows = [("x", own, name, place) for place, name, own in with_parts(photos)]
    images = read(load_card("list"), table(tmp_path / "my.csv", ["id", split, label, path], rows))
    assert images.test == expected(with_parts(photos), "test")


def notations(folder, rows):
    """The same list in every notation of JSON, and as a table without a header."""
    objects = [{"path": path, "label": name, "split": own} for path, name, own in rows]
    parts = {keep: [entry for entry in objects if entry["split"] == keep] for keep in ("train", "val", "test")}
    triples = {
        keep: [[e["path"], sorted(COLOURS).index(e["label"]), e["label"]] for e in parts[keep]] for keep in parts
    }
    contents = {
        "objects.json": json.dumps(objects),
        "parts.json": json.dumps({k: [{"file": e["path"], "class": e["label"]} for e in v] for k, v in parts.items()}),
        "triples.json": json.dumps(triples),
        "lines.jsonl": "\n".join(json.dumps(entry) for entry in objects) + "\n\n",
        "bare.txt": "".join(f"{path}\t{name}\t{own}\n" for path, name, own in rows),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
        yield folder / name


def test_every_notation_gives_the_same_lists(tmp_path, photos):
    rows = with_parts(photos)
    found = [lists(read(load_card("list"), file)) for file in notations(tmp_path, rows)]
    assert len(found) == 5
    assert all(own == tuple(expected(rows, keep) for keep in ("train", "val", "test")) for own in found)


def test_a_mapping_of_paths_to_labels(tmp_path, photos):
    (tmp_path / "my.json").write_text(json.dumps(dict(photos)))
    assert read(load_card("list"), tmp_path / "my.json").classes == ["blue", "red"]


def test_without_splits_a_list_is_split_as_the_same_folder_is_whatever_its_order(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for n in range(20):
            Image.new("RGB", (4, 4)).save(tmp_path / f"own/{name}/{n:02d}.png")
    folder = read(load_card("folder"), tmp_path / "own")
    rows = [(path, name) for items in lists(folder) for path, _, name in items]
    for order in (rows, rows[::-1]):
        found = read(load_card("list"), table(tmp_path / "own/my.csv", ["path", "label"], order))
        assert lists(found) == lists(folder)
    assert [len(items) for items in lists(folder)] == [20, 8, 12]


def test_given_parts_are_kept_and_missing_ones_made(tmp_path, photos):
    rows = [(path, name, "test" if n % 10 > 7 else "train") for n, (path, name) in enumerate(photos)]
    images = read(load_card("list"), table(tmp_path / "my.csv", ["path", "label", "split"], rows))
    assert [len(items) for items in lists(images)] == [12, 4, 4] and images.test == expected(rows, "test")
    alone = [(path, name, "testing") for path, name in photos]
    images = read(load_card("list"), table(tmp_path / "my.csv", ["path", "label", "split"], alone))
    assert [len(items) for items in lists(images)] == [0, 0, 20]


def test_integer_labels_go_in_their_order_and_get_names(tmp_path, photos, caplog):
    numbers = {"red": 10, "blue": 9}
    rows = [(path, numbers[name]) for path, name in photos]
    file = table(tmp_path / "my.csv", ["path", "label"], rows)
    assert read(load_card("list"), file).classes == ["9", "10"]
    assert "has no class names" in caplog.text
    (tmp_path / "names.txt").write_text("9,a blue, plain thing\n\n10\tred\n")
    assert read(load_card("list"), file).classes == ["a blue, plain thing", "red"]
    named = table(tmp_path / "my.csv", ["path", "label", "class_name"], [(p, numbers[n], n.upper()) for p, n in photos])
    images = read(load_card("list"), named)
    assert images.classes == ["BLUE", "RED"] and {label for _, label, _ in images.train} == {0, 1}


def test_a_folder_with_one_list_or_one_for_each_part(tmp_path, photos):
    rows = with_parts(photos)
    whole = read(load_card("list"), table(tmp_path / "my.csv", ["path", "label", "split"], rows))
    (tmp_path / "readme.txt").touch()
    assert lists(read(load_card("list"), tmp_path)) == lists(whole)
    (tmp_path / "my.csv").unlink()
    for own in ("train", "validation", "test"):
        kept = [(path, name) for path, name, which in rows if own.startswith(which)]
        table(tmp_path / f"{own}.csv", ["path", "label"], kept)
    assert lists(read(load_card("list"), tmp_path)) == lists(whole)


def test_a_card_of_ones_own_names_the_list_and_the_folder_of_images(tmp_path, photos):
    (tmp_path / "meta").mkdir()
    table(tmp_path / "meta/my.csv", ["path", "label"], [(path.removeprefix("photos/"), name) for path, name in photos])
    text = (ROOT / "datasets/list.yaml").read_text()
    (tmp_path / "own.yaml").write_text(f"{text}\nfile: meta/my.csv\nimages: photos\n")
    images = read(load_card(str(tmp_path / "own.yaml")), tmp_path)
    assert images.classes == ["blue", "red"] and images.root == str(tmp_path / "photos")
    table(tmp_path / "meta/my.csv", ["path", "label"], photos)  # relative to DATASET.ROOT, not to the list's folder
    (tmp_path / "own.yaml").write_text(f"{text}\nfile: meta/my.csv\n")
    assert lists(read(load_card(str(tmp_path / "own.yaml")), tmp_path))[0][0][0].startswith("photos/")


def test_a_repeated_row_is_taken_once(tmp_path, photos, caplog):
    file = table(tmp_path / "my.csv", ["path", "label"], [*photos, photos[0], photos[3]])
    assert sum(map(len, lists(read(load_card("list"), file)))) == 20
    assert "lists 2 images more than once" in caplog.text


A, B = "photos/red 0.png", "photos/red 1.png"
MISTAKES = {
    "no header": ("my.csv", "a,b\nc,d\n", "my.csv needs columns for a path .path, file.* but has 'a', 'b'"),
    "empty": ("my.csv", "", "needs columns for .* but has none"),
    "header only": ("my.csv", "path,label\n", "the list .*my.csv has no rows"),
    "short row": ("my.csv", f"path,label\n{A}\n", "my.csv, line 2: expected at least 2 cells, found 1"),
    "no label": ("my.csv", f"path,label\n{A},\n", "line 2: 'photos/red 0.png' has no label"),
    "no path": ("my.csv", "path,label\n,red\n", "line 2: the path is empty"),
    "open quote": ("my.csv", f'path,label\n"{A},red\n', "my.csv, line 2: unexpected end of data"),
    "split": ("my.csv", f"path,label,split\n{A},red,trian\n", "line 2: unknown split 'trian'; did you mean 'train'"),
    "some splits": (
        "my.csv",
        f"path,label,split\n{A},red,train\n{B},red,\n",
        "line 3: no split, though other images have one",
    ),
    "two labels": ("my.csv", f"path,label\n{A},red\n{A},blue\n", f"lists '{A}' as 'red' and as 'blue'"),
    "two parts": ("my.csv", f"path,label,split\n{A},red,train\n{A},red,test\n", f"'{A}' in train and in test"),
    "two names": ("my.csv", f"path,label,class_name\n{A},0,red\n{B},0,blue\n", "line 3: label 0 is 'red' above"),
    "one name": ("my.csv", f"path,label,class_name\n{A},0,red\n{B},1,red\n", "classes '0' and '1' .* same name 'red'"),
    "gone": ("my.csv", f"path,label\n{A},red\nphotos/no.png,red\n", "1 of the 2 images .* such as '.*photos/no.png'"),
    "case": ("my.csv", "path,label\nPhotos/RED 0.png,red\n", "there is 'photos/red 0.png', in other upper and lower"),
    "latin": ("my.csv", b"path,label\ncaf\xe9.png,red\n", "my.csv is not UTF-8 text: save it as UTF-8"),
    "nul": ("my.csv", f"path,label\n{A},red\na\0.png,red\n", "list .*my.csv has a NUL character"),
    "nul in json": ("my.json", r'[["a\u0000.png", "red"]]', "is not JSON: it has a NUL character"),
    "no json": ("my.json", "{", "my.json is not JSON"),
    "number": ("my.json", "7", "must hold a list of objects, or an object of lists, not int"),
    "entry": ("my.json", "[7]", "my.json, entry 0: expected an object or .path, label., found 7"),
    "no keys": ("my.json", '[{"a": 1}]', "entry 0 needs keys for a path .* but has 'a'"),
    "bool": (
        "my.json",
        f'[{{"path": "{A}", "label": true}}]',
        "entry 0: the label must be a text or an integer, not T",
    ),
    "json split": ("my.json", f'{{"trian": [["{A}", 0]]}}', r"trian\[0\]: unknown split 'trian'"),
    "bad line": ("my.jsonl", f'{{"path": "{A}", "label": 1}}\n{{\n', "my.jsonl, line 2 is not JSON"),
    "suffix": ("my.xlsx", "x", "my.xlsx is no list; a list ends in .csv"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path, photos, mistake):
    name, text, sentence = MISTAKES[mistake]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = refused(tmp_path / name)
    assert re.search(sentence, found), found


def test_where_a_list_may_be(tmp_path, photos):
    assert "DATASET.ROOT is not set" in refused("")
    assert "no.csv does not exist" in refused(tmp_path / "no.csv")
    assert f"{tmp_path} holds no list; set DATASET.ROOT" in refused(tmp_path)
    for name in ("a.csv", "b.json"):
        (tmp_path / name).touch()
    assert "holds 2 lists, of which DATASET.ROOT must name one" in refused(tmp_path)
    assert "is a file, not a folder" in refused(tmp_path / "a.csv", card="folder")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("red\n", "names.txt, line 1: expected `folder,class name`, found 'red'"),
        ("red,\n", "line 1: expected"),
        ("red,a\nred,b\n", "line 2: 'red' is 'a' above and 'b' here"),
        ("red,a\n", "names.txt has no name for the class 'blue': add a line `blue,its name`"),
        ("red,a\nblue,a\n", "the classes 'blue' and 'red' in .* have the same name 'a'"),
        (b"\xff\xfe\xff", "names.txt is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_a_wrong_file_of_names(tmp_path, photos, text, sentence):
    (tmp_path / "names.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(sentence, refused(table(tmp_path / "my.csv", ["path", "label"], photos)))


def test_names_of_folders(tmp_path):
    for folder in ("n01", "n02"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{n}.png")
    (tmp_path / "names.txt").write_text("n02\ttench\nn01,goldfish\nn03,not here\n")
    images = read(load_card("folder"), tmp_path)
    assert images.classes == ["goldfish", "tench"]
    assert all(path.startswith("n01/") for path, label, _ in images.train if label == 0)


@pytest.mark.parametrize("name", ["my.csv", "my.json"])
def test_a_new_user_trains_evaluates_and_predicts(tool, photos, tmp_path, name):
    if name == "my.csv":
        table(tmp_path / name, ["filename", "class"], photos)
    else:
        (tmp_path / name).write_text(json.dumps([{"image": path, "target": own} for path, own in photos]))
    words = ["DATASET.NAME", "list", "DATASET.ROOT", tmp_path / name, "DATASET.SHOTS", "4", "OPTIM.EPOCHS", "30"]
    words += ["METHOD.OPTIONS.CTX_INIT", "a circle on a", "OPTIM.LR", "0.02", "OUTPUT_DIR", tmp_path / "run"]
    status, _, err = tool("train", "--config", COOP, *words)
    assert status == 0, err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["accuracy"] > 80 and result["n"] == 6 and result["classes"] == ["blue", "red"]
    assert tool("eval", "--run", tmp_path / "run")[0] == 0
    again = json.loads((tmp_path / "run/eval-list-all-test.json").read_text())
    assert again["accuracy"] == result["accuracy"] and again["test_hash"] == result["test_hash"]
    status, out, err = tool("predict", "--run", tmp_path / "run", tmp_path / "photos", "--top", "1", "--json")
    guesses = [json.loads(line) for line in out.splitlines()]
    right = [guess["top"][0]["class"] in Path(guess["picture"]).name for guess in guesses]
    assert status == 0 and len(right) == 20 and sum(right) > 16


def test_a_table_of_classes_in_each_folder_of_a_split(tmp_path):
    """Roboflow's export: `_classes.csv` with a column of 0 and 1 for each class beside the images of a split."""
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        lines = ["filename, blue, red"]
        for name, cells in (("red", " 0, 1"), ("blue", " 1, 0")):
            for number in range(count):
                (tmp_path / split).mkdir(exist_ok=True)
                Image.new("RGB", (8, 8), name).save(tmp_path / split / f"{name}{number}.jpg")
                lines.append(f"{name}{number}.jpg,{cells}")
        (tmp_path / split / "_classes.csv").write_text("\n".join(lines))
    images = read(load_card("list"), str(tmp_path))
    assert images.classes == ["blue", "red"]
    assert [len(items) for items in (images.train, images.val, images.test)] == [6, 2, 4]
    assert ("valid/red0.jpg", 1, "red") in images.val and images.open("test/red1.jpg").size == (8, 8)
