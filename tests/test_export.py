"""Runs as ONNX, torch.export programs, zero-shot heads and timm models, checked against the run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file

import promptvision
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.deploy.classifier import Classifier
from promptvision.deploy.export import export as exporting
from promptvision.deploy.export import run_file
from promptvision.deploy.export.export import TORCH, compared, samples, write
from promptvision.deploy.export.preprocessing import preprocessing
from promptvision.deploy.export.program import traced
from promptvision.errors import InputError
from promptvision.experiment.build import load_method
from promptvision.experiment.loaders import image_tower

ROOT = Path(__file__).parents[1]
NAMES = ["cat", "dog", "hen", "cow"]
SAME = ("language_prompts", "p_tuning", "words", "continual", "continual_finetune", "continual_joint")
"""Embedded configs of methods that another one has."""
ALL = sorted(
    path.relative_to(ROOT / "configs").as_posix()
    for family in ("coop", "vpt")
    for path in (ROOT / "configs" / family).glob("embedded*.yaml")
    if path.stem.removeprefix("embedded_") not in SAME
)
DEEP = {
    **dict.fromkeys(("co_prompt", "maple", "prompt_kd", "vpt"), ("DEPTH",)),
    **dict.fromkeys(("ivlp", "prompt_src"), ("DEPTH_TEXT", "DEPTH_VISION")),
}
"""Methods whose configs prompt more than two blocks -> the options that say how many."""
REFUSED = {
    "coop/embedded_cocoop.yaml": "CoCoOp",
    "coop/embedded_plot.yaml": "Plot",
    "coop/embedded_tpt.yaml": "TPT",
}
"""Configs of methods whose computation no program holds."""
pytestmark = pytest.mark.skipif(Version(torch.__version__) < Version(TORCH), reason="torch exports less")


def made(config, *words):
    """An untrained classifier of four classes, with what is fitted in closed form fitted to noise."""
    words = ["TRAIN.DEVICE", "cpu", "OUTPUT_DIR", "x", *words]
    cfg = load_config(ROOT / "configs" / config, words, FAMILIES)
    method = load_method(cfg, FAMILIES, NAMES)
    size = image_tower(method).image_size
    draws = torch.Generator().manual_seed(0)
    batch = torch.randn(12, 3, size, size, generator=draws), torch.arange(12) % 4
    method.start_task(0, max(1, cfg.CONTINUAL.TASKS))
    with torch.no_grad():
        method.prepare([batch] * max(1, method.prepare_views), [batch])
        method.finish([batch], [batch])
        for name, tensor in method.named_parameters():  # as if it was trained
            if name in method.trained():
                tensor += 0.02 * torch.randn(tensor.shape, generator=draws)
    return Classifier(cfg, method, Path())


def agree(classifier):
    """Trace a program, and compare it with the predictor on other numbers of images."""
    predict = classifier.predictor.predict
    height, width = preprocessing(classifier)["input"]["shape"][2:]
    program = traced(predict, (height, width), type(classifier.method).__name__).module(check_guards=False)
    for count in (1, 5):
        images = samples(classifier, count)
        with torch.no_grad():
            wanted, found = predict(images), program(images)
        assert found.shape == (count, 4) and wanted.std() > 0
        torch.testing.assert_close(found.softmax(dim=1), wanted.softmax(dim=1), atol=1e-5, rtol=0)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", ["coop/embedded.yaml", "vpt/embedded.yaml", "vpt/embedded_lora.yaml"])
def test_a_program_computes_what_the_run_does(config):
    words = ["METHOD.OPTIONS.DEEP", True] if config == "vpt/embedded.yaml" else []
    agree(made(config, *words))


@pytest.mark.slow
@pytest.mark.parametrize("config", [name for name in ALL if name not in REFUSED])
def test_methods_that_are_exported(config):
    name = Path(config).stem.removeprefix("embedded_")
    depths = [word for option in DEEP.get(name, ()) for word in (f"METHOD.OPTIONS.{option}", 2)]
    agree(made(config, "BACKBONE.NAME", f"small_backbones:{'clip' if config.startswith('coop') else 'vit'}", *depths))


@pytest.mark.parametrize(
    "config", [pytest.param(name, marks=[] if "tpt" in name else pytest.mark.slow) for name in REFUSED]
)
def test_methods_that_are_not_exported_say_so(config):
    with pytest.raises(InputError, match=f"{REFUSED[config]} cannot be exported: what it computes depends on"):
        agree(made(config))


def test_views_of_files_are_not_exported():
    words = ["METHOD.OPTIONS.CROPS", "file", "METHOD.OPTIONS.VIEWS", 2]
    with pytest.raises(InputError, match="tpt classifies an image by random views of its file"):
        preprocessing(made("coop/embedded_tpt.yaml", *words))


@pytest.mark.parametrize("recipe", ["coop", "fgvc", "vtab", "petl", "l2p"])
@pytest.mark.parametrize("resize", ["pillow", "tensor"])
def test_preprocessing_is_described_exactly(recipe, resize):
    """An image goes through the steps of the description alone, and is what the transform makes of it."""
    classifier = made("vpt/embedded_linear.yaml", "INPUT.TEST", recipe, "INPUT.RESIZE", resize, "INPUT.EXIF", "apply")
    facts = json.loads(json.dumps(preprocessing(classifier)))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    size, way = facts["resize"], getattr(Image.Resampling, facts["interpolation"].upper())
    short = size * 2 if len(size) == 2 else [int(size[0] * side / min(image.size)) for side in image.size[::-1]]
    target = short[:2]
    if facts["library"] == "pillow":
        pixels = torch.from_numpy(np.array(image.resize(target[::-1], way))).permute(2, 0, 1) / 255
    else:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        pixels = pixels if facts["antialias"] else pixels / 255
        options = {"antialias": facts["antialias"], "mode": facts["interpolation"], "align_corners": False}
        pixels = torch.nn.functional.interpolate(pixels[None], target, **options)[0]
        pixels = pixels / 255 if facts["antialias"] else pixels
    if facts["crop"]:
        top, left = (round((have - want) / 2) for have, want in zip(pixels.shape[1:], facts["crop"], strict=True))
        pixels = pixels[:, top : top + facts["crop"][0], left : left + facts["crop"][1]]
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
    found = (pixels - mean) / std
    assert facts["upright"] and list(found.shape) == facts["input"]["shape"][1:]
    torch.testing.assert_close(found, classifier.transform(image), atol=1e-5, rtol=0)


def test_a_head_is_one_matrix_product_for_open_clip(words, tool, tmp_path):
    status, out, err = tool("export", "--run", words, "--to", "classifier", "--output", tmp_path / "head.safetensors")
    assert status == 0 and "largest difference from the run: logits" in out, err
    head, classifier = load_file(tmp_path / "head.safetensors"), promptvision.load(words)
    facts = json.loads((tmp_path / "head.safetensors.json").read_text())
    assert facts["classes"] == classifier.classes and facts["open_clip"]["model"] == "embedded"
    torch.testing.assert_close(head["class_features"].norm(dim=1), torch.ones(24))
    images = samples(classifier, 3)
    features = torch.nn.functional.normalize(classifier.method.backbone.image.model(images), dim=-1)
    logits = head["logit_scale"] * features @ head["class_features"].T
    with torch.no_grad():
        torch.testing.assert_close(logits, classifier.method(images), atol=1e-4, rtol=0)
    assert {each.name for each in tmp_path.iterdir()} == {"head.safetensors", "head.safetensors.json"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("coop/embedded_tip_adapter.yaml", "the method is more than image features times class features"),
        ("coop/embedded_clip_adapter.yaml", "the method is more than image features times class features"),
        ("coop/embedded_maple.yaml", "maple changes CLIP's image features"),
        ("vpt/embedded_linear.yaml", "backbone 'embedded' is no model that timm creates by its name"),
    ],
)
def test_methods_without_a_head_say_so(config, sentence, tmp_path):
    classifier = made(config)
    with pytest.raises(InputError, match=sentence):
        compared(classifier, "classifier", tmp_path / "x", write(classifier, "classifier", tmp_path / "x"))


TINY = ["BACKBONE.NAME", "vit_tiny_patch16_224", "BACKBONE.PRETRAINED", "none", "INPUT.SIZE", 32]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["vpt/embedded_lora.yaml", "vpt/embedded_bias.yaml"])
def test_what_has_become_a_plain_vit_is_one_of_timm(config, tmp_path):
    classifier = made(config, *TINY)
    facts = write(classifier, "classifier", tmp_path / "x.safetensors")
    assert facts["model_args"] == {"num_classes": 4, "global_pool": "token", "img_size": 32}
    assert max(compared(classifier, "classifier", tmp_path / "x.safetensors", facts)) < 1e-4


@pytest.mark.slow
def test_prompts_make_no_plain_vit(tmp_path):
    classifier = made("vpt/embedded.yaml", *TINY)
    facts = write(classifier, "classifier", tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="the method has not become a plain ViT; use --to onnx or pt2"):
        compared(classifier, "classifier", tmp_path / "x.safetensors", facts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_files_run_in_a_fresh_process(words, tool, tmp_path, kind):
    file = tmp_path / f"a/m.{kind}"
    status, out, err = tool("export", "--run", words, "--to", kind, "--output", file)
    assert status == 0 and f"{file}: " in out and "probabilities" in out, err
    if kind == "onnx":
        import onnxruntime

        told = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["promptvision"]
    else:
        extra = {"preprocessing.json": ""}
        torch.export.load(file, extra_files=extra)
        told = extra["preprocessing.json"]
    assert json.loads(told) == json.loads((tmp_path / f"a/m.{kind}.json").read_text())
    assert tool("export", "--run", words, "--to", kind, "--output", file)[2].endswith("replace it with --overwrite")


@pytest.mark.slow
def test_pools_choose_the_same_prompts_in_onnx(tmp_path):
    classifier = made("vpt/embedded_l2p.yaml")
    assert max(compared(classifier, "onnx", tmp_path / "m", write(classifier, "onnx", tmp_path / "m"))) < 1e-4


@pytest.mark.parametrize(("kind", "sentence"), [("exe", "unknown kind of --to 'exe'"), ("onxx", "did you mean 'onnx'")])
def test_a_wrong_kind_is_one_sentence(tool, words, kind, sentence):
    status, _, err = tool("export", "--run", words, "--to", kind)
    assert status == 2 and sentence in err


def test_missing_packages_are_named(tool, words, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else True)
    status, _, err = tool("export", "--run", words, "--to", "onnx")
    assert status == 2 and err == "error: --to onnx needs onnxscript: pip install 'promptvision[export]'"


def test_a_file_that_computes_something_else_replaces_nothing(tool, words, tmp_path, monkeypatch):
    (tmp_path / "wrong.py").write_text(
        Path(run_file.__file__).read_text().replace('head["logit_scale"] *', "1.01 * head['logit_scale'] *")
    )
    monkeypatch.setattr(run_file, "__file__", str(tmp_path / "wrong.py"))
    file = tmp_path / "out/head.safetensors"
    file.parent.mkdir()
    file.write_text("mine")
    status, _, err = tool("export", "--run", words, "--to", "classifier", "--output", file, "--overwrite")
    assert status == 2 and "head.safetensors is not written, as it computes something else than the run" in err
    assert file.read_text() == "mine" and [*file.parent.iterdir()] == [file]
    (tmp_path / "wrong.py").write_text("import sys\nsys.exit('no such library')")
    status, _, err = tool("export", "--run", words, "--to", "classifier", "--output", file, "--overwrite")
    assert status == 2 and err.endswith("head.safetensors is not written, as it does not run: no such library")
    assert sys.executable and file.read_text() == "mine"
