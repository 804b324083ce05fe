"""Names and paths that go wrong elsewhere: each is right here, or one clear sentence."""

import csv
import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")


def read_list(folder, rows):
    with (folder / "my.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("path", "label", "split"), *((path, label, "test") for path, label in rows)])
    return read(load_card("list"), folder / "my.csv")


def refused(folder, *paths):
    with pytest.raises(InputError) as caught:
        read_list(folder, [(path, "a") for path in paths])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_folder(root):
    images = read(load_card("folder"), root)
    return images, sorted(path for items in (images.train, images.val, images.test) for path, _, _ in items)


# Lists


@pytest.mark.fault("code")
@pytest.mark.parametrize("path", ["../b.png", "a/../../b.png", "..\\b.png", "a\\..\\..\\b.png", ".."])
def test_a_path_outside_the_folder_is_refused(tmp_path, path):
    save(tmp_path / "b.png")
    (tmp_path / "own").mkdir()
    assert re.search(
        r"my.csv, line 2: the path '.*' is outside the folder .*own; write paths relative to it$",
        refused(tmp_path / "own", path),
    )


@pytest.mark.fault("code")
@pytest.mark.parametrize("path", ["C:\\data\\b.png", "c:/data/b.png", "\\\\server\\share\\b.png", "\\b.png", "C:b.png"])
def test_an_absolute_path_of_windows_is_refused(tmp_path, path):
    assert f"line 2: the path {path!r} is outside the folder {tmp_path}" in refused(tmp_path, path)


@pytest.mark.fault("code")
def test_an_absolute_path_is_taken_below_the_list_and_refused_elsewhere(tmp_path):
    save(tmp_path / "own/a/1.png")
    save(tmp_path / "b.png")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for given in (tmp_path / "own/a/1.png", tmp_path / "own/x/../a/1.png", tmp_path / "link/a/1.png"):
        assert read_list(tmp_path / "own", [(given, "a")]).test == [("a/1.png", 0, "a")]
    said = refused(tmp_path / "own", tmp_path / "b.png")
    assert f"the path '{tmp_path / 'b.png'}' is outside the folder {tmp_path / 'own'}" in said
    assert "is outside the folder" in refused(tmp_path / "own", tmp_path / "own")


def test_spellings_of_a_path_inside(tmp_path):
    save(tmp_path / "a/1.png")
    for given in ("./a/1.png", "a//1.png", "a/./1.png", "a/x/../1.png", "a\\1.png", ".\\a\\1.png"):
        assert read_list(tmp_path, [(given, "a")]).test == [("a/1.png", 0, "a")], given


@pytest.mark.fault("text")
@pytest.mark.parametrize(
    "name",
    ["with space.png", " lead.png", "trail .png", "it's.png", 'say "x".png', "a,b;c|d.png", "new\nline.png"]
    + ["tab\t.png", "#1.png", "100%.png", "back\\slash.png", "日本 語.png", "🙂.png", "$HOME.png", "-x.png", "a:b.png"],
)
def test_strange_names_of_files(tmp_path, name):
    save(tmp_path / "a" / name)
    images = read_list(tmp_path, [(f"a/{name}", "a")])
    assert images.test == [(f"a/{name}", 0, "a")] and images.open(f"a/{name}").size == (4, 4)
    assert read_folder(tmp_path)[1] == [f"a/{name}"]
    (tmp_path / "a" / name).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        images.open(f"a/{name}")
    assert "\n" not in str(caught.value)
    (tmp_path / "a" / name).unlink()
    assert "1 of the 1 image " in refused(tmp_path, f"a/{name}")


@pytest.mark.parametrize(("listed", "stored"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_unicode_forms_of_a_list_and_the_disk_may_differ(tmp_path, listed, stored):
    save(tmp_path / stored / f"{stored}.png")
    images = read_list(tmp_path, [(f"{listed}/{listed}.png", listed)])
    ((path, _, name),) = images.test
    assert name == NFC and images.open(path).size == (4, 4)


def test_both_forms_on_one_disk_are_two_files(tmp_path):
    save(tmp_path / f"{NFC}.png")
    save(tmp_path / f"{NFD}.png")
    if len(os.listdir(tmp_path)) == 2:  # else the file system takes them for one
        found = read_list(tmp_path, [(f"{NFC}.png", "a"), (f"{NFD}.png", "a")]).test
        assert [path for path, _, _ in found] == [f"{NFC}.png", f"{NFD}.png"]


def test_a_list_may_name_files_through_links(tmp_path):
    save(tmp_path / "elsewhere/1.png")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a").symlink_to(tmp_path / "elsewhere")
    assert read_list(tmp_path / "own", [("a/1.png", "a")]).test == [("a/1.png", 0, "a")]


@pytest.mark.fault("text")
def test_a_path_that_no_system_can_hold(tmp_path):
    (tmp_path / "my.json").write_text(json.dumps([{"path": "a\0b.png", "label": "a"}]))
    with pytest.raises(InputError, match="my.json is not JSON: it has a NUL character"):
        read(load_card("list"), tmp_path / "my.json")


# Folders


def test_links_in_class_folders_are_followed_and_loops_end(tmp_path):
    save(tmp_path / "elsewhere/far/2.png")
    save(tmp_path / "own/a/1.png")
    (tmp_path / "own/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/a/again").symlink_to(tmp_path / "elsewhere/far")
    (tmp_path / "own/a/up").symlink_to(tmp_path / "own/a")
    (tmp_path / "elsewhere/far/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/a/gone.png").symlink_to(tmp_path / "nothing.png")
    images, found = read_folder(tmp_path / "own")
    assert images.classes == ["a", "b"]
    assert found == ["a/1.png", "a/again/2.png", "a/gone.png", "b/far/2.png"]
    with pytest.raises(InputError, match="a/gone.png cannot be read: No such file"):
        images.open("a/gone.png")


def test_names_of_classes_come_in_one_form(tmp_path):
    for n in range(3):
        save(tmp_path / "train" / NFD / f"{n}.png")
        save(tmp_path / "test" / NFC / f"{n}.png")
    images, found = read_folder(tmp_path)
    assert images.classes == [NFC] and len(found) == 6
    assert len(images.test) == 3 and images.open(images.train[0][0]).size == (4, 4)


def test_classes_that_differ_in_case_only_are_told(tmp_path, caplog):
    for name in ("Cat", "cat"):
        for n in range(3):
            save(tmp_path / name / f"{n}.png")
    if len(os.listdir(tmp_path)) == 2:
        assert read_folder(tmp_path)[0].classes == ["Cat", "cat"]
        assert "the classes 'Cat' and 'cat' differ in case only" in caplog.text


@pytest.mark.fault("text")
def test_a_file_name_that_is_not_utf8_is_read(tool, tmp_path):
    for name in ("a", "b"):
        for n in range(10):
            save(tmp_path / "own" / name / f"{n}.png")
            strange = os.fsencode(tmp_path / "own" / name) + b"/caf\xe9 %d.png" % n
            os.rename(tmp_path / "own" / name / f"{n}.png", strange)
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "own", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]
    config = ROOT / "configs/coop/embedded.yaml"
    status, _, err = tool("train", "--config", config, *words, "OUTPUT_DIR", tmp_path / "run")
    assert status == 0, err
    assert json.loads((tmp_path / "run/result.json").read_text())["n"] == 6
    os.truncate(strange, 0)
    with pytest.raises(InputError, match=r"udce9 9.png' cannot be read: it is no image, the file is empty"):
        read(load_card("folder"), tmp_path / "own").open(os.fsdecode(strange))


@pytest.mark.fault("text")
def test_a_class_folder_that_is_not_utf8_is_named(tmp_path):
    save(tmp_path / "own/a/1.png")
    os.rename(tmp_path / "own/a", os.fsencode(tmp_path / "own") + b"/caf\xe9")
    with pytest.raises(InputError, match=r"the class 'caf.udce9' in .*own is not named in UTF-8: rename it"):
        read_folder(tmp_path / "own")
