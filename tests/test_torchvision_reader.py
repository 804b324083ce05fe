"""Datasets in torchvision's layouts: MNIST's idx files and CIFAR's batches."""

import gzip
import hashlib
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torchvision
from split_data import refused

from promptvision.data.cards import load_card
from promptvision.data.readers import read

IDX_CARDS = ["mnist", "fashion_mnist"]
CIFAR_CARDS = ["cifar10", "cifar100"]


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


def test_an_unknown_torchvision_dataset_is_named(tmp_path):
    card = load_card("mnist")
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    other = replace(card, options={**card.options, "dataset": "MNST"})
    assert "unknown torchvision dataset 'MNST'; did you mean 'MNIST'" in refused(other, tmp_path)
