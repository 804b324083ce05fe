"""tools/bench.py step: FLOPs and memory of every trained method's step against its official way."""

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import coop
from promptvision.backbones import load_clip

ROOT = Path(__file__).parents[1]
WITHOUT_TOWERS = {"clip_adapter", "task_res", "tip_adapter_f"}
"""Learned behind the towers: the official way has nothing to lose."""


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    import bench  # which adds tools/bench
    import bench_step
    import measure

    yield SimpleNamespace(bench=bench, step=bench_step, measure=measure)
    for folder in ("tools", "tools/bench"):
        sys.path.remove(str(ROOT / folder))


@pytest.fixture(scope="module")
def rows(tools):
    sizes = SimpleNamespace(backbone="embedded", classes=3, batch=2, device="cpu", method=tools.step.ROWS)
    return [dict(zip(COLUMNS, row, strict=True)) for row in tools.step.rows(sizes)]


COLUMNS = ("method", "official FLOPs", "FLOPs", "less", "official MB", "MB", "less MB", "logits", "gradient")


def test_every_trained_method_is_measured(tools):
    assert {row.partition(",")[0] for row in tools.step.ROWS} == set(coop.METHODS) - set(tools.step.UNTRAINED)


def test_a_step_costs_no_more_than_the_official_one_and_is_the_same(rows):
    for row in rows:
        least = 1 if row["method"] in WITHOUT_TOWERS else 1.1
        assert float(row["less"].removesuffix("x")) >= least, row
        assert float(row["less MB"].removesuffix("x")) >= least, row
        if row["method"] == "clip_lora":
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


def test_the_table_of_the_documentation_is_the_one_that_is_printed(tools, monkeypatch, capsys):
    words = ["step", "--method", "task_res", "--backbone", "embedded", "--classes", "3", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["bench.py", *words, "--threads", str(torch.get_num_threads())])
    tools.bench.main()
    printed, kept = (table(text) for text in (capsys.readouterr().out, (ROOT / "docs/steps.md").read_text()))
    assert printed[0] == kept[0] == list(tools.step.COLUMNS)
    assert printed[1][0] == "task_res" and len(kept) > 19 and {row[0] for row in kept[1:]} <= set(tools.step.ROWS)


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
    with FlopCounterMode(display=False) as counter:
        method.loss(images, labels).backward()
    assert found == counter.get_total_flops() > 0


def test_flops_are_two_for_each_product(tools):
    left, right = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert tools.measure.counted(lambda: left @ right)[1] == 2 * 3 * 5 * 7
    assert tools.measure.counted(lambda: (left @ right).sum().backward())[1] == 3 * 2 * 3 * 5 * 7
    assert tools.measure.counted(lambda: torch.autograd.grad((left @ right).sum(), left))[1] == 2 * 2 * 3 * 5 * 7


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
