"""tools/data.py: what it says of whole data sets, and that it names each fault of those that are not."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from promptvision.data.cards import card_names, load_card
from promptvision.data.prepare.findings import misplaced
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash

FACTS = {"title": "A test", "source": "me", "licence": "CC0", "where": "ask me", "template": "a photo of a {}."}
NAMES = ["ant", "bee", "cat"]
SIZES = {"train": 6, "val": 2, "test": 3}
"""Images of each class in each part."""


def image(path, seed=None):
    """Noise that no other image has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def lists():
    return {
        part: [[f"{name}/{part}_{n}.jpg", label, name] for label, name in enumerate(NAMES) for n in range(count)]
        for part, count in SIZES.items()
    }


def plant_split(root, name):
    """A data set in CoOp's layout."""
    split = lists()
    for path, _, _ in (entry for part in split.values() for entry in part):
        image(root / name / "images" / path)
    (root / name / "split.json").write_text(json.dumps(split))


def plant_text(root, name):
    """A data set in the layout of VTAB-1k."""
    for part, entries in lists().items():
        for path, _, _ in entries:
            image(root / name / "images" / path)
        (root / name / f"{part}.txt").write_text("".join(f"images/{path} {label}\n" for path, label, _ in entries))


def plant_folder(root):
    """Your own images in folders."""
    for part, entries in lists().items():
        for path, _, _ in entries:
            image(root / part / path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with three whole data sets, and cards for them and for one that is not there."""
    cards = tmp_path / "cards"
    cards.mkdir()
    counts = {part: 3 * count for part, count in SIZES.items()}
    files = {part: f"{part}.txt" for part in SIZES}
    split = {"reader": "coop_split", "images": "images", "split": "split.json"}
    text = {"reader": "text_lists", "lists": files, "names": NAMES, "protocols": ["vtab"]}
    for name, own in {"pets": split, "moths": split, "vtab_text": text, "absent": split}.items():
        facts = {**FACTS, **own, "classes": 3, "counts": counts, "folders": [name, name.upper()]}
        (cards / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    (cards / "folder.yaml").write_text(yaml.safe_dump({**FACTS, "reader": "folder"}))
    monkeypatch.setattr("promptvision.data.cards.card_folder", lambda: cards)
    top = tmp_path / "data"
    plant_split(top, "pets")
    plant_split(top, "moths")
    plant_text(top, "vtab_text")
    return top


def bomb(path):
    """A PNG of a few bytes that says it has 30000 x 30000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def told(out):
    """{data set: {finding: its cases}} of a report, and which findings are faults."""
    found, faults, name, what = {}, {}, "", ""
    for line in out.splitlines():
        if line.startswith("    "):
            found[name][what].append(line.strip())
        elif line.startswith("  ") and ": " in line:
            kind, _, rest = line.strip().partition(": ")
            what = rest.rpartition(" (")[0]
            found[name][what] = []
            if kind == "WRONG":
                faults.setdefault(name, set()).add(what)
        elif line and not line.startswith(" "):
            name = line.partition(":")[0]
            found.setdefault(name, {})
    return found, faults


# check


def test_whole_data_sets_are_fine(tool, root, tmp_path):
    status, out, err = tool("data", "check", "--all", "--root", root)
    assert status == 0, out + err
    assert f"not under {root}: absent" in out and "3 of 3 fine" in out
    assert "pets: train 18 images of 3 classes, val 6 images of 3 classes, test 9 images of 3 classes" in out
    assert "WRONG" not in out and "note" not in out
    plant_folder(tmp_path / "own")
    status, out, _ = tool("data", "check", "folder", "--root", tmp_path / "own", "--jobs", "2")
    assert status == 0 and "1 of 1 fine" in out


def test_check_names_ten_planted_faults(tool, root, tmp_path):
    """Ten different faults on a root of four data sets of three layouts: each is named, with its file."""
    pets, moths, text = root / "pets/images", root / "moths", root / "vtab_text"
    split = lists()
    (moths / "split.json").rename(moths / "split_of_another_name.json")  # 1: a split file is missing
    (pets / "ant/train_0.jpg").unlink()  # 2: an image is missing
    (pets / "ant/train_1.jpg").write_bytes(b"")  # 3: a file without a byte
    (pets / "bee/train_0.jpg").write_bytes((pets / "bee/train_0.jpg").read_bytes()[:-100])  # 4: cut short
    (pets / "bee/train_1.jpg").write_text("<html>404 Not Found</html>")  # 5: text by the name of an image
    split["val"][0] = ["ant/val_0.jpg", 2, "cat"]  # 6: a wrong label, which its folder gives away
    split["val"][1] = ["ant/val_1.jpg", 0, "aunt"]  # 7: a label of two names
    shutil.copy(pets / "cat/train_3.jpg", pets / "cat/test_0.jpg")  # 8: a training image in test
    split["test"][1] = ["../../secret.jpg", 0, "ant"]  # 9: a path that leaves the root
    bomb(pets / "cat/val_1.jpg")  # 10: a decompression bomb
    (root / "pets/split.json").write_text(json.dumps(split))
    (text / "train.txt").write_text("\n".join((text / "train.txt").read_text().split("\n")[3:]))  # 11: too few
    (text / "images/bee/test_2.jpg").unlink()
    (text / "images/bee/test_2.jpg").symlink_to("test_2.jpg")  # 12: a link to itself
    (text / "val.txt").write_text((text / "val.txt").read_text() + "images/ant/val_0.jpg 7\nimages/cat/val_0.jpg cat\n")

    status, out, err = tool("data", "check", "--all", "--root", root)
    assert status == 1 and "Traceback" not in err
    found, faults = told(out)
    assert "0 of 3 fine, not: moths; pets; vtab_text" in out

    (sentence,) = found["moths"]["cannot be used as it is"]
    assert f"the split file {moths / 'split.json'} is missing" in sentence
    pet = found["pets"]
    assert pet["listed, but missing"] == ["ant/train_0.jpg: no such file"]
    assert pet["empty files (0 bytes)"] == ["ant/train_1.jpg"]
    torn, html, large = sorted(pet["images that cannot be read"])
    assert "bee/train_0.jpg" in torn and "bee/train_1.jpg" in html
    assert "cat/val_1.jpg" in large and "900000000 pixels" in large
    assert pet["listed under another class than the rest of its folder"] == [
        "ant/val_0.jpg (val) is listed as 'cat', the other images of folder 'ant' as 'ant'"
    ]
    assert pet["wrong labels"] == ["ant/val_1.jpg (val): label 0 is 'ant' elsewhere, here 'aunt'"]
    assert pet["the same image in two splits or classes"] == [
        "cat/train_3.jpg (train, 'cat') = cat/test_0.jpg (test, 'cat')"
    ]
    file = root / "pets/split.json"
    outside, two_names, gone = pet["cannot be used as it is"]
    assert outside.startswith(f"split file {file}, test[1]: the path '../../secret.jpg' is outside the folder {pets}")
    assert two_names == f"{file}: label 0 is 'ant' and, at ant/val_1.jpg, 'aunt'"
    assert f"1 of the 32 images that {file} lists are missing, such as '{pets / 'ant/train_0.jpg'}'" in gone
    assert pet["counts differ from the card's"] == ["test has 8 images, the card says 9"]
    assert pet["images that are not listed"] == ["ant/test_1.jpg"]
    listed = found["vtab_text"]
    assert listed["listed, but missing"] == ["images/bee/test_2.jpg: Too many levels of symbolic links"]
    assert "train has 15 images, the card says 18" in listed["counts differ from the card's"]
    no_class, no_label, gone = listed["cannot be used as it is"]
    place = f"val list {text / 'val.txt'}, entry"
    assert no_class == f"{place} 7: label 7 is out of range, the data set has 3 classes"
    assert no_label == f"{place} 8: expected a path and a label, found 'images/cat/val_0.jpg cat'"
    assert f"such as '{text / 'images/bee/test_2.jpg'}'" in gone
    assert "images that are not listed" not in faults["pets"] | faults["vtab_text"]


def test_check_names_what_is_wrong_with_own_folders(tool, tmp_path):
    plant_folder(tmp_path)
    (tmp_path / "train/dodo").mkdir()
    shutil.copytree(tmp_path / "train/bee", tmp_path / "train/Bee")
    (tmp_path / "train/ant/one.png").write_bytes(b"")
    shutil.copy(tmp_path / "train/cat/train_0.jpg", tmp_path / "train/cat/copy.jpg")
    status, out, _ = tool("data", "check", "folder", "--root", tmp_path, "--limit", "2")
    assert status == 1
    (found,), (faults,) = (list(each.values()) for each in told(out.rpartition("0 of 1")[0]))
    (dodo,) = found["cannot be used as it is"]
    assert f"the class folder 'dodo' under {tmp_path} holds no images" in dodo
    assert found["class names"] == ["class names 'Bee' and 'bee' differ by case, spaces or _ only"]
    assert found["empty files (0 bytes)"] == ["train/ant/one.png"]
    assert found["the same image in two splits or classes"][2] == "and 4 more (--limit 0 prints all)"
    assert found["the same image twice in a split"] == [
        "train/cat/copy.jpg (train, 'cat') = train/cat/train_0.jpg (train, 'cat')"
    ]
    assert "the same image twice in a split" not in faults and "empty folders" in faults


def test_check_reads_on_after_a_faulty_entry_of_a_json_list_or_a_table(tool, tmp_path):
    facts = {**FACTS, "reader": "json_lists", "folders": ["birds"], "names": NAMES}
    (tmp_path / "birds.yaml").write_text(yaml.safe_dump(facts))
    for part, entries in lists().items():
        for path, _, _ in entries:
            image(tmp_path / "birds" / path)
        ids = {path: label for path, label, _ in entries}
        (tmp_path / f"birds/{part}.json").write_text(json.dumps({**ids, "ant/x.jpg": "1", "../x.jpg": 1}))
    (tmp_path / "birds/val.json").unlink()
    status, out, _ = tool("data", "check", tmp_path / "birds.yaml", "--root", tmp_path)
    refused = told(out)[0]["birds"]["cannot be used as it is"]
    assert status == 1 and "train 18 images of 3 classes, test 9 images of 3 classes" in out
    assert len(refused) == 5 and f"the list {tmp_path / 'birds/val.json'} is missing" in " ".join(refused)
    assert sum("'ant/x.jpg': the class id must be an integer" in case for case in refused) == 2

    rows = "".join(f"{path},{name},{part}\n" for part, own in lists().items() for path, _, name in own)
    (tmp_path / "birds/my.csv").write_text(f"path,label,split\n{rows}ant/test_0.jpg,ant,tset\nno.jpg,ant,test\n")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({**FACTS, "reader": "list"}))
    status, out, _ = tool("data", "check", tmp_path / "list.yaml", "--root", tmp_path / "birds/my.csv")
    found = told(out)[0]["list"]
    unknown, gone = found["cannot be used as it is"]
    assert "line 35: unknown split 'tset'; did you mean 'test'" in unknown and "1 of the 34 images" in gone
    assert found["listed, but missing"] == ["no.jpg: no such file"]


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
        ([], "name the data sets to check, or pass --all"),
        (["pets", "--all"], "name the data sets to check, or pass --all"),
        (["pet"], "unknown data set 'pet'; did you mean 'pets'"),
        (["pets", "--jobs", "0"], "argument --jobs: '0' is no whole number from 1 on"),
        (["--all", "--root", "nowhere"], "none of the 4 data sets of the cards is under nowhere"),
    ],
)
def test_wrong_use_of_check(tool, root, words, sentence):
    status, _, err = tool("data", "check", *words)
    assert status == 2 and err.startswith("error: ") and sentence in err


# list and show


def test_list_has_a_row_for_every_card(tool, root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = tool("data", "list", "--root", root)
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells]
        for line in out.splitlines()
        if (cells := line.strip("│").split("│"))[1:]
    }
    assert status == 0 and set(card_names()) <= set(rows)
    assert rows["vtab_text"] == ["vtab_text", "A test", "vtab", "3", "here"]
    assert rows["absent"][-1] == "no" and rows["folder"][-1] == "own images"


def test_list_of_the_real_cards(tool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = tool("data", "list", "--root", "nowhere")
    assert status == 0 and all(name in out for name in card_names())
    (world,) = (line for line in out.splitlines() if "world_shapes " in line)
    assert "built in" in world


def test_list_is_readable_in_80_columns(tool, monkeypatch):
    """Every data set has one line, with its whole name, classes, and whether it is here."""
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = tool("data", "list", "--root", "nowhere")
    lines = out.splitlines()
    assert status == 0 and all(len(line) <= 80 for line in lines)
    for name in card_names():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.rstrip().endswith((" no", " built in", " here", " own images")), line
    assert any(line.split()[0] == "imagenet" and " 1,000 " in line for line in lines if line.split())


def test_show_has_the_facts_and_draws_a_sheet(tool, root, tmp_path):
    sheets = [tmp_path / f"sheets/{n}.png" for n in range(2)]
    for sheet in sheets:
        status, out, err = tool("data", "show", "pets", "--root", root, "--output", sheet, "--images", "2")
        assert status == 0, err
    assert all(fact in out for fact in ("pets: A test", "CC0", "a photo of a {}.", "coop_split", "here"))
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    wide = Image.open(sheets[0]).size
    assert tool("data", "show", "pets", "--root", root, "--output", sheets[1], "--classes", "1")[0] == 0
    assert Image.open(sheets[1]).size[0] < wide[0]


def test_show_works_without_data_and_says_why_there_is_no_sheet(tool, root, tmp_path):
    status, out, _ = tool("data", "show", "absent", "--root", root)
    assert status == 0 and "ask me" in out
    status, _, err = tool("data", "show", "absent", "--root", root, "--output", tmp_path / "sheet.png")
    assert status == 2 and f"the data root {root} has no folder absent" in err
    assert tool("data", "show", "pets", "--root", root, "--output", tmp_path, "--classes", "0")[0] == 2
    status, _, err = tool("data", "show", "pets", "--root", root, "--output", tmp_path)
    assert status == 2 and f"error: {tmp_path} cannot be written" in err


# split


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
    assert status == 2 and "data set 'vtab_text' has no split file to make: its reader is text_lists" in err
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


# cache


def test_cache_decodes_every_image(tool, root, tmp_path):
    status, out, err = tool("data", "cache", "pets", "--root", root, "--output", tmp_path / "cache", "--size", "8")
    assert status == 0, err
    assert "33 images of pets, shorter side 8, bicubic" in out
    status, _, err = tool("data", "cache", "pets", "--root", root, "--output", tmp_path / "cache")
    assert status == 2 and "holds images shorter side 8, bicubic, not whole" in err


def test_images_in_memory_need_no_cache(tool, tmp_path):
    status, _, err = tool("data", "cache", "digits", "--output", tmp_path)
    assert status == 2 and "in memory already" in err


# all of them


def test_help_explains_itself(tool):
    commands = ("list", "show", "check", "download", "prepare", "split", "cache")
    status, out, _ = tool("data", "--help")
    assert status == 0 and all(f"data.py {name}" in out or name in out for name in commands)
    for name in commands:
        status, out, _ = tool("data", name, "--help")
        assert status == 0 and "--root" in out
