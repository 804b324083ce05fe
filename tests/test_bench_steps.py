"""`bench.py step`, `vit` and `precision`: FLOPs, memory and kernels of every trained method's step."""

from types import SimpleNamespace

import pytest
import torch
from bench_tools import DRAWING, ROOT, table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import coop
from promptvision.backbones import load_clip

WITHOUT_TOWERS = {"clip_adapter", "task_res", "tip_adapter_f", "clap"}
"""Learned behind the towers: the official way has nothing to lose."""


@pytest.fixture(scope="module")
def rows(tools):
    sizes = SimpleNamespace(backbone="embedded", classes=3, batch=2, device="cpu", method=tools.step.ROWS)
    return [dict(zip(COLUMNS, row, strict=True)) for row in tools.step.rows(sizes)]


COLUMNS = ("method", "official FLOPs", "FLOPs", "less", "official MB", "MB", "less MB", "logits", "gradient")


def test_a_step_costs_no_more_than_the_official_one_and_is_the_same(rows):
    for row in rows:
        least = 1 if row["method"] in WITHOUT_TOWERS else 1.1
        assert float(row["less"].removesuffix("x")) >= least, row
        assert float(row["less MB"].removesuffix("x")) >= least, row
        if row["method"] in DRAWING:
            assert not row["logits"] and not row["gradient"]
        else:
            assert float(row["logits"]) < 1e-4 and float(row["gradient"]) < 1e-3, row


def test_a_step_with_held_weights_has_fewer_kernels_and_the_same_bits(tools):
    import bench_precision

    sizes = dict(classes=3, batch=2, device="cpu", backbone="embedded", vit="vit_tiny_patch16_224")
    args = SimpleNamespace(method=["vpt_deep", "kg_coop"], precision=["bf16"], **sizes)
    for name, precision, *figures, same in bench_precision.rows(args):
        cast, held = ([float(figure) for figure in figures[start::2]] for start in (0, 1))
        assert same == "yes" and precision == "bf16" and name in args.method
        assert all(fewer < more for fewer, more in zip(held, cast, strict=True))


def test_a_step_of_a_vit_method_costs_no_more_and_is_the_same(tools):
    method = ["linear", "partial", "full", "lora", "prompt, deep", "full, checkpoint"]
    sizes = SimpleNamespace(backbone="embedded", classes=3, batch=2, device="cpu", method=method)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in tools.vit.rows(sizes)]
    for row in rows:
        assert float(row["less"].removesuffix("x")) > 1 and float(row["less MB"].removesuffix("x")) > 1.1, row
        assert float(row["logits"]) < 1e-5 and float(row["gradient"]) < 1e-5, row
    full, again = (next(row for row in rows if row["method"] == name) for name in ("full", "full, checkpoint"))
    assert float(again["MB"]) < 0.3 * float(full["MB"]) and float(again["FLOPs"]) > 1.15 * float(full["FLOPs"])


def test_kernels_are_counted_in_both_passes_and_views_are_not(tools):
    weight, images = torch.ones(4, 3, requires_grad=True), torch.ones(2, 3)

    def step():
        images.view(3, 2).t().detach()
        out = torch.empty(2, 4)
        out.copy_((images @ weight.t()).detach())  # a product and a copy
        (images @ weight.t()).sum().backward()  # a product and a sum, then ones and a product
        return out

    assert tools.measure.kernels(step) == 6
    assert tools.measure.kernels(lambda: images.view(3, 2).t().detach()) == 0


def test_bytes_are_those_that_are_kept_at_a_time(tools):
    x = torch.randn(1000, requires_grad=True)
    assert tools.measure.kept_bytes(lambda: x.exp().exp()) == 2 * 4000
    assert tools.measure.kept_bytes(lambda: [x.exp().sum().backward() for _ in range(3)]) == 4000
    assert tools.measure.kept_bytes(lambda: x.exp().square(), [x]) == 4000  # both keep the one tensor between them


def test_flops_are_those_that_torch_counts(tools):
    method = coop.build("maple", load_clip("embedded"), ["cat", "dog"])
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    method(images)
    _, found = tools.measure.counted(lambda: method.loss(images, labels).backward())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        method.loss(images, labels).backward()
    assert found == counter.get_total_flops() > 0


def test_flops_are_two_for_each_product(tools):
    left, right = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert tools.measure.counted(lambda: left @ right)[1] == 2 * 3 * 5 * 7
    assert tools.measure.counted(lambda: (left @ right).sum().backward())[1] == 3 * 2 * 3 * 5 * 7
    assert tools.measure.counted(lambda: torch.autograd.grad((left @ right).sum(), left))[1] == 2 * 2 * 3 * 5 * 7


def test_fused_attention_counts_as_two_products_forward_and_four_backward(tools):
    query, key, value = torch.randn(3, 2, 4, 7, 8, requires_grad=True)
    product = 2 * 2 * 4 * 7 * 7 * 8
    attend = torch.nn.functional.scaled_dot_product_attention
    assert tools.measure.counted(lambda: attend(query, key, value))[1] == 2 * product
    assert tools.measure.counted(lambda: attend(query, key, value).sum().backward())[1] == 6 * product
    fast = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad():
        _, flops = tools.measure.counted(lambda: fast(torch.randn(1, 5, 8)))
    assert flops == 5 * 2 * (4 * 8 * 8 + 2 * 8 * 16) + 4 * 5 * 5 * 8


@pytest.mark.slow
def test_flops_of_the_documentation_are_those_of_the_code(tools):
    """Counted on tensors without values: the text step with 10 names, and a whole step of `vpt`."""
    import bench_text

    tower = bench_text.text_tower("cpu")
    encoder = bench_text.context_prompts(tower, bench_text.class_names(10), 16)
    clip = load_clip("ViT-B-16-quickgelu", "none")
    with FakeTensorMode(allow_non_fake_inputs=True):
        ways = (bench_text.official(tower, encoder), lambda ctx: encoder(tower, ctx))
        official, ours = (fake_flops(tools, bench_text.step, way, torch.randn(32, 512)) for way in ways)
    text = (ROOT / "docs/performance.md").read_text()
    assert f"{official / ours:.1f}x fewer FLOPs ({ours / 1e9:.1f} GFLOP)" in text
    documented = {row[0]: row[1:3] for row in table((ROOT / "docs/steps.md").read_text().split("\n## ")[0])}
    assert documented["vpt"] == [f"{whole_step(tools, clip, way) / 1e9:.4g}" for way in (True, False)]


def fake_flops(tools, step, way, images):
    ctx = torch.randn(16, 512, requires_grad=True)
    step(way, ctx, images)  # which computes the constants
    return tools.measure.counted(lambda: step(way, ctx, images))[1]


def whole_step(tools, clip, official):
    method = tools.step.build("vpt", clip, 100, official).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        size = clip.image.image_size
        images, labels = torch.randn(4, 3, size, size), torch.zeros(4, dtype=torch.long)
        with torch.no_grad():
            method(images)
        return tools.measure.counted(lambda: tools.step.step(method, images, labels))[1]
