"""tools/bench.py step: FLOPs and memory of every trained method's step against its official way."""

import ast
import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import coop
import vpt
from promptvision.backbones import load_clip
from promptvision.cli import one_sentence
from promptvision.sweep.benchmark import load_cells

ROOT = Path(__file__).parents[1]
WITHOUT_TOWERS = {"clip_adapter", "task_res", "tip_adapter_f", "clap"}
"""Learned behind the towers: the official way has nothing to lose."""
DRAWING = {"clip_lora", "mma_pp"}
"""Dropout draws another number of values in the official way."""


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    import bench  # which adds tools/bench
    import bench_step
    import bench_vit
    import measure

    yield SimpleNamespace(bench=bench, step=bench_step, vit=bench_vit, measure=measure)
    for folder in ("tools", "tools/bench"):
        sys.path.remove(str(ROOT / folder))


@pytest.fixture(scope="module")
def rows(tools):
    sizes = SimpleNamespace(backbone="embedded", classes=3, batch=2, device="cpu", method=tools.step.ROWS)
    return [dict(zip(COLUMNS, row, strict=True)) for row in tools.step.rows(sizes)]


COLUMNS = ("method", "official FLOPs", "FLOPs", "less", "official MB", "MB", "less MB", "logits", "gradient")


@pytest.mark.parametrize(("kind", "family"), [("step", coop), ("vit", vpt)])
def test_every_trained_method_is_measured(kind, family, tools):
    kind = getattr(tools, kind)
    assert {row.partition(",")[0] for row in kind.ROWS} == set(family.METHODS) - set(kind.UNTRAINED)


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


@pytest.mark.parametrize(("what", "method", "place"), [("step", "task_res", 0), ("vit", "linear", 1)])
def test_the_tables_of_the_documentation_are_those_that_are_printed(what, method, place, tools, monkeypatch, capsys):
    words = [what, "--method", method, "--backbone", "embedded", "--classes", "3", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["bench.py", *words, "--threads", str(torch.get_num_threads())])
    tools.bench.main()
    part = (ROOT / "docs/steps.md").read_text().split("\n## ")[place]
    printed, kept = table(capsys.readouterr().out), table(part)
    assert printed[0] == kept[0] == list(tools.step.COLUMNS)
    assert printed[1][0] == method and {row[0] for row in kept[1:]} == set(getattr(tools, what).ROWS)
    assert all(all(row[:7]) and (all(row) or row[0] in DRAWING) for row in kept), "a figure is missing"


def table(text):
    rows = re.findall(r"^\|(.*)\|$", text, re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows if not set(row) <= set("|-: ")]


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


def test_attacks_are_counted_by_kind_and_a_failure_at_their_end_counts(tools, monkeypatch):
    import bench_faults

    def tests(words, plugins):
        for kind, name, when, outcome in REPORTS:
            properties = [("fault", kind)] if kind else []
            report = SimpleNamespace(user_properties=properties, nodeid=name, when=when, outcome=outcome)
            plugins[0].pytest_runtest_logreport(report)
        return pytest.ExitCode.TESTS_FAILED

    monkeypatch.setattr(bench_faults.pytest, "main", tests)
    found = list(bench_faults.rows(SimpleNamespace(workers=0, tests=[])))
    assert found == [("code", "1", "1", "1"), ("text", "1", "0", "0"), ("all", "2", "1", "1")]
    monkeypatch.setattr(sys, "argv", ["bench.py", "faults"])
    with pytest.raises(SystemExit, match="^1$"):
        tools.bench.main()
    monkeypatch.setattr(bench_faults.pytest, "main", lambda words, plugins: pytest.ExitCode.NO_TESTS_COLLECTED)
    with pytest.raises(SystemExit, match="^5$"):
        tools.bench.main()


REPORTS = [
    ("code", "a", "setup", "passed"),
    ("code", "a", "call", "passed"),
    ("code", "a", "teardown", "passed"),
    ("code", "b", "setup", "skipped"),
    ("text", "c", "call", "passed"),
    ("text", "c", "teardown", "failed"),
    ("", "d", "call", "passed"),
]


def test_the_documentation_has_every_kind_of_fault():
    kinds = ast.literal_eval(re.search(r"^FAULTS = (.*)$", (ROOT / "tests/conftest.py").read_text(), re.M)[1])
    assert [row[0] for row in table((ROOT / "docs/faults.md").read_text())[1:]] == list(kinds)


def test_steps_on_a_gpu_are_measured_in_every_way_here_on_a_cpu(tools, tmp_path, capsys, monkeypatch):
    """The same code as on a GPU, on the embedded towers; equal numbers where equality is claimed."""
    sizes = "--clip embedded --vit embedded --cells coop prompt --classes 3 --batch 4 --steps 6 --runs 2 --kills 0"
    threads = ["--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(
        sys, "argv", ["bench.py", "gpu", *sizes.split(), *threads, "--json", str(tmp_path / "gpu.json")]
    )
    tools.bench.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["cell"], row["way"]): row for row in found["rows"]}
    coop_ways = [way for cell, way in rows if cell.startswith("coop")]
    assert coop_ways == ["official", "fast", "bf16", "graph", "stacked"] and len(rows) == 9  # VPT is not stacked
    assert all(row["ms"] > 0 and row["MB"] > 0 for row in rows.values()) and found["computes_on"] == "cpu"
    for (_, way), row in rows.items():
        most = {"official": 1e-4, "fast": 1e-4, "bf16": 0.2, "graph": 0.0, "stacked": 1e-4}[way]
        assert row["differs"] <= most, row
    assert [row[1] for row in table(capsys.readouterr().out)] == ["way", *(way for _, way in rows)]


def test_seeding_directly_takes_less_time(tools, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench.py", "seed", "--steps", "200"])
    tools.bench.main()
    (_, before, _), (_, now, _) = table(capsys.readouterr().out)[1:]
    assert float(now) < 0.8 * float(before)


def options(module):
    parser = ArgumentParser(add_help=False)
    module.add_options(parser)
    return parser._actions


def test_wrong_arguments_of_any_kind_are_one_sentence(tools, monkeypatch, capsys):
    wrong = [words.split() for words in WRONG]
    for kind, (_, module) in tools.bench.KINDS.items():
        numbers = [action.option_strings[0] for action in options(module) if action.type or action.choices]
        wrong += [[kind, option, "x"] for option in (*numbers, "--repeats", "--threads", "--device")]
        wrong += [[kind, option, "-1"] for option in (*numbers, "--repeats", "--threads") if option != "--seed"]
    assert len(wrong) > 150
    for words in wrong:
        monkeypatch.setattr(sys, "argv", ["bench.py", *words])
        with pytest.raises(SystemExit, match="^2$"), one_sentence():
            tools.bench.main()
        out, err = capsys.readouterr()
        assert not out and words[-1].lower() in err.lower() and len(re.findall("error: ", err)) == 1, (words, err)
        assert "Traceback" not in err and "/tmp" not in err, (words, err)


WRONG = [
    "resize --images 0",
    "seed --steps 0",
    "text --classes 0",
    "text --classes 1 0",
    "text --position nowhere",
    "classes --width 65",
    "classes --chunk 0.5",
    "stack --row Nope",
    "stack --task Nope",
    "stack --no-time --row coop",
    "plan --cells 7",
    "plan --cells 0",
    "data --images 0",
    "predict --images 0",
    "kill --times 0",
    "gpu --cells nope",
    "precision --method nope",
    "step --threads 0",
    "vit --device cuda:99",
]


def test_every_option_has_a_text_and_its_default(tools, monkeypatch, capsys):
    for kind, (_, module) in tools.bench.KINDS.items():
        assert all(action.help for action in options(module)), kind
        monkeypatch.setattr(sys, "argv", ["bench.py", kind, "--help"])
        with pytest.raises(SystemExit, match="^0$"):
            tools.bench.main()
        out = " ".join(capsys.readouterr().out.split())
        assert "None" not in out and "default: 3" in out and "count only --threads" in out and str(ROOT) not in out, out
        assert kind != "step" or '"clip_lora, no dropout"' in out and "(default: all)" in out


def test_few_images_cross_from_a_worker(tools, tmp_path):
    import bench_data

    assert bench_data.crossing(bench_data.make(tmp_path, 2), 8) == 3 * 8 * 8


def test_the_rows_of_stacks_are_those_of_their_benchmark(tools):
    """Its defaults are measured as the docs say: a row's five numbers of images with three seeds, on one data set."""
    import bench_stack

    parser = ArgumentParser()
    bench_stack.add_options(parser)
    args = parser.parse_args([])
    bench_stack.check(args)
    cells = [cell for cell in load_cells(args.config) if cell.overrides["DATASET.NAME"] == args.task]
    assert {row: sum(len(cell.seeds) for cell in cells if cell.run == row) for row in args.row} == dict.fromkeys(
        args.row, 15
    )
