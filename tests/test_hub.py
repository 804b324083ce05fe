"""Runs on a stand-in of the Hub: pushed without private paths, loaded by name, refused in one sentence."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import promptvision
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.deploy.model_card import base_model
from promptvision.deploy.publication import write_publication
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run as train

ROOT = Path(__file__).parents[1]
FILES = {"README.md", "config.yaml", "learned.safetensors", "result.json"}
WORDS = ["DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]


def trained_run(folder, *words, config="configs/coop/embedded.yaml"):
    cfg = load_config(ROOT / config, [*WORDS, *words, "OUTPUT_DIR", str(folder)], FAMILIES)
    with RunFolder(folder) as opened:
        train(cfg, FAMILIES, opened, progress=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("hub") / "secret/run", "LOG.WANDB", "")


def test_a_run_is_pushed_and_loaded_by_name(hub, tool, run, tmp_path):
    status, out, err = tool("push", "--run", run, "--to", "alice/colours", "--licence", "mit", "--private")
    assert status == 0 and out.strip() == f"{hub.url}/alice/colours", err
    files = hub.models["alice/colours"]
    assert files.keys() - {".gitattributes"} == FILES and hub.private["alice/colours"]
    assert not any(b"secret" in content or b"/tmp" in content for content in files.values())
    theirs, ours = promptvision.load("hf-hub:alice/colours"), promptvision.load(run)
    image = Image.new("RGB", (32, 32), (200, 30, 30))
    assert theirs.classes == ours.classes
    assert torch.equal(theirs.probabilities(image), ours.probabilities(image))


def test_the_card_says_what_it_is(tool, run, tmp_path):
    status, _, err = tool("push", "--run", run, "--to", "al/c", "--licence", "mit", "--output", tmp_path / "model")
    assert status == 0, err
    _, metadata, text = (tmp_path / "model/README.md").read_text().split("---\n", 2)
    known = yaml.safe_load(metadata)
    accuracy = json.loads((run / "result.json").read_text())["accuracy"]
    assert known["license"] == "mit" and known["library_name"] == "promptvision"
    scores = {each["type"]: each["value"] for each in known["model-index"][0]["results"][0]["metrics"]}
    assert scores["accuracy"] == round(accuracy, 2)
    assert 'promptvision.load("hf-hub:al/c")' in text and "2,048 learned parameters" in text
    assert "1 image per class" in text and "red, orange, yellow" in text and f"| accuracy | {accuracy:.2f} |" in text


def test_a_published_backbone_is_named(run):
    cfg = promptvision.load(run).cfg.clone()
    cfg.defrost()
    cfg.BACKBONE.NAME = "ViT-B-16"
    assert base_model(cfg) == "timm/vit_base_patch16_clip_224.openai"
    cfg.METHOD.FAMILY, cfg.BACKBONE.NAME = "vpt", "vit_base_patch16_224.augreg_in21k"
    assert base_model(cfg) == "timm/vit_base_patch16_224.augreg_in21k"


def test_a_model_is_not_replaced_unasked(hub, tool, run):
    words = ["--run", run, "--to", "alice/colours", "--licence", "mit"]
    hub.models["alice/colours"] = {"learned.safetensors": b"theirs"}
    status, _, err = tool("push", *words)
    assert status == 2 and "alice/colours on the Hub holds a model: --overwrite replaces it" in err
    assert hub.models["alice/colours"]["learned.safetensors"] == b"theirs"
    assert tool("push", *words, "--overwrite")[0] == 0
    assert hub.models["alice/colours"]["learned.safetensors"] != b"theirs"


@pytest.mark.parametrize(
    ("to", "refused", "sentence"),
    [
        (
            "alice/colours",
            403,
            "the Hub refuses alice/colours (status 403); `hf auth login` with a token that may write",
        ),
        ("alice/co lours", 0, "'alice/co lours' is no name of a model on the Hub: it is user/name"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, tool, run, to, refused, sentence):
    hub.refused = refused
    status, _, err = tool("push", "--run", run, "--to", to, "--licence", "mit")
    assert status == 2 and sentence in err and "Traceback" not in err


def test_without_a_network_the_files_can_be_written(hub, tool, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    status, _, err = tool("push", "--run", run, "--to", "alice/colours", "--licence", "mit")
    assert status == 2 and "http://127.0.0.1:9 cannot be reached" in err and "--output FOLDER" in err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf-hub:alice/none", "the Hub has no model alice/none, or it is private"),
        ("hf-hub:a b", "'a b' is no name of a model on the Hub"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(hub, name, sentence):
    with pytest.raises(InputError, match=sentence):
        promptvision.load(name)


def test_code_that_a_model_names_is_never_run(hub, tool, run, monkeypatch, tmp_path):
    assert tool("push", "--run", run, "--to", "eve/model", "--licence", "mit")[0] == 0
    files = hub.models["eve/model"]
    files["config.yaml"] = files["config.yaml"].replace(b"NAME: coop\n", b"NAME: evil:Method\n")
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="names the class evil:Method, which would be imported"):
        promptvision.load("hf-hub:eve/model")
    with pytest.raises(InputError, match="comes from elsewhere, so its code is not run"):
        promptvision.load("hf-hub:eve/model", trust=True)


def test_a_card_of_your_own_leaves_its_template(tmp_path, monkeypatch):
    """It is no part of the model, so the prompt that its template is must be."""
    monkeypatch.setattr("sys.argv", ["draw_images.py", str(tmp_path / "shapes")])
    runpy.run_path(str(ROOT / "examples/draw_images.py"))["main"]()
    words = ["DATASET.NAME", str(ROOT / "examples/own_split.yaml"), "DATASET.ROOT", str(tmp_path)]
    own = trained_run(tmp_path / "own", *words, config="configs/coop/embedded_zero_shot.yaml")
    classifier = write_publication(own, tmp_path / "model", "alice/shapes", "mit")
    assert classifier.cfg.DATASET.NAME == "own_split.yaml" and classifier.cfg.DATASET.TEMPLATE
    image = Image.new("RGB", (32, 32), (200, 30, 30))
    assert torch.equal(classifier.probabilities(image), promptvision.load(own).probabilities(image))


def test_a_run_that_others_cannot_load_is_not_published(tmp_path):
    torch.manual_seed(0)
    place = tmp_path / "vit_tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).state_dict(), place)
    facts = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 32, "depth": 1}}
    place.with_suffix(".json").write_text(json.dumps(facts))
    words = ["BACKBONE.NAME", str(place), "OPTIM.WARMUP_EPOCHS", "0"]
    own = trained_run(tmp_path / "own", *words, config="configs/vpt/embedded_linear.yaml")
    with pytest.raises(InputError, match="cannot be published, because others could not load it: .*vit_tiny"):
        write_publication(own, tmp_path / "model", "alice/tiny", "mit")


def test_a_run_with_code_of_your_own_is_not_published(run, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(run, own)
    text = (own / "config.yaml").read_text()
    (own / "config.yaml").write_text(text.replace("NAME: embedded\n", "NAME: my.module:build\n"))
    with pytest.raises(InputError, match="needs your own code .my.module:build., which is not published with it"):
        write_publication(own, tmp_path / "model", "alice/own", "mit")
