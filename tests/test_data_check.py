"""`data check`: whole datasets are fine, and each fault of others is named."""

import json
import shutil
import struct
import zlib

import yaml
from data_root import FACTS, NAMES, image, lists, plant_folder, told


def bomb(path):
    """A PNG of a few bytes that says it has 30000 x 30000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_whole_datasets_are_fine(tool, root, tmp_path):
    status, out, err = tool("data", "check", "--all", "--root", root)
    assert status == 0, out + err
    assert f"not under {root}: absent" in out and "3 of 3 fine" in out
    assert "pets: train 18 images of 3 classes, val 6 images of 3 classes, test 9 images of 3 classes" in out
    assert "WRONG" not in out and "note" not in out
    plant_folder(tmp_path / "own")
    status, out, _ = tool("data", "check", "folder", "--root", tmp_path / "own", "--jobs", "2")
    assert status == 0 and "1 of 1 fine" in out


def test_check_names_ten_planted_faults(tool, root, tmp_path):
    """Ten different faults on a root of four datasets of three layouts: each is named, with its file."""
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
    assert no_class == f"{place} 7: label 7 is out of range, the dataset has 3 classes"
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
