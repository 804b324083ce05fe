"""Inputs of `predict`: folders, lists, shards, and as many of them as there are."""

import io
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from own_images import image, noise_folders
from test_shards import cls, png, samples, shard

from promptvision.data.readers.search import LeftOut, search
from promptvision.errors import InputError, briefly
from promptvision.experiment.predict import Readable, read_batches
from promptvision.experiment.prediction import inputs
from promptvision.experiment.prediction.inputs import ImageList, find_images, open_entry, shown_entry

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return noise_folders(tmp_path_factory.mktemp("photos"))


def entries(*names, lists=()):
    return [entry for entry, _, _ in find_images([str(name) for name in names], [str(name) for name in lists])]


def test_a_folder_is_searched_in_the_order_of_its_paths(tmp_path):
    for name in ("a/1.png", "a-b/1.png", "a.png", "a/b/2.png", "ab.png", "b/1.png", "a b/1.png"):
        image(tmp_path / name)
    found = [path.as_posix() for path in search(tmp_path, LeftOut())]
    assert len(found) == 7 and found == sorted(found) == entries(tmp_path)


def test_names_of_several_images_give_each_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert entries("a", "a/000.png", "[ab]/06*.png", "b/060.png") == [
        *(f"a/{n:03d}.png" for n in range(60)),
        *(f"b/{n:03d}.png" for n in range(60, 70)),
    ]
    assert entries("a/000.png", photos / "a/000.png", "b/../a/000.png") == ["a/000.png"]
    with pytest.raises(InputError, match="no image at c$"):
        find_images(["a", "c"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "\na/000.png\n  b/060.png\n"),
        ("list.csv", "label,image_path\nx,a/000.png\n\ny,b/060.png\n"),
        ("list.csv", "a/000.png,x\nb/060.png,y\n"),
        ("list.tsv", "path\na/000.png\nb/060.png\n"),
        ("list.csv", "label;path\nx;a/000.png\ny;b/060.png\n"),
        ("list.csv", "label\tpath\nx\ta/000.png\ny\tb/060.png\n"),
    ],
)
def test_lists_of_paths(photos, tmp_path, monkeypatch, name, text):
    wanted = [str(photos / "a/000.png"), str(photos / "b/060.png")]
    (photos / name).write_text(text)
    assert entries(lists=[photos / name]) == wanted
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(photos)  # where the paths of a list elsewhere are found
    assert entries(lists=[tmp_path / name]) == ["a/000.png", "b/060.png"]
    (photos / name).unlink()


def test_lists_keep_line_breaks_that_are_part_of_a_name(tmp_path):
    (tmp_path / "list.csv").write_bytes(b'path,label\n"a\r\nb.png",x\n')
    (tmp_path / "list.txt").write_bytes("a\u2028b.png\r\nc\x0bd.png\n".encode())
    assert entries(lists=[tmp_path / "list.csv"]) == ["a\r\nb.png"]
    assert entries(lists=[tmp_path / "list.txt"]) == ["a\u2028b.png", "c\x0bd.png"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("list.csv", "label,size\nx,3\n", "needs a column of paths, such as path; its first line is 'label,size'"),
        ("list.csv", "path,label\na.png,x\n,y\n", "list.csv, line 3: no path in ',y'"),
        ("list.txt", "\n", "list.txt names no image"),
        ("list.md", "a.png", "is no list; a list ends in .txt, .csv, .tsv"),
        ("list.csv", 'path\n"' + "a" * 2_000_000, "list.csv, line 2: field larger than field limit"),
    ],
)
def test_a_wrong_list_is_one_sentence(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_images([], [str(tmp_path / name)])


def test_shards_are_read_in_place_with_and_without_labels(tmp_path):
    shard(tmp_path / "x/0.tar", samples(0, 3, cls))
    shard(tmp_path / "x/1.tar", {"7.png": png(7), "7.seg.png": png(9), ".hidden.png": png(1), "8.PNG": png(8)})
    image(tmp_path / "x/loose.png")
    found = entries(tmp_path / "x")
    top = tmp_path / "x"
    assert [shown_entry(each) for each in found] == [
        *(f"{top}/0.tar/00000{n}.png" for n in range(3)),
        *(f"{top}/1.tar/{n}.png" for n in (7, 8)),
        f"{top}/loose.png",
    ]
    assert [open_entry(each).getpixel((0, 0))[0] for each in found] == [0, 1, 2, 7, 8, 1]
    assert [entry for entry, _, _ in find_images([str(top)], inside=False)] == [
        f"{top}/0.tar",
        f"{top}/1.tar",
        f"{top}/loose.png",
    ]


def test_what_a_shard_leaves_out_is_told_with_the_reason(tmp_path, caplog):
    with tarfile.open(tmp_path / "0.tar", "w") as opened:
        for name, number in (("a.png", 1), ("a.png", 2), ("../up.png", 3), ("b.jpg", 4), ("b.png", 5)):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            opened.addfile(info, io.BytesIO(png(number)))
    found = entries(tmp_path / "0.tar")
    assert [open_entry(each).getpixel((0, 0))[0] for each in found][0] == 2 and len(found) == 2
    assert "1 file, as the shard has a later one of its name, such as" in caplog.text
    assert "1 file whose name leads out of the shard, such as" in caplog.text and "up.png" in caplog.text
    assert "1 image of a key that has another image" in caplog.text


def test_a_damaged_shard_is_one_sentence_and_stops_no_other(tmp_path):
    shard(tmp_path / "good.tar", samples(0, 2, cls))
    (tmp_path / "torn.tar").write_bytes((tmp_path / "good.tar").read_bytes()[:-9000])
    shard(tmp_path / "void.tar", {"a.txt": "3"})
    good = [shown_entry(each) for each in entries(tmp_path)][:2]
    torn, void = entries(tmp_path)[2:]
    assert all("good.tar/" in each for each in good)
    with pytest.raises(InputError, match="torn.tar cannot be read: it is no tar file, broken or cut short"):
        open_entry(torn)
    with pytest.raises(InputError, match="void.tar holds no image"):
        open_entry(void)


def test_parts_are_shards_and_blocks_of_other_images(monkeypatch):
    monkeypatch.setattr(inputs, "PART", 2)
    images = ImageList(["a", "b", "c", "1.tar", "2.TAR", "d", "e", "f", "3.tar"])
    assert [list(part) for part in images.parts()] == [[0, 1], [2], [3], [4], [5, 6], [7], [8]]
    assert ImageList(["a"]).parts() == [range(1)] and ImageList(["a", "b", "c"]).parts()[1] == range(2, 3)


def test_names_in_any_encoding_are_held_as_they_are():
    names = ["a.png", "犬/é.png", os.fsdecode(b"caf\xe9.png"), ""]
    assert [entry for entry, _, _ in ImageList(names)] == names
    assert ImageList(names).fingerprint() != ImageList(["a", ".png", *names[1:]]).fingerprint()


def test_briefly_takes_a_generator():
    assert briefly(f"{n}" for n in range(3)) == ["0", "1", "2"]
    assert briefly(f"{n}" for n in range(1025))[18:] == ["18", "19", "and 1,005 more"]


def test_no_more_processes_than_batches(monkeypatch):
    counts, workers = [], Readable.workers
    monkeypatch.setattr(Readable, "workers", lambda views, count: counts.append(count) or workers(views, 0))
    (batch,) = read_batches(ImageList(["missing.png"]), None, 8, [range(1)], workers=100)
    assert batch.pixels is None
    assert counts == [1]


@pytest.mark.fault("memory")
def test_a_list_of_images_takes_their_names_and_eight_bytes_each():
    names = [f"images/{n // 1000:04d}/{n:08d}.png" for n in range(100_000)]
    images = ImageList(names)
    assert sys.getsizeof(images.text) + sys.getsizeof(images.ends) < 1.2 * (sum(map(len, names)) + 8 * len(names))
    assert images[99_999] == (names[-1], 99_999, "") and images[500].__class__ is tuple


@pytest.mark.slow
@pytest.mark.fault("memory")
def test_ten_times_as_many_images_take_no_more_memory(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/bench")
    import bench_predict

    few, many = bench_predict.rows(SimpleNamespace(images=[1_000, 10_000], format="parquet"))
    assert float(many[2].removesuffix("x")) < 1.05, many
