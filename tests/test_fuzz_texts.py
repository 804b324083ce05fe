"""Configs, cards, benchmarks, grids and results made by chance: refused by name, and nothing in them runs."""

import json

import pytest
import yaml
from fuzzing import changed, fuzzed, json_texts, mappings, refused, values, words
from hypothesis import given
from hypothesis import strategies as st

import coop
import vpt
from promptvision.atomic import read_json
from promptvision.config import load_config
from promptvision.data.cards import load_card
from promptvision.engine import metrics_file
from promptvision.engine.resume import check_identity
from promptvision.report.report import load_report
from promptvision.report.tables.writers import markdown
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.search import load_search

FAMILIES = {"vpt": vpt, "coop": coop}
TAGS = ["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!python/object/apply:os.abort"]
tagged = st.builds("{}: {} {}".format, words, st.sampled_from(TAGS), st.sampled_from(["x", "''", "[]", "{}", "[[a]]"]))
yaml_texts = st.one_of(
    st.binary(max_size=60),
    mappings.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")),
    tagged.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
GOOD = {
    "config": {"METHOD": {"NAME": "coop", "OPTIONS": {"N_CTX": 4}}, "DATASET": {"SHOTS": 4}, "OPTIM": {"STEPS": [1]}},
    "card": dict.fromkeys(("title", "source", "licence", "where"), "x")
    | {"reader": "coop_split", "template": "a {}.", "folders": ["a"], "split": "s.json", "images": "i", "classes": 1}
    | {"counts": {"train": 1}, "domains": {"d": {"images": "i"}}, "download": [{"url": "u", "file": "f"}]},
    "benchmark": {"RUNS": {"a": {"CONFIG": "c.yaml", "SEED": 1}}, "GRID": {"A B": [[1, 2]]}, "SEEDS": [1]}
    | {"EVAL": {"e": {"DATASET.SHOTS": 1}}, "SET": [{"WHEN": {"A": 1}, "SEED": 2}]},
    "grid": {"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [1.0, 2.0]}, "SEEDS": [1]},
}
YAML_READERS = {
    "config": lambda path: load_config(path, [], FAMILIES),
    "card": lambda path: load_card(str(path)),
    "benchmark": lambda path: load_cells(path),
    "grid": lambda path: load_search(path).settings(),
}


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("kind", YAML_READERS)
@fuzzed
@given(content=yaml_texts)
def test_yaml(scratch, kind, content):
    path = scratch / f"{kind}.yaml"
    path.write_bytes(content)
    refused(path, YAML_READERS[kind])


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("kind", YAML_READERS)
@fuzzed
@given(path=st.lists(st.integers(0, 20), min_size=1, max_size=4), value=values)
def test_yaml_with_one_wrong_value(scratch, kind, path, value):
    file = scratch / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(GOOD[kind]))
    assert not refused(file, YAML_READERS[kind])
    text = yaml.safe_dump(changed(GOOD[kind], path, value), allow_unicode=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(file, YAML_READERS[kind])


@pytest.mark.fault("memory")
@pytest.mark.parametrize("kind", YAML_READERS)
def test_yaml_bombs_are_refused(scratch, kind):
    path = scratch / f"{kind}.yaml"
    laughs = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 30))
    lists = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
    bombs = [
        f"a0: &a0 {{k: 1}}\n{laughs}",
        f"a0: &a0 [1]\n{lists}\nRUNS: {{a: {{CONFIG: a}}}}\nGRID: {{a: *a29}}",
        "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "a: &a [*a]",
        "x" * (2 << 20),
    ]
    for bomb in [
        *bombs,
        "a: !!python/object/apply:os.abort []",
        "? [a]\n: b",
        "a: 1" + "0" * 5000,
        "a: 59" + ":59" * 3000,
        'a: "\\0"',
    ]:
        path.write_text(bomb)
        assert refused(path, YAML_READERS[kind]), bomb[:40]


@pytest.mark.fault("parsing")
@fuzzed
@given(content=st.binary(max_size=40) | values.map(json.dumps).map(str.encode))
def test_json(scratch, content):
    path = scratch / "stream.json"
    path.write_bytes(content)
    refused(path, lambda file: check_identity({"stream.json": read_json(file)}, {"stream.json": {"a": 1}}))


@fuzzed
@given(lines_of_rows=st.lists(json_texts, max_size=4))
def test_metrics(scratch, lines_of_rows):
    path = scratch / "metrics.jsonl"
    path.write_bytes(b"\n".join([*lines_of_rows, b'{"step": 3}', b""]))
    assert metrics_file.read_rows(path)[-1] == {"step": 3}


RESULT = {"accuracy": 60.0, "method": "l2p", "family": "vpt", "backbone": "b", "dataset": "d", "seed": 1, "options": {}}
RESULT |= {"classes": ["a", "b"], "n": 2, "test_hash": "t", "protocol": {"SOURCE": "", "SHOTS": 1}, "bad_pictures": 1}
RESULT |= {"continual": {"JOINT": False}, "matrix": [[9], [8, 7]], "tasks": [{"name": "1"}, {"name": "2"}], "shots": 2}


@fuzzed
@given(place=st.lists(st.integers(0, 40), min_size=1, max_size=3), value=values, text=st.none() | json_texts)
def test_results_in_a_report(scratch, place, value, text):
    path = scratch / "runs/result.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(json.dumps(changed(RESULT, place, value)).encode() if text is None else text)
    refused(path, lambda file: markdown_of(load_report(file.parent)))


def markdown_of(report):
    return "".join(map(markdown, report.tables))
