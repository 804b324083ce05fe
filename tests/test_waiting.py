"""Steps of every method, in which the host waits for no number from the device and draws none."""

import pytest
import torch

import coop
import vpt
from coop import plot
from coop.parts.per_image import SCALES, scales
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.engine.capture.watch import Watch

NAMES, CPU = ["cat", "golden_retriever", "old house"], torch.device("cpu")
EVERY = [("coop", name) for name in coop.METHODS] + [("vpt", name) for name in vpt.METHODS]
UNTRAINED = ("zero_shot", "linear_probe", "tip_adapter", "gda", "lp_plus_plus", "knn", "simple_cil")
OBSTACLES = {
    "clip_lora": "ClipLora draws random numbers in a step",  # dropout, by default 0.25
    "co_prompt": "CoPrompt draws random numbers in a step",  # which texts
    "mma_pp": "MMApp draws random numbers in a step",  # texts, a scale, and dropout
    "skip_tuning": "SkipTuning reads numbers back from the device in a step (index)",  # it packs the classes it keeps
    "plot": "Plot reads numbers back from the device in a step (_local_scalar_dense)",  # on a CPU alone
}
OPTIONS = {"prompt_kd": {"teacher": "embedded"}, "prompt_ablations": {"also": "bias"}}


@pytest.fixture
def build(swin, golden):
    """`build("coop", "tcp", **options)` gives a method in training, prepared, and a batch."""

    def make(family, name, way="auto", **options):
        torch.manual_seed(0)
        options = {**OPTIONS.get(name, {}), **options}
        if family == "coop":
            weights = "embedded" if name == "prompt_kd" else golden.root / "coop/clip_vit_tiny.safetensors"
            backbone = load_clip(weights, compute=Compute(way))
        else:
            backbone = swin if name == "swin_prompt" else load_vit(golden.root / "vpt/backbone.safetensors")
        size = backbone.image.image_size if family == "coop" else backbone.image_size
        images, labels = torch.randn(4, 3, size, size), torch.arange(4) % 3
        method = {"coop": coop, "vpt": vpt}[family].build(name, backbone, NAMES, **options)
        method.prepare([(images, labels)], [(images, labels)])
        method.train()
        method.pin()
        third = method.wants_unlabelled or method.wants_second_view
        return method, (images, labels, images) if third else (images, labels)

    return make


def watched(method, batch):
    """Return the obstacle to a graph in the second step."""
    method.loss(*batch).backward()
    with Watch(method, CPU) as watch:
        method.loss(*batch).backward()
    return watch.obstacle


@pytest.mark.parametrize(("family", "name"), [each for each in EVERY if each[1] not in UNTRAINED])
def test_no_step_waits_for_the_device(family, name, build):
    assert watched(*build(family, name)) == OBSTACLES.get(name, "")


@pytest.mark.parametrize("name", ["coop", "cocoop", "maple", "kg_coop", "tcp", "dapl"])
def test_nor_in_the_plain_way(name, build):
    assert watched(*build("coop", name, way="plain")) == ""


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("coop", "clip_lora", {"dropout": 0.0}),
        ("coop", "skip_tuning", {"top_ratio": 1.0}),
        ("vpt", "l2p", {"batchwise": True}),
        ("vpt", "prompt_ablations", {"location": "pixel"}),
    ],
)
def test_nor_with_these_options(family, name, options, build):
    assert watched(*build(family, name, **options)) == ""


@pytest.mark.parametrize("name", ["l2p", "linear", "coda_prompt"])
def test_nor_in_a_task_with_smoothing_and_weights(name, build):
    method, (images, labels) = build("vpt", name)
    method.start_task(0, 2, [0, 2])
    method.label_smoothing, method.class_weights = 0.1, torch.tensor([1.0, 2.0, 3.0])
    assert watched(method, (images, labels.clamp(max=1) * 2)) == ""


def test_scales_are_tried_in_fp16_alone():
    """A try is read back; in other precisions there is nothing to try."""
    leaf = torch.zeros(3)
    assert scales(leaf) == (1.0,) and scales(leaf.half()) == SCALES
    with torch.autocast("cpu", torch.bfloat16):
        assert scales(leaf) == (1.0,)
    with torch.autocast("cpu", torch.float16):
        assert scales(leaf) == SCALES


@pytest.mark.parametrize("stop", plot.STOPS)
def test_plans_are_the_same_without_a_look_at_whether_they_are_done(stop, monkeypatch):
    """Off the CPU all iterations run, and those of a plan that has stopped change nothing."""
    torch.manual_seed(0)
    cost = torch.rand(6, 5, 9, 4) * torch.tensor([0.01, 0.1, 0.3, 0.5, 1.0, 2.0])[:, None, None, None]
    looked = plot.transport_plans(cost, 0.1, stop)
    assert plot.transport_plans(cost.to("meta"), 0.1, stop).shape == cost.shape
    monkeypatch.setattr(torch.Tensor, "any", lambda self: True)
    assert torch.equal(plot.transport_plans(cost, 0.1, stop), looked)
