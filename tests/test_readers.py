"""Readers on miniature trees in the exact layouts, and one sentence for everything that can be missing or wrong."""

import gzip
import hashlib
import json
import os
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torchvision
from PIL import Image

from promptvision.data.cards import card_names, load_card
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash
from promptvision.errors import InputError

SPLIT_CARDS = [name for name in card_names() if load_card(name).reader == "coop_split"]
IDX_CARDS = ["mnist", "fashion_mnist"]
CIFAR_CARDS = ["cifar10", "cifar100"]


def save(path, colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, format="PNG")


def refused(card, root):
    """The sentence that reading ends with."""
    with pytest.raises(InputError) as caught:
        read(card, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def paths(items):
    return [path for path, _, _ in items]


# CoOp's split files


def plant(card, root, split, folder=0):
    """A miniature of a card's layout: its split file, and the images that this lists."""
    top = root / card.options["folders"][folder]
    for path in {entry[0] for part in split.values() for entry in part}:
        save(top / card.options["images"] / path)
    (top / card.options["split"]).write_text(json.dumps(split))
    return top


def small_split():
    names = ["red thing", "green_thing", "blue thing"]
    lists = {"train": [2, 0, 1, 1], "val": [0, 2], "test": [1, 0, 2]}
    return {
        part: [[f"{names[label]}/{part}_{n}.png", label, names[label]] for n, label in enumerate(labels)]
        for part, labels in lists.items()
    }


@pytest.mark.parametrize("name", SPLIT_CARDS)
@pytest.mark.parametrize("folder", [0, 1])
def test_a_coop_split_is_read_as_it_is_written(tmp_path, name, folder):
    card, split = load_card(name), small_split()
    plant(card, tmp_path, split, folder)
    images = read(card, tmp_path)
    for part in ("train", "val", "test"):
        assert [list(item) for item in getattr(images, part)] == split[part]
    assert images.classes == ["red thing", "green_thing", "blue thing"]
    assert images.open(images.test[0][0]).getpixel((0, 0)) == (200, 100, 50)
    assert subset_hash(images.train) == subset_hash(split["train"])


@pytest.fixture
def dtd(tmp_path):
    """Write a DTD of this split (an object, or the text of the file) and return the sentence that refuses it."""

    def refuse(split):
        card = load_card("dtd")
        top = plant(card, tmp_path, small_split())
        (top / card.options["split"]).write_text(split if isinstance(split, str) else json.dumps(split))
        message = refused(card, tmp_path)
        assert str(top / card.options["split"]) in message
        return message

    return refuse


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["a.png", 47, "x"], "label 47 is out of range, the data set has 47 classes"),
        (["a.png", -1, "x"], "label -1 is out of range"),
        (["a.png", "1", "x"], "the label must be an integer, found '1'"),
        (["a.png", 1.0, "x"], "the label must be an integer, found 1.0"),
        (["a.png", True, "x"], "the label must be an integer, found True"),
        (["a.png", 1], "expected [path, label, class name], found ['a.png', 1]"),
        ("a.png", "expected [path, label, class name], found 'a.png'"),
        ([7, 1, "x"], "path and class name must be texts"),
        (["a.png", 1, None], "path and class name must be texts"),
        (["../a.png", 1, "x"], "the path '../a.png' is outside the folder"),
        (["b/../../../a.png", 1, "x"], "is outside the folder"),
        (["/etc/passwd", 1, "x"], "the path '/etc/passwd' is outside the folder"),
        (["..\\a.png", 1, "x"], "is outside the folder"),
        (["C:\\a.png", 1, "x"], "is outside the folder"),
        (["a.png", 1, "another name"], "label 1 is 'green_thing' and, at a.png, 'another name'"),
        (["a.png", 7, "x"], "labels must be 0 to n - 1 without gaps, but 3 never occurs"),
    ],
)
def test_a_wrong_entry_is_named(dtd, entry, message):
    split = small_split()
    split["val"].append(entry)
    found = dtd(split)
    assert message in found
    assert "val[2]" in found or "label 1 is" in message or "gaps" in message


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    ("split", "message"),
    [
        ('{"train": [', "is not JSON"),
        ("[]", "has no list 'train'"),
        ({"train": [], "val": []}, "has no list 'test'"),
        ({"train": [], "val": {}, "test": []}, "has no list 'val'"),
    ],
)
def test_a_malformed_split_file_is_named(dtd, split, message):
    assert message in dtd(split)


def test_a_split_file_without_images_has_no_classes(tmp_path):
    card = load_card("dtd")
    plant(card, tmp_path, small_split())
    (tmp_path / "dtd" / card.options["split"]).write_text('{"train": [], "val": [], "test": []}')
    assert "data set 'dtd' has no classes" in refused(card, tmp_path)


@pytest.mark.parametrize("name", SPLIT_CARDS)
def test_whatever_a_coop_split_lacks_is_named(tmp_path, name):
    card = load_card(name)
    folder = card.options["folders"][0]
    assert "DATASET.ROOT is not set" in refused(card, "")
    assert f"the data root {tmp_path / 'none'} does not exist" in refused(card, tmp_path / "none")
    assert f"the data root {tmp_path} is empty" in refused(card, tmp_path)
    (tmp_path / "file").touch()
    assert f"the data root {tmp_path / 'file'} is a file" in refused(card, tmp_path / "file")
    assert f"{tmp_path} has no folder {folder} or" in refused(card, tmp_path)
    top = plant(card, tmp_path, small_split())
    lost = top / card.options["images"] / "green_thing/test_0.png"
    lost.unlink()
    message = refused(card, tmp_path)
    assert "1 of the 9 images" in message and str(lost) in message
    if card.options["images"] != ".":
        (top / card.options["images"]).rename(top / "elsewhere")
        assert f"{top} has no folder {card.options['images']}" in refused(card, tmp_path)
    (top / card.options["split"]).unlink()
    message = refused(card, tmp_path)
    assert f"the split file {top / card.options['split']} is missing; {card.where}" in message
    assert message.endswith(f"with `python tools/data.py split {name}`")


# Images that cannot be read


def broken(path, kind):
    whole = path.with_suffix(".whole")
    save(whole)
    data = whole.read_bytes()
    whole.unlink()
    contents = {"cut short": data[:-30], "empty": b"", "no image": b"hello", "header only": data[:40]}
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["cut short", "empty", "no image", "header only"])
def test_a_broken_image_is_named(tmp_path, kind):
    for n in range(4):
        save(tmp_path / f"cat/{n}.png")
    broken(tmp_path / "cat/9.png", kind)
    images = read(load_card("folder"), tmp_path)
    with pytest.raises(InputError) as caught:
        images.open("cat/9.png")
    assert f"image {tmp_path / 'cat/9.png'} cannot be read: it is no image" in str(caught.value)
    with pytest.raises(InputError, match="gone.png cannot be read: No such file"):
        images.open("cat/gone.png")


@pytest.mark.fault("memory")
def test_a_image_too_large_to_be_safe_is_named(tmp_path, monkeypatch):
    save(tmp_path / "cat/1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match="cat/1.png cannot be read: Image size .24 pixels. exceeds limit"):
        read(load_card("folder"), tmp_path).open("cat/1.png")


def test_an_exif_orientation_is_not_applied(tmp_path):
    (tmp_path / "cat").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "cat/1.jpg", exif=exif)
    assert read(load_card("folder"), tmp_path).open("cat/1.jpg").size == (6, 4)


def test_alpha_is_dropped_and_grey_is_spread(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.new("RGBA", (3, 3), (10, 20, 30, 0)).save(tmp_path / "cat/1.png")
    Image.new("L", (3, 3), 7).save(tmp_path / "cat/2.png")
    images = read(load_card("folder"), tmp_path)
    assert images.open("cat/1.png").getpixel((1, 1)) == (10, 20, 30)
    assert images.open("cat/2.png").getpixel((1, 1)) == (7, 7, 7)
    assert images.open("cat/2.png").mode == "RGB"


def without_permission(action):
    """Run `action` in a child that may not read what its parent made, and return the sentence it ends with."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            action()
        except InputError as error:
            os.write(sender, str(error).encode())
        finally:
            os._exit(0)
    os.close(sender)
    os.waitpid(child, 0)
    with os.fdopen(receiver) as pipe:
        return pipe.read()


def test_files_and_folders_without_permission_are_named(tmp_path):
    home = tmp_path / "home"
    save(home / "cat/1.png")
    plant(load_card("dtd"), home, small_split())
    images = read(load_card("folder"), home / "dtd")
    for place in (home / "cat/1.png", home / "cat", home / "dtd" / load_card("dtd").options["split"]):
        place.chmod(0)
    for place in (tmp_path, *tmp_path.parents):
        if "pytest" in str(place):
            place.chmod(0o755)
    split = without_permission(lambda: read(load_card("dtd"), home))
    assert split.endswith("cannot be read: Permission denied") and load_card("dtd").options["split"] in split
    folder = without_permission(lambda: read(load_card("folder"), home))
    assert folder == f"folder {home / 'cat'} cannot be read: Permission denied"
    (home / "dtd/images").chmod(0)
    image = without_permission(lambda: images.open("images/red thing/train_1.png"))
    assert image.endswith("images/red thing/train_1.png cannot be read: Permission denied")
    for place in (home / "cat", home / "dtd/images"):
        place.chmod(0o755)


# Your own folder


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


# torchvision's layouts


def idx(array):
    """An array of bytes in MNIST's format: two zeros, type 8, number of axes, their lengths, the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def plant_idx(folder, packed):
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(100) % 10, "t10k": np.arange(20)[::-1] % 10}
    images = {part: rng.integers(0, 256, (len(own), 28, 28), dtype=np.uint8) for part, own in labels.items()}
    folder.mkdir(parents=True)
    for part in labels:
        for name, array in ((f"{part}-images-idx3-ubyte", images[part]), (f"{part}-labels-idx1-ubyte", labels[part])):
            data = gzip.compress(idx(array)) if packed else idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(data)
    return images, labels


def check_arrays(found, images, labels, names):
    assert [(label, name) for _, label, name in found.test] == [(n, names[n]) for n in labels["test"]]
    assert np.array_equal(np.asarray(found.open(found.test[3][0])), images["test"][3])
    train = sorted(found.train + found.val)
    assert [label for _, label, _ in train] == list(labels["train"])
    assert np.array_equal(np.asarray(found.open(train[7][0])), images["train"][7])
    per_class = [sum(label == own for _, label, _ in found.val) for own in range(len(names))]
    assert per_class == [round(0.1 * np.sum(labels["train"] == own)) for own in range(len(names))]


@pytest.mark.parametrize("name", IDX_CARDS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", [0, -1])
def test_idx_files_plain_or_packed(tmp_path, name, packed, folder):
    card = load_card(name)
    root = tmp_path / "data"
    images, labels = plant_idx(root / card.options["folders"][folder], packed)
    spread = {part: np.repeat(array[..., None], 3, -1) for part, array in images.items()}
    found = read(card, root)
    check_arrays(
        found,
        {"train": spread["train"], "test": spread["t10k"]},
        {"train": labels["train"], "test": labels["t10k"]},
        card.options["names"],
    )
    official = getattr(torchvision.datasets, card.options["dataset"])
    if not packed and folder == 0:
        theirs = official(root, train=False)
        assert [label for _, label, _ in found.test] == theirs.targets.tolist()


def test_the_systems_folder_serves_where_no_root_is_given(tmp_path):
    card = load_card("fashion_mnist")
    nowhere = replace(card, options={**card.options, "system_folder": str(tmp_path / "system")})
    message = refused(nowhere, "")
    assert f"DATASET.ROOT is not set and {tmp_path / 'system'} does not exist" in message
    assert "apt-get install dataset-fashion-mnist" in message and "download=True" in message
    plant_idx(tmp_path / "system", packed=True)
    assert len(read(nowhere, "").test) == 20
    assert card.options["system_folder"] == "/usr/share/datasets/fashion-mnist"


@pytest.mark.parametrize("name", IDX_CARDS + CIFAR_CARDS)
def test_whatever_torchvision_lacks_is_named(tmp_path, name):
    card = load_card(name)
    assert f"the data root {tmp_path / 'none'} does not exist" in refused(card, tmp_path / "none")
    assert f"the data root {tmp_path} is empty" in refused(card, tmp_path)
    folder = tmp_path / card.options["folders"][0]
    folder.mkdir(parents=True)
    message = refused(card, tmp_path)
    assert str(folder) in message and message.endswith(card.where)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("part", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx_files_that_are_not_whole_are_named(tmp_path, packed, part):
    card = load_card("mnist")
    folder = tmp_path / "MNIST/raw"
    plant_idx(folder, packed)
    file = folder / (f"{part}.gz" if packed else part)
    whole = file.read_bytes()
    for data in (whole[:-7], whole[:9], b"", b"no such format at all"):
        file.write_bytes(data)
        assert f"{file} cannot be read: it is not an idx file, broken or cut short" in refused(card, tmp_path)


def test_idx_files_that_disagree_are_named(tmp_path):
    card = load_card("mnist")
    folder = tmp_path / "MNIST/raw"
    plant_idx(folder, packed=False)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(99) % 10))
    assert f"{folder} has 100 train images but 99 labels" in refused(card, tmp_path)
    labels.write_bytes(idx(np.arange(100) % 11))
    assert f"the training labels in {folder} are not 0 to 9" in refused(card, tmp_path)


def plant_cifar(root, card, monkeypatch):
    """A miniature CIFAR, whose checksums torchvision is told, as it knows those of the real one."""
    official = getattr(torchvision.datasets, card.options["dataset"])
    rng, images, labels = np.random.default_rng(0), {"train": [], "test": []}, {"train": [], "test": []}
    checksums = {}

    def write(name, content):
        file = root / official.base_folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5(file.read_bytes()).hexdigest()

    key = "labels" if card.classes == 10 else "fine_labels"
    for part, listed in (("train", official.train_list), ("test", official.test_list)):
        for name, _ in listed:
            own = np.arange(10 * card.classes) % card.classes
            data = rng.integers(0, 256, (len(own), 3072), dtype=np.uint8)
            write(name, {"data": data, key: own.tolist()})
            images[part].append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels[part].append(own)
    write(official.meta["filename"], {official.meta["key"]: card.options["names"]})
    monkeypatch.setattr(official, "train_list", [[name, checksums[name]] for name, _ in official.train_list])
    monkeypatch.setattr(official, "test_list", [[name, checksums[name]] for name, _ in official.test_list])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": checksums[official.meta["filename"]]})
    return ({part: np.concatenate(arrays) for part, arrays in found.items()} for found in (images, labels))


@pytest.mark.parametrize("name", CIFAR_CARDS)
def test_cifar_in_its_layout(tmp_path, monkeypatch, name):
    card = load_card(name)
    images, labels = plant_cifar(tmp_path, card, monkeypatch)
    check_arrays(read(card, tmp_path), images, labels, card.options["names"])
    folder = tmp_path / card.options["folders"][0]
    next(folder.glob("*test*")).write_bytes(b"another")
    assert f"{folder} lacks files, or they differ from the official files" in refused(card, tmp_path)


def test_an_unknown_torchvision_data_set_is_named(tmp_path):
    card = load_card("mnist")
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    other = replace(card, options={**card.options, "dataset": "MNST"})
    assert "unknown torchvision data set 'MNST'; did you mean 'MNIST'" in refused(other, tmp_path)


# In memory


def test_digits_need_no_root_and_never_change():
    card = load_card("digits")
    images = read(card)
    assert {part: len(getattr(images, part)) for part in ("train", "val", "test")} == card.counts
    assert len({path for path in paths(images.train + images.val + images.test)}) == 1797
    assert images.classes == card.options["names"]
    first = images.open("digits/00000")
    assert first.size == (8, 8) and first.mode == "RGB"
    assert [first.getpixel((x, 0))[0] for x in range(8)] == [0, 0, 80, 207, 143, 16, 0, 0]
    assert next(item for item in images.train + images.val + images.test if item[0] == "digits/00000")[1] == 0
    assert subset_hash(images.train) == "005f5790af987a286e2a0e62e4590f6f73b30b0a6f27fd0252a2d4c76510b100"


@pytest.mark.parametrize("name", ["world_counting", "world_location"])
def test_world_tasks_are_read_through_their_cards(name):
    card = load_card(name)
    images = read(card)
    assert {part: len(getattr(images, part)) for part in ("train", "val", "test")} == card.counts
    assert len(images.classes) == card.classes
    assert images.open(images.train[0][0]).mode == "RGB"


def test_without_a_root_the_folder_data_is_taken(tmp_path, monkeypatch):
    plant(load_card("dtd"), tmp_path / "data", small_split())
    monkeypatch.chdir(tmp_path)
    assert read(load_card("dtd"), "").train == read(load_card("dtd"), tmp_path / "data").train
    with pytest.raises(InputError, match="DATASET.ROOT is not set"):
        read(load_card("folder"), "")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(InputError, match="DATASET.ROOT is not set and there is no folder 'data' here"):
        read(load_card("dtd"), "")


def test_domains_are_read_one_by_one_and_together():
    card = load_card("world_domains")
    alone = {name: read(card, domain=name) for name in ("sketch", "second")}
    assert len(alone["sketch"].train) == 1536 and not alone["second"].train
    pair = replace(card, domains={name: card.domains[name] for name in alone})
    both = read(pair)
    assert both.test == alone["sketch"].test + alone["second"].test and both.classes == alone["sketch"].classes
    for images in alone.values():
        path = images.test[7][0]
        assert both.open(path).tobytes() == images.open(path).tobytes()
    with pytest.raises(
        InputError, match="unknown domain of data set 'world_domains' 'sketches'; did you mean 'sketch'"
    ):
        read(card, domain="sketches")
    with pytest.raises(InputError, match="unknown domain of data set 'digits' 'a'"):
        read(load_card("digits"), domain="a")


def test_domains_of_different_classes_do_not_mix():
    card = load_card("world_domains")
    odd = replace(card, domains={"photo": {"task": "shapes"}, "odd": {"task": "textures"}})
    with pytest.raises(InputError, match="domains disagree: label 0 is 'circle' and, at textures/train/00000, 'plain'"):
        read(odd)
