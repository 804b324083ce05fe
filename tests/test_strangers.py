"""Folders from strangers: programs in images, pipes and links in place of files, strips that resizing would blow up."""

import os

import pytest
import torch
from PIL import Image
from torch import Tensor

import coop
from promptvision.atomic import read_json, write_json
from promptvision.backbones import load_clip
from promptvision.backbones.weights import read_weights
from promptvision.data.card import Card
from promptvision.data.cards import load_card
from promptvision.data.decode import BadImage, open_image
from promptvision.data.prepare.download import download
from promptvision.data.prepare.fetch import fetch
from promptvision.data.readers.search import LeftOut, search
from promptvision.engine.checkpoint import load_checkpoint, load_learned, save_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.report.collect import read_result
from promptvision.report.figures.losses import _is_number
from promptvision.safe_yaml import read_yaml
from promptvision.sweep.benchmark import checked_benchmark, file_name


@pytest.fixture(scope="module")
def method():
    """CoOp for two classes."""
    return coop.build("coop", load_clip("embedded"), ["a", "b"], n_ctx=2)


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


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("text", ["a: &a {b: *a}", "&a [*a]"])
def test_yaml_that_holds_itself_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match="more than 1,000,000 values"):
        read_yaml(tmp_path / "c.yaml", "card")


@pytest.mark.fault("text")
def test_a_lone_surrogate_in_a_result_does_not_lose_it(tmp_path):
    write_json(tmp_path / "result.json", {"templates": ["\ud800 {}"]})
    assert read_json(tmp_path / "result.json") == {"templates": ["\ud800 {}"]}
    save_learned(tmp_path / "l.safetensors", {}, {"classes": ["a"], "template": "\ud800 {}"})
    assert load_learned(tmp_path / "l.safetensors")[1]["template"] == "\\ud800 {}"


@pytest.mark.fault("code")
@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_benchmark_writes_below_its_output(name):
    assert file_name(name) == "_" and file_name("a..b") == "a..b"


@pytest.mark.fault("limits")
@pytest.mark.parametrize("more", [{"SEEDS": [1] * 10_001}, {"GRID": {"SEED": [1] * 5_001}, "SEEDS": [1, 2]}])
def test_a_benchmark_of_too_many_runs(more):
    with pytest.raises(InputError, match="combinations; at most 10,000"):
        checked_benchmark("b.yaml", {"RUNS": {"a": {"CONFIG": "c.yaml"}}, **more})


@pytest.mark.fault("results")
@pytest.mark.parametrize("change", [Tensor.log, lambda t: t / 0, Tensor.long, Tensor.bool, lambda t: t * 1j])
def test_learned_tensors_of_another_kind(method, change):
    state = {name: change(tensor) for name, tensor in method.learned_state().items()}
    with pytest.raises(InputError, match="learned tensor 'ctx' holds"):
        method.load_learned_state(state)


CARDS = {
    "download: [{}]": "download needs url and file",
    "download: [{url: 'http://x'}]": "download needs",
    "download: [{url: 'http://x', file: a, size: abc}]": "a whole number as size",
    "hub: {files: [a]}": "hub needs repo",
}


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(("line", "sentence"), CARDS.items())
def test_cards_with_half_a_source(tmp_path, line, sentence):
    facts = "title: x\nsource: x\nlicence: x\nwhere: x\nreader: folder\ntemplate: '{}'\n"
    (tmp_path / "card.yaml").write_text(facts + line)
    with pytest.raises(InputError, match=sentence):
        load_card(str(tmp_path / "card.yaml"))


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("options", [{"dataset": "nosuch", "folders": ["a"]}, {"dataset": "MNIST", "folders": []}])
def test_downloads_of_torchvision_that_do_not_exist(tmp_path, options):
    texts = dict.fromkeys(("title", "source", "licence", "where", "template"), "x")
    with pytest.raises(InputError, match="names no folder, or an unknown torchvision dataset"):
        download(Card("x", **texts, reader="torchvision", options=options), str(tmp_path))


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("url", ["http://[", "http://\x1b[31m/"])
def test_addresses_that_are_none(tmp_path, url):
    with pytest.raises(InputError, match="does not answer as HTTP servers do"):
        fetch(url, tmp_path / "a")


@pytest.mark.fault("text")
def test_a_librarys_warnings_about_weights_are_not_shown(tmp_path, recwarn):
    sparse = torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9))
    torch.save({"a": sparse}, tmp_path / "x.pth")
    recwarn.clear()
    with pytest.raises(InputError, match="is larger than what the file stores of it"):
        read_weights(tmp_path / "x.pth")
    assert not recwarn.list


@pytest.mark.fault("parsing")
def test_shots_that_are_no_number_are_told(tmp_path):
    needed = {
        "accuracy": 1,
        "dataset": "d",
        "options": {},
        "classes": [],
        "method": "m",
        "family": "f",
        "backbone": "b",
    }
    write_json(tmp_path / "result.json", {**needed, "backbone": "b", "seed": 1, "shots": [1]})
    with pytest.raises(InputError, match="its shots is missing or invalid"):
        read_result(tmp_path / "result.json")


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("value", [1e308, float("nan"), 10**299, "1"])
def test_no_axis_has_such_numbers(value):
    assert not _is_number(value) and _is_number(0)
