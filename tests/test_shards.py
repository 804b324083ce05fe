"""Own images in webdataset shards: read where they lie, any notation of labels, one sentence for a mistake."""

import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptvision.data.cards import load_card
from promptvision.data.decode import BadImage
from promptvision.data.readers import read
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]


def png(number):
    out = io.BytesIO()
    Image.new("RGB", (5, 4), (number, 2 * number, 3)).save(out, "PNG")
    return out.getvalue()


def shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as opened:
        for name, data in members.items():
            data = data if isinstance(data, bytes) else str(data).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))


def samples(start, count, label):
    """`count` images from number `start` on, with what `label` gives for each."""
    numbers = range(start, start + count)
    return {name: data for n in numbers for name, data in ((f"{n:06d}.png", png(n)), label(n))}


def cls(n):
    return f"{n:06d}.cls", n % 3


def refused(root):
    with pytest.raises(InputError) as caught:
        read(load_card("shards"), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(items):
    return [int(Path(path).stem) for path, _, _ in items]


@pytest.mark.parametrize("layout", ["folders", "names"])
def test_shards_of_two_parts(tmp_path, layout):
    places = {
        "folders": ("train/000000.tar", "train/000001.tar", "test/0.tar"),
        "names": ("my-train-000000.tar", "my-train-000001.tar", "my-test-000000.tar"),
    }[layout]
    for number, place in enumerate(places):
        shard(tmp_path / place, samples(30 * number, 30, cls))
    (tmp_path / "classnames.txt").write_text("cat\nsmall dog\nbird\n")
    images = read(load_card("shards"), tmp_path)
    assert images.classes == ["cat", "small dog", "bird"]
    assert numbers(images.test) == list(range(60, 90)) and len(images.val) == 12
    assert sorted(numbers(images.train + images.val)) == list(range(60))
    for path, label, name in images.train + images.test:
        number = int(Path(path).stem)
        assert label == number % 3 and name == images.classes[label]
        assert images.open(path).getpixel((2, 2)) == (number, 2 * number, 3)
    assert pickle.loads(pickle.dumps(images)).open(path).size == (5, 4)
    assert images.test[0][0] == f"{places[2]}/000060.png"


def test_every_notation_of_a_label_is_the_same(tmp_path):
    names = ("ant", "bee", "fly")
    notations = {
        "cls": cls,
        "names": lambda n: (f"{n:06d}.txt", names[n % 3]),
        "number": lambda n: (f"{n:06d}.json", n % 3),
        "object": lambda n: (f"{n:06d}.json", json.dumps({"label": n % 3, "class_name": names[n % 3], "width": 5})),
    }
    found = []
    for name, label in notations.items():
        shard(tmp_path / name / "0.tar", samples(0, 30, label))
        if name in ("cls", "number"):
            (tmp_path / name / "names.txt").write_text("0,ant\n1,bee\n2,fly\n")
        images = read(load_card("shards"), tmp_path / name)
        found.append((images.train, images.val, images.test))
    assert [len(items) for items in found[0]] == [15, 6, 9] and {item[2] for item in found[0][0]} == set(names)
    assert all(own == found[0] for own in found)


def test_keys_with_folders_and_other_members(tmp_path):
    members = {"a/1.v2.png": png(1), "a/1.cls": 0, "a/2.jpg": png(2), "a/2.cls": 1, "a/2.seg.png": png(9), "a/3.cls": 1}
    shard(tmp_path / "test.tar", members)
    assert [path for path, _, _ in read(load_card("shards"), tmp_path).test] == ["test.tar/a/2.jpg"]


def test_the_fingerprint_follows_the_shard_that_holds_a_image(tmp_path):
    for number in (0, 1):
        shard(tmp_path / f"test-{number}.tar", samples(5 * number, 5, cls))
    images = read(load_card("shards"), tmp_path)
    first, second = images.test[:5], images.test[5:]
    before = images.fingerprint(first), images.fingerprint(second)
    shard(tmp_path / "test-1.tar", samples(5, 5, lambda n: (f"{n:06d}.cls", 7)))
    assert (images.fingerprint(first) == before[0], images.fingerprint(second) == before[1]) == (True, False)


def test_a_broken_image_in_a_shard_is_named(tmp_path):
    shard(tmp_path / "test.tar", {"1.png": png(1)[:40], "1.cls": 0, "2.png": png(2), "2.cls": 1})
    images = read(load_card("shards"), tmp_path)
    with pytest.raises(BadImage, match="test.tar/1.png cannot be read: it is no image, broken or cut short"):
        images.open("test.tar/1.png")
    (tmp_path / "test.tar").unlink()
    with pytest.raises(BadImage, match="test.tar/2.png cannot be read: No such file"):
        images.open("test.tar/2.png")


MISTAKES = {
    "no label": ({"1.png": png(1)}, "0.tar, 1: the image has no label, which is a file 1.cls, .txt or .json"),
    "no json": ({"1.png": png(1), "1.json": "{"}, "0.tar, 1.json is not JSON"),
    "no text": ({"1.png": png(1), "1.cls": b"\xff\xfe\xff"}, "0.tar, 1.cls is not UTF-8 text"),
    "empty": ({"1.png": png(1), "1.cls": ""}, "'0.tar/1.png' has no label"),
    "list": ({"1.png": png(1), "1.json": "[1, 2]"}, "the label must be a text or an integer, not .1, 2."),
    "no key": (
        {"1.png": png(1), "1.json": '{"colour": 2}'},
        "needs keys for a path .* and a label .* but has 'colour'",
    ),
    "no images": ({"1.cls": 0}, "shards.*no images|no classes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_shard_is_named(tmp_path, mistake):
    members, sentence = MISTAKES[mistake]
    shard(tmp_path / "0.tar", members)
    assert re.search(sentence, refused(tmp_path)), refused(tmp_path)


def test_what_a_folder_of_shards_lacks_is_named(tmp_path):
    assert "DATASET.ROOT is not set" in refused("")
    (tmp_path / "notes").touch()
    assert f"{tmp_path} holds no .tar files; set DATASET.ROOT" in refused(tmp_path)
    shard(tmp_path / "0.tar.gz", {"1.png": png(1), "1.cls": 0}, "w:gz")
    assert "0.tar.gz is compressed" in refused(tmp_path)
    shard(tmp_path / "train-0.tar", samples(0, 6, cls))
    shard(tmp_path / "more.tar", samples(6, 6, cls))
    assert "more.tar, 000006: no split, though other images have one" in refused(tmp_path)
    (tmp_path / "more.tar").write_bytes(b"no archive" * 100)
    assert "more.tar cannot be read: it is no tar file, broken or cut short" in refused(tmp_path)
    shard(tmp_path / "more.tar", samples(6, 6, cls))
    (tmp_path / "train-0.tar").rename(tmp_path / "test-0.tar")
    whole = (tmp_path / "test-0.tar").read_bytes()
    (tmp_path / "more.tar").unlink()
    (tmp_path / "test-0.tar").write_bytes(whole[:1300])
    assert "test-0.tar cannot be read" in refused(tmp_path)


def test_a_run_on_shards(tool, tmp_path):
    def noise(n):
        out = io.BytesIO()
        colour = np.array((200, 30, 30) if n % 2 else (30, 30, 200))
        pixels = colour + np.random.default_rng(n).integers(-25, 25, (40, 50, 3))
        Image.fromarray(pixels.astype("uint8")).save(out, "JPEG")
        return out.getvalue()

    images = {f"{n}.jpg": noise(n) for n in range(20)} | {f"{n}.txt": ("blue", "red")[n % 2] for n in range(20)}
    shard(tmp_path / "own/0.tar", images)
    words = ["DATASET.NAME", "shards", "DATASET.ROOT", tmp_path / "own", "OPTIM.EPOCHS", "1", "TRAIN.WORKERS", "1"]
    config = ROOT / "configs/coop/embedded.yaml"
    status, _, err = tool("train", "--config", config, *words, "OUTPUT_DIR", tmp_path / "run")
    assert status == 0, err
    assert json.loads((tmp_path / "run/result.json").read_text())["n"] == 6
