"""Unpacking archives: beside what exists, never outside the folder, and ImageNet's into synsets."""

import hashlib
import shutil
import zipfile

import numpy as np
import pytest
from archive_server import CONTENT, MEMBERS, tar, tree, zipped
from scipy.io import savemat
from torchvision import datasets

from promptvision.data.prepare.unpack import unpack
from promptvision.errors import InputError


@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz", "d.tgz", "d.tar.xz", "d.zip"])
def test_archives_are_unpacked_beside_what_is_there(tmp_path, name):
    modes = {"d.tar": "w", "d.tar.xz": "w:xz"}
    (tmp_path / "dtd/images").mkdir(parents=True)
    (tmp_path / "dtd/images/mine.txt").write_text("mine")
    archive = tmp_path / "archives" / name
    archive.parent.mkdir()
    zipped(archive, MEMBERS) if name == "d.zip" else tar(archive, MEMBERS, modes.get(name, "w:gz"))
    assert unpack(archive, tmp_path) == 3
    shutil.rmtree(archive.parent) if name == "d.tar" else None
    found = {path: data for path, data in tree(tmp_path).items() if not path.startswith("archives")}
    assert found == {**MEMBERS, "dtd/images/mine.txt": b"mine"}
    if name != "d.tar":
        before = (tmp_path / "dtd/images/banded/1.jpg").stat().st_mtime_ns
        assert unpack(archive, tmp_path) == 0
        assert (tmp_path / "dtd/images/banded/1.jpg").stat().st_mtime_ns == before


def test_unpacking_goes_on_after_an_interruption(tmp_path):
    archive = tmp_path / "d.zip"
    zipped(archive, MEMBERS)

    def impatient(name):
        if name.endswith("2.jpg"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path, progress=impatient)
    assert not (tmp_path / "dtd").exists()
    assert unpack(archive, tmp_path) == 3
    assert {path: data for path, data in tree(tmp_path).items() if path != "d.zip"} == MEMBERS


def test_a_part_of_an_archive_goes_where_the_card_says(tmp_path):
    tar(tmp_path / "a.tar.gz", {"fgvc/data/images/1.jpg": b"one", "fgvc/evaluation.m": b"no"})
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "aircraft", part="fgvc/data") == 1
    assert tree(tmp_path / "aircraft") == {"images/1.jpg": b"one"}


@pytest.mark.fault("code")
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name, kind):
    archive = tmp_path / f"a.{kind}"
    (zipped if kind == "zip" else tar)(archive, {"good.txt": b"good", name: b"evil"})
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="which is outside its folder; nothing was unpacked"):
        unpack(archive, tmp_path / "into")
    assert tree(tmp_path / "into") == {} and not list(tmp_path.rglob("evil.txt"))


@pytest.mark.fault("code")
def test_links_and_broken_archives_are_refused(tmp_path):
    tar(tmp_path / "a.tar", {"link": None})
    with pytest.raises(InputError, match="holds 'link', a link or device"):
        unpack(tmp_path / "a.tar", tmp_path)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="holds 'link', a link or device"):
        unpack(tmp_path / "a.zip", tmp_path)
    big = {"a.bin": CONTENT}
    tar(tmp_path / "b.tar.gz", big)
    zipped(tmp_path / "b.zip", big)
    for name, cut in (("b.tar.gz", -100_000), ("b.zip", -10), ("b.tar.gz", 5)):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"archive .*cut_{name} cannot be unpacked"):
            unpack(tmp_path / f"cut_{name}", tmp_path)
    flipped = bytearray((tmp_path / "b.zip").read_bytes())
    flipped[1_000_000] ^= 255
    (tmp_path / "b.zip").write_bytes(flipped)
    with pytest.raises(InputError, match="b.zip cannot be unpacked into .*: Bad CRC-32"):
        unpack(tmp_path / "b.zip", tmp_path)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.fault("files")
def test_another_file_in_place_is_not_overwritten(tmp_path):
    zipped(tmp_path / "a.zip", {"1.txt": b"theirs"})
    (tmp_path / "1.txt").write_text("mine, and longer")
    with pytest.raises(InputError, match="1.txt exists, but is not the file in .*a.zip; move it away"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "1.txt").read_text() == "mine, and longer"


def plant_imagenet(top, monkeypatch):
    """The three archives in miniature, whose checksums torchvision is told, as it knows those of the real ones."""
    top.mkdir(parents=True)
    synsets = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}
    inner = {}
    for synset in synsets:
        tar(top / "class.tar", {f"{synset}_{n}.JPEG": synset.encode() for n in range(3)}, "w")
        inner[f"{synset}.tar"] = (top / "class.tar").read_bytes()
    (top / "class.tar").unlink()
    rows = [(n, synset, words, "gloss", 0) for n, (synset, words) in enumerate(synsets.items(), 1)]
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "i4")]
    savemat(top / "meta.mat", {"synsets": np.array([*rows, (3, "n0", "parent", "gloss", 2)], dtype=kinds)})
    kit = "ILSVRC2012_devkit_t12/data"
    truth = b"2\n1\n2\n"
    meta = {f"{kit}/meta.mat": (top / "meta.mat").read_bytes(), f"{kit}/ILSVRC2012_validation_ground_truth.txt": truth}
    tar(top / "ILSVRC2012_devkit_t12.tar.gz", meta)
    tar(top / "ILSVRC2012_img_train.tar", inner, "w")
    val = {f"ILSVRC2012_val_0000000{n}.JPEG": str(n).encode() for n in (1, 2, 3)}
    tar(top / "ILSVRC2012_img_val.tar", val, "w")
    (top / "meta.mat").unlink()
    for key, (name, _) in dict(datasets.imagenet.ARCHIVE_META).items():
        md5 = hashlib.md5((top / name).read_bytes()).hexdigest()
        monkeypatch.setitem(datasets.imagenet.ARCHIVE_META, key, (name, md5))


def test_imagenet_is_unpacked_into_synsets(tool, tmp_path, monkeypatch):
    top = tmp_path / "imagenet"
    status, _, err = tool("data", "prepare", "imagenet", "--root", tmp_path)
    assert status == 2 and "ILSVRC2012_img_train.tar is not present" in err
    plant_imagenet(top, monkeypatch)
    status, out, err = tool("data", "prepare", "imagenet", "--root", tmp_path)
    assert status == 0, err
    found = {path: data for path, data in tree(top / "images").items() if path.startswith("val/")}
    assert found == {
        "val/n01443537/ILSVRC2012_val_00000001.JPEG": b"1",
        "val/n01440764/ILSVRC2012_val_00000002.JPEG": b"2",
        "val/n01443537/ILSVRC2012_val_00000003.JPEG": b"3",
    }
    assert len(tree(top / "images/train/n01440764")) == 3
    assert "everything was in place already" in tool("data", "prepare", "imagenet", "--root", tmp_path)[1]
