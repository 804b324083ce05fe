"""Runs and cards from strangers: they call no function and write nowhere that the user has not named."""

import sys

import pytest

from promptvision.backbones.custom import call_custom
from promptvision.backbones.vit import load_vit
from promptvision.cli import one_sentence
from promptvision.config import dump, load_config
from promptvision.config.families import FAMILIES
from promptvision.data.card import Card
from promptvision.data.prepare.download import download, from_hub
from promptvision.data.prepare.make_split import make_split
from promptvision.data.prepare.unpack import archives
from promptvision.errors import InputError, OwnCodeFailed

TOWER = """
import timm
open({mark!r}, "w").close()
def build():
    return timm.create_model("vit_tiny_patch16_224", img_size=32)
"""


@pytest.fixture
def path(monkeypatch):
    """Keep changes of the search for modules within a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture
def run(tmp_path, path):
    """A run that names `extra:build` of its own folder."""
    words = ["BACKBONE.NAME", "extra:build", "CACHE_DIR", str(tmp_path / "cache"), "LOG.WANDB", "stranger"]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(load_config("vpt/embedded.yaml", words, FAMILIES)))
    (folder / "learned.safetensors").write_bytes(b"")
    (folder / "extra.py").write_text(TOWER.format(mark=str(tmp_path / "code_ran")))
    return folder


def ran(run):
    return (run.parent / "code_ran").exists()


@pytest.mark.parametrize("of_run", [True, False])
def test_a_function_that_only_the_run_names_is_refused(run, of_run):
    with pytest.raises(InputError, match=r"BACKBONE.NAME names the function extra:build.*--trust"):
        load_config(run / "config.yaml", [], FAMILIES, of_run=of_run)


def test_a_base_of_a_run_and_a_config_on_top_of_a_run_are_the_runs_too(run):
    (run / "deep").mkdir()
    (run / "deep/base.yaml").write_text("BACKBONE: {NAME: 'os:abort'}")
    (run / "config.yaml").write_text("_BASE_: deep/base.yaml")
    (run.parent / "own.yaml").write_text("_BASE_: run/config.yaml")
    for file in (run / "config.yaml", run.parent / "own.yaml"):
        with pytest.raises(InputError, match="the function os:abort"):
            load_config(file, [], FAMILIES)


def test_a_trusted_function_is_found_on_pythonpath_only(run, monkeypatch):
    monkeypatch.syspath_prepend(str(run))  # as `python -m` does with the current folder
    monkeypatch.chdir(run)
    for words, trust in (([], True), (["BACKBONE.NAME", "extra:build"], False)):
        with pytest.raises(InputError, match="no module 'extra'; is its folder on PYTHONPATH"):
            load_config(run / "config.yaml", words, FAMILIES, trust=trust, of_run=True)
    assert not ran(run)
    monkeypatch.setenv("PYTHONPATH", str(run))
    load_config(run / "config.yaml", [], FAMILIES, trust=True, of_run=True)
    assert ran(run)


def test_a_repeated_function_is_found_as_in_training(run, monkeypatch):
    (run / "extra.py").rename(run.parent / "extra.py")
    monkeypatch.chdir(run.parent)
    cfg = load_config(run / "config.yaml", ["BACKBONE.NAME", "extra:build"], FAMILIES, of_run=True)
    assert load_vit(cfg.BACKBONE.NAME).width == 192 and ran(run)


def test_a_run_does_not_say_where_to_write(run):
    words = ["BACKBONE.NAME", "embedded"]
    cfg = load_config(run / "config.yaml", words, FAMILIES, of_run=True)
    assert (cfg.CACHE_DIR, cfg.LOG.WANDB, cfg.OUTPUT_DIR) == ("auto", "", "out")
    given = load_config(run / "config.yaml", [*words, "CACHE_DIR", "mine"], FAMILIES, of_run=True)
    assert given.CACHE_DIR == "mine"
    (run / "config.yaml").write_text("CACHE_DIR: ''")
    assert load_config(run / "config.yaml", [], FAMILIES, of_run=True).CACHE_DIR == ""


@pytest.mark.parametrize("name", ["os:system", "os:abort", "sys:exit", "builtins:exit", "builtins:breakpoint"])
def test_functions_of_python_build_no_backbone(name, path):
    for load in (load_vit, FAMILIES["coop"].load_backbone):
        with pytest.raises(InputError, match=f"BACKBONE.NAME {name}: .* is a module of Python itself"):
            load(name)


FUNCTIONS = {
    "def build(size): pass": "takes some: missing a required argument: 'size'",
    "def build(): return 'os:abort'": "returned a str",
    "def build(): raise SystemExit(0)": r"ended the process \(status 0\)",
    "def build(): import no_such_module": "no module 'no_such_module'",
    "raise SystemExit": "importing own_code_of_mine ended the process",
}


@pytest.mark.parametrize(("code", "sentence"), FUNCTIONS.items())
def test_own_functions_that_build_nothing(code, sentence, tmp_path, path, monkeypatch):
    (tmp_path / "own_code_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"BACKBONE.NAME own_code_of_mine:build.*{sentence}"):
        call_custom("own_code_of_mine:build")


@pytest.mark.parametrize("code", ["def build(): return 1 / 0", "1 / 0", "x = = 1"])
def test_an_error_of_own_code_keeps_its_traceback(code, tmp_path, path, monkeypatch, capsys):
    (tmp_path / "own_code_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop, one_sentence():
        call_custom("own_code_of_mine:build")
    first, rest = capsys.readouterr().err.split("\n", 1)
    assert stop.value.code == 2 and issubclass(OwnCodeFailed, InputError)
    assert first.startswith("error: BACKBONE.NAME own_code_of_mine:build") and "the code is your own" in first
    assert "own_code_of_mine.py" in rest and ("ZeroDivisionError" in rest or "SyntaxError" in rest)


@pytest.mark.parametrize("family", ["coop", "vpt"])
@pytest.mark.parametrize("weights", ["default", "none"])
@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"architecture": "os"}', '{"architecture": 3}', "\udcff"])
def test_a_folder_that_holds_no_model(family, weights, content, tmp_path):
    if content is not None:
        for name in ("config.json", "open_clip_config.json"):
            (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=str(tmp_path)):
        FAMILIES[family].load_backbone(f"local-dir:{tmp_path}", weights)


def card(**facts):
    texts = dict.fromkeys(("title", "source", "licence", "where", "template"), "x")
    return Card(name="stranger", **{"reader": "coop_split", **texts, **facts})


OUTSIDE = {
    "into": (archives, card(download=[{"url": "https://x", "file": "a.zip", "into": "../.."}])),
    "into of a deep path": (archives, card(download=[{"url": "https://x", "file": "a.zip", "into": "a/../../b"}])),
    "absolute": (archives, card(download=[{"url": "https://x", "file": "a.zip", "into": "/tmp"}])),
    "file": (archives, card(download=[{"url": "https://x", "file": "../a.zip"}])),
    "hub": (archives, card(hub={"repo": "a/b", "into": "..", "files": ["a.zip"]})),
    "hub files": (archives, card(hub={"repo": "a/b", "files": ["../a.zip"]})),
    "hub download": (from_hub, card(hub={"repo": "a/b", "into": ".."})),
    "torchvision": (download, card(reader="torchvision", options={"folders": [".."], "dataset": "MNIST"})),
    "split": (lambda each, root: make_split(each, root, 1), card(options={"folders": [".."], "split": "a.json"})),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_card_writes_below_the_root(case, tmp_path):
    call, stranger = OUTSIDE[case]
    with pytest.raises(InputError, match="its card would write .*, outside the root"):
        call(stranger, tmp_path if call is from_hub else str(tmp_path))
