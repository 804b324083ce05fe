"""`tools/bench.py`: its kinds, their options, and the tables of the documentation."""

import ast
import json
import re
import sys
from argparse import ArgumentParser
from types import SimpleNamespace

import pytest
import torch
from bench_tools import DRAWING, ROOT, table

import coop
import vpt
from promptvision.cli import one_sentence
from promptvision.sweep.benchmark import load_cells


@pytest.mark.parametrize(("kind", "family"), [("step", coop), ("vit", vpt)])
def test_every_trained_method_is_measured(kind, family, tools):
    kind = getattr(tools, kind)
    assert {row.partition(",")[0] for row in kind.ROWS} == set(family.METHODS) - set(kind.UNTRAINED)


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
    """Its defaults are measured as the docs say: a row's five numbers of images with three seeds, on one dataset."""
    import bench_stack

    parser = ArgumentParser()
    bench_stack.add_options(parser)
    args = parser.parse_args([])
    bench_stack.check(args)
    cells = [cell for cell in load_cells(args.config) if cell.overrides["DATASET.NAME"] == args.task]
    assert {row: sum(len(cell.seeds) for cell in cells if cell.run == row) for row in args.row} == dict.fromkeys(
        args.row, 15
    )
