"""Folders from strangers: programs in images, pipes and links in place of files, strips that resizing would blow up."""

import os

import pytest
from PIL import Image

from promptvision.data.decode import BadImage, open_image
from promptvision.data.readers.search import LeftOut, search
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError


@pytest.mark.fault("code")
@pytest.mark.parametrize("name", ["x.png", "x.eps"])
def test_postscript_in_an_image_is_not_run(tmp_path, name, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/code_ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    (tmp_path / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n")
    with pytest.raises(BadImage, match="PostScript: convert"):
        open_image(str(tmp_path), name)
    assert not (tmp_path / "code_ran").exists()


@pytest.mark.fault("memory")
@pytest.mark.parametrize("size", [(2001, 2), (1, 1001)])
def test_a_strip_is_a_bad_image(tmp_path, size):
    Image.new("L", size).save(tmp_path / "strip.png")
    with pytest.raises(BadImage, match=f"strip.png cannot be read: a strip of {size[0]} x {size[1]} pixels"):
        open_image(str(tmp_path), "strip.png")


@pytest.mark.fault("memory")
@pytest.mark.parametrize("name", ["last.ckpt", "learned.safetensors", "log.txt"])
def test_pipes_among_the_files_of_a_run(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = {
        "last.ckpt": load_checkpoint,
        "learned.safetensors": load_learned,
        "log.txt": lambda at: RunFolder(at.parent),
    }
    with pytest.raises(InputError, match=name):
        read[name](tmp_path / name)


@pytest.mark.fault("code")
@pytest.mark.parametrize("name", ["log.txt", "task_2"])
def test_a_run_writes_through_no_link_in_its_folder(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "own").write_text("precious")
    (tmp_path / "run" / name).symlink_to(tmp_path / "own")
    with pytest.raises(InputError, match=f"run: {name} is a link or pipe"):
        RunFolder(tmp_path / "run")
    assert (tmp_path / "own").read_text() == "precious"


@pytest.mark.fault("results")
def test_a_link_to_a_folder_above_is_left_out(tmp_path):
    for name in ("data/red/0.png", "data/blue/0.png", "elsewhere/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for number, target in enumerate(("..", "../..", "/")):
        (tmp_path / f"data/red/{number}").symlink_to(target)
    left_out = LeftOut()
    assert search(tmp_path / "data/red", left_out) == [tmp_path / "data/red/0.png"]
    assert "3 links to a folder" in left_out.sentences()[0]
