"""One thread, and the golden numbers: the compact set beside the tests, or a larger one of the same layout."""

import copy
import json
import logging
import os
import runpy
import shutil
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from promptvision.backbones import load_vit
from promptvision.backbones.compute import Compute

pytest_plugins = (
    *("archive_server", "bench_tools", "captured_steps", "chromium", "data_root", "fuzzing"),
    *("google_layout", "hub_server", "official", "official_vit", "small_families", "small_run"),
    *("tiny_files", "tower_features", "written_runs"),
)
pytest.register_assert_rewrite("split_data", "training")

torch.set_num_threads(1)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
collect_ignore = [] if BROWSER and shutil.which("chromedriver") else ["test_report_browser.py", "test_run_browser.py"]

ROOT = Path(__file__).parents[1]
FAULTS = ("files", "results", "code", "memory", "text", "parsing", "limits", "versions")
"""Kinds of `@pytest.mark.fault(kind)`: files lost, wrong results without a word, code that runs unasked, memory and
hanging, text that acts as markup, files that do not parse, values out of range, versions and systems."""
GOLDEN = Path(os.environ.get("PROMPTVISION_GOLDEN", Path(__file__).parent / "golden"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Image features of the tests' runs are kept apart from the user's."""
    os.environ["PROMPTVISION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_generate_tests(metafunc):
    """`@pytest.mark.golden("coop/coop/*")` runs a test once per golden file that matches, as `case`."""
    mark = metafunc.definition.get_closest_marker("golden")
    if mark:
        names = sorted(str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.glob(mark.args[0] + ".json"))
        assert names, f"no golden file matches {mark.args[0]} under {GOLDEN}"
        metafunc.parametrize("case", names)


def pytest_collection_modifyitems(items):
    """Mark the tests that depend on the set of golden numbers, and write the kind of each `@pytest.mark.fault(kind)`
    into the test's report, for `tools/bench.py faults`."""
    for item in items:
        if "golden" in item.fixturenames or item.get_closest_marker("golden"):
            item.add_marker("reads_golden")
        for mark in item.iter_markers("fault"):
            (kind,) = mark.args
            assert kind in FAULTS, f"{item.nodeid}: no kind of fault {kind!r}; one of {', '.join(FAULTS)}"
            item.user_properties.append(("fault", kind))


@pytest.fixture(scope="session")
def golden():
    """`golden("coop/coop/end_csc_ctx16")` gives (settings, tensors in float32 or int64)."""

    def load(name):
        settings = json.loads((GOLDEN / f"{name}.json").read_text()) if (GOLDEN / f"{name}.json").exists() else {}
        path = GOLDEN / f"{name}.safetensors"
        tensors = load_file(path) if path.exists() else {}
        return settings, {
            k: v.float() if v.is_floating_point() and v.dtype != torch.float64 else v for k, v in tensors.items()
        }

    load.root = GOLDEN
    return load


@pytest.fixture
def yaml_bomb():
    """A small YAML text of a mapping that merges the one before twice, twenty times over."""
    first = "a0: &a0 {" + ", ".join(f"{n}x: y" for n in range(9)) + "}\n"
    return first + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 21))


@pytest.fixture
def little_memory():
    """At its end the test has at no time held more than 30 MB of Python objects that were not there before."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.fixture(scope="session")
def computed():
    """`computed(clip, way="plain", chunk=2)`: the same modules and weights with other COMPUTE settings."""

    def copied(backbone, **settings):
        other = copy.copy(backbone)
        other._modules = {name: copy.copy(module) for name, module in backbone._modules.items()}
        other.compute = Compute(**settings)
        return other

    return copied


@pytest.fixture
def vit(golden):
    """The tiny ViT of the golden numbers, fresh: a method may thaw it."""
    return load_vit(golden.root / "vpt/backbone.safetensors")


@pytest.fixture
def vit_mlp4(golden):
    """The tiny ViT with an MLP of four times its width, fresh; the compact set holds what differs from `vit`."""
    facts, state = golden("vpt/backbone_mlp4")
    sizes = dict(img_size=64, patch_size=16, embed_dim=64, depth=4, num_heads=4, mlp_ratio=4.0, num_classes=0)
    model = VisionTransformer(**sizes)
    model.load_state_dict(golden("vpt/backbone")[1] | state)
    return load_vit(model)


@pytest.fixture(scope="session")
def vit_b16():
    """A ViT-B/16 without values."""
    with torch.device("meta"):
        return load_vit("vit_base_patch16_224", pretrained="none")


@pytest.fixture
def swin():
    """A tiny Swin for the same images, fresh."""
    sizes = dict(img_size=64, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4)
    return load_vit(SwinTransformer(**sizes, num_classes=0))


@pytest.fixture(scope="session")
def inputs(golden):
    """Images, labels, and the head of the ViT family's golden numbers."""
    return golden("vpt/inputs")[1]


@pytest.fixture(scope="session")
def golden_cases(golden):
    """`golden_cases("vpt/vpt")` gives {case: (settings, tensors)} of one golden file that holds many."""

    def load(name):
        settings, tensors = golden(name)
        names = dict.fromkeys(key.partition("/")[0] for key in tensors)
        return {
            case: (
                settings["cases"].get(case, {}),
                {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{case}/")},
            )
            for case in names
        }

    return load


@pytest.fixture
def tool(monkeypatch, capsys):
    """`tool("train", "--config", ...)` runs a script and gives (exit status, stdout, stderr on one line).

    A run's page is written only with `page=True`.
    """

    def call(name, *words, page=False):
        words = [*words, *(["--no-page"] if name == "train" and not page else [])]
        monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, words)])
        monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
        log = logging.getLogger("promptvision")
        handlers, log.handlers[:] = list(log.handlers), []
        try:
            runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            log.handlers[:], log.propagate = handlers, True
        out, err = capsys.readouterr()
        return status, out, " ".join(err.split())

    return call
