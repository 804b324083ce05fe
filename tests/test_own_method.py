"""A method of the user's own, METHOD.NAME module:Class, does all that the methods of the table do."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import coop
import vpt
from promptvision.config import dump, load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError, OwnCodeFailed
from promptvision.experiment.run import retest, run
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.local import do_in_workers
from promptvision.sweep.ray_cluster import do_on_cluster

ROOT = Path(__file__).parents[1]
CODE = '''
from pathlib import Path
from torch import Tensor, nn
from coop.coop import CoOp
from coop.dept import DePT
from promptvision.backbones import CLIP, ImageTower
from promptvision.errors import InputError
from promptvision.method import Method
SIZE = 3

class Own(Method):
    """A scaled head; it stops in the middle of a step while there is a file called stop."""
    frozen_images = True
    def __init__(self, backbone: ImageTower, classes, *, scale=2.0, layers=(1, 2)):
        super().__init__(backbone, classes)
        self.scale, self.steps = scale, 0
        self.head = nn.Linear(backbone.feature_dim, len(classes))
    def forward(self, images):
        return self.scale * self.head(self.backbone.as_features(images))
    def loss(self, images, labels):
        self.steps += 1
        if self.steps == 3 and Path("stop").exists():
            raise InputError("stopped")
        return super().loss(images, labels)

class Longer(Own):
    def __init__(self, backbone, classes, *, bias=True, **options):
        super().__init__(backbone, classes, **options)

class Added(DePT):
    """DePT with a number of its own. `mine`: that number."""
    def __init__(self, backbone, classes, *, host="maple", mine=1, **options):
        super().__init__(backbone, classes, host=host, **options)

class Loose(Method):
    def __init__(self, backbone: "CLIP", classes):
        super().__init__(backbone, classes)

class Prompted(CoOp):
    pass

class Needs(Method):
    def __init__(self, backbone, classes, *, size):
        super().__init__(backbone, classes)

class Objects(Method):
    def __init__(self, backbone, classes, *, act=nn.ReLU):
        super().__init__(backbone, classes)

class Fails(Method):
    def __init__(self, backbone, classes):
        super().__init__(backbone, classes)
        self.head = 1 / 0

def build(backbone, classes):
    return Own(backbone, classes)
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with the module own_plugin, which each test imports again."""
    (tmp_path / "own_plugin.py").write_text(CODE)
    (tmp_path / "own_empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_") and name != "own_images"]:
        del sys.modules[name]


def config(*words, family="vpt", name="own_plugin:Own"):
    base = ["METHOD.FAMILY", family, "METHOD.NAME", name, "DATASET.NAME", "digits", "DATASET.SHOTS", 2]
    base += ["OPTIM.EPOCHS", 3, "TRAIN.CHECKPOINT_EVERY", 1, "OUTPUT_DIR", "run", "CACHE_DIR", "cache"]
    return load_config(ROOT / "configs/base.yaml", [*base, *words], FAMILIES)


def train(cfg, resume=False):
    with RunFolder(cfg.OUTPUT_DIR, resume=resume) as folder:
        return run(cfg, FAMILIES, folder, progress=False)


def test_options_are_checked_and_stored(place):
    cfg = config("METHOD.OPTIONS.SCALE", "3", "METHOD.OPTIONS.LAYERS", "[4]")
    assert cfg.METHOD.NAME == "own_plugin:Own" and cfg.METHOD.OPTIONS == {"SCALE": 3.0, "LAYERS": [4]}
    assert set(config(name="own_plugin:Longer").METHOD.OPTIONS) == {"BIAS", "SCALE", "LAYERS"}
    with pytest.raises(InputError, match="METHOD.OPTIONS of the vpt method own_plugin:Own: 'SCAL'; did you mean 'SC"):
        config("METHOD.OPTIONS.SCAL", 1)
    with pytest.raises(InputError, match="METHOD.OPTIONS.LAYERS takes a list"):
        config("METHOD.OPTIONS.LAYERS", "4")
    with pytest.raises(InputError, match="METHOD.OPTIONS.ACT takes a plain value"):
        config(name="own_plugin:Objects")


def test_your_own_addition_has_the_options_of_its_host(place, tool):
    own = dict(family="coop", name="own_plugin:Added")
    assert coop.METHODS.options("dept", "maple") | {"HOST": "maple", "MINE": 1} == config(**own).METHOD.OPTIONS
    prompted = config("METHOD.OPTIONS.HOST", "prompt_src", **own).METHOD.OPTIONS
    assert {"N_CTX_TEXT", "MINE", "RATE_FACTOR"} < set(prompted) and "N_CTX" not in prompted
    for words, said in (
        (("HOST", "tip_adapter"), "HOST.*'tip_adapter'"),
        (("DEPHT", 2), "HOST maple: 'DEPHT'.*'DEPTH'"),
    ):
        with pytest.raises(InputError, match=said):
            config(f"METHOD.OPTIONS.{words[0]}", words[1], **own)
    result = train(config("METHOD.OPTIONS.HOST", "coop", "OPTIM.EPOCHS", 0, "DATASET.CLASSES", "base", **own))
    assert result["options"]["MINE"] == 1 and result["options"]["HOST"] == "coop"
    cfg = load_config("run/config.yaml", ["METHOD.NAME", "own_plugin:Added"], FAMILIES, of_run=True)
    assert retest(cfg, FAMILIES, "run", progress=False)["ece"] == result["ece"]
    status, out, err = tool("help", "own_plugin:Added")
    assert status == 0 and "MINE (1): that number." in out and "DEPTH (" in out, err
    assert out.startswith("METHOD.FAMILY coop METHOD.NAME own_plugin:Added") and "Learned parameters:" in out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subclass_of_any_method_has_its_options(place, family):
    table = FAMILIES[family].METHODS
    lines = [f"class Own_{name}(METHODS.find({name!r})): pass" for name in table if name not in table.hosts]
    lines += [f"class Own_{name}(METHODS[{name!r}]): pass" for name in table.hosts]
    (place / "own_all.py").write_text("\n".join([f"from {family} import METHODS", *lines]))
    for name in table:
        assert table.options(f"own_all:Own_{name}") == table.options(name), name


def test_a_run_is_loaded_tested_and_predicts(place, tool, monkeypatch):
    result = train(config("METHOD.OPTIONS.SCALE", 3.0))
    assert result["method"] == "own_plugin:Own" and result["options"]["SCALE"] == 3.0
    stored = yaml.safe_load(Path("run/config.yaml").read_text())["METHOD"]
    assert stored["NAME"] == "own_plugin:Own" and stored["OPTIONS"]["SCALE"] == 3.0
    with pytest.raises(InputError, match="METHOD.NAME names the class own_plugin:Own, which .* say --trust, or repeat"):
        load_config("run/config.yaml", [], FAMILIES, of_run=True)
    cfg = load_config("run/config.yaml", ["METHOD.NAME", "own_plugin:Own", "CACHE_DIR", ""], FAMILIES, of_run=True)
    assert retest(cfg, FAMILIES, "run", progress=False)["ece"] == result["ece"]
    status, out, err = tool("eval", "--run", "run", "METHOD.NAME", "own_plugin:Own")
    assert status == 0 and f"{result['accuracy']:.2f}" in out, err
    (place / "elsewhere").mkdir()
    (place / "own_plugin.py").rename(place / "elsewhere/own_plugin.py")
    del sys.modules["own_plugin"]
    Image.new("RGB", (32, 32)).save("image.png")
    monkeypatch.setenv("PYTHONPATH", str(place / "elsewhere"))
    monkeypatch.syspath_prepend(place / "elsewhere")
    status, out, err = tool("predict", "--run", "run", "image.png", "--json", "--trust")
    assert status == 0 and "image.png" in out, err


def test_a_run_that_stopped_is_resumed(place):
    whole = train(config("OUTPUT_DIR", "whole"))
    Path("stop").touch()
    with pytest.raises(InputError, match="^stopped$"):
        train(config())
    Path("stop").unlink()
    resumed = train(config(), resume=True)
    one, other = (load_file(f"{folder}/learned.safetensors") for folder in ("whole", "run"))
    assert "Resumed from" in Path("run/log.txt").read_text()
    assert resumed["loss"] == whole["loss"] and all(torch.equal(one[name], other[name]) for name in one)


def planned(output):
    rows = {"own": {"CONFIG": "own.yaml"}}
    Path("own.yaml").write_text(dump(config()))
    Path("sweep.yaml").write_text(yaml.safe_dump({"RUNS": rows, "SEEDS": [1, 2]}))
    return plan(load_cells(Path("sweep.yaml")), output, ["OPTIM.EPOCHS", 1], FAMILIES)


def accuracies(events):
    outcomes = [event.outcome for event in events if event.outcome]
    assert not [sentence for outcome in outcomes for sentence in outcome.failures]
    return {result["seed"]: result["accuracy"] for outcome in outcomes for result in outcome.results}


@pytest.mark.slow
def test_spawned_workers_and_a_cluster_train_it(place):
    here = {seed: train(config("SEED", seed, "OPTIM.EPOCHS", 1, "OUTPUT_DIR", f"seed{seed}")) for seed in (1, 2)}
    wanted = {seed: result["accuracy"] for seed, result in here.items()}
    assert accuracies(do_in_workers(planned("workers"), {"vpt": vpt, "coop": coop}, 2)) == wanted
    assert accuracies(do_on_cluster(planned("cluster"), {"vpt": vpt, "coop": coop}, "local")) == wanted


WRONG = {
    "own_plugn:Own": "own_plugn:Own: importing own_plugn: no module 'own_plugn'; is its folder on PYTHONPATH?",
    "os:Own": "METHOD.NAME os:Own: os is a module of Python itself",
    "own_plugin:Ovn": "unknown name in own_plugin (METHOD.NAME own_plugin:Ovn) 'Ovn'; did you mean 'Own'?",
    "own_empty:Own": "METHOD.NAME own_empty:Own: own_empty has no class that extends promptvision.method.Method",
    "own_plugin:SIZE": "METHOD.NAME own_plugin:SIZE: SIZE is no class that extends promptvision.method.Method",
    "own_plugin:Tensor": "Tensor is no class that extends promptvision.method.Method",
    "own_plugin:Method": "Method is no class that extends promptvision.method.Method",
    "own_plugin:build": "build is no class that extends promptvision.method.Method",
    "own_plugin:Prompted": "own_plugin:Prompted is a method of the coop family: set METHOD.FAMILY coop",
    "own_plugin:Loose": "own_plugin:Loose is a method of the coop family: set METHOD.FAMILY coop",
    "own_plugin:Needs": "keyword-only arguments with defaults, but: missing a required argument: 'size'",
    "own plugin:Own": "unknown value of METHOD.NAME 'own plugin:Own'",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_one_sentence(name, place):
    with pytest.raises(InputError) as error:
        config(name=name)
    assert WRONG[name] in str(error.value) and "\n" not in str(error.value)
    assert not isinstance(error.value, OwnCodeFailed)


def test_a_method_of_the_other_family_and_one_that_fails(place):
    with pytest.raises(InputError, match="own_plugin:Own is a method of the vpt family: set METHOD.FAMILY vpt"):
        config(family="coop")
    assert "N_CTX" in config(family="coop", name="own_plugin:Prompted").METHOD.OPTIONS
    with pytest.raises(OwnCodeFailed, match="METHOD.NAME own_plugin:Fails raised ZeroDivisionError"):
        train(config(name="own_plugin:Fails"))
