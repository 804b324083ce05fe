"""Planning a sweep of many runs and tests: each file is parsed once, and finished runs are recognised by their text."""

import json
from pathlib import Path

import pytest
import yaml

import coop
import vpt
from promptvision.atomic import file_hash
from promptvision.config import dump, load_config, read_files
from promptvision.safe_yaml import PlainLoader
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.completed import config_hash
from promptvision.sweep.jobs import done, plan, refuse_others

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
CONFIGS = {"CoOp": "coop/vit_b16_ctxv1.yaml", "VPT": "vpt/vit_b16_deep.yaml"}
CONTENT = {
    "RUNS": {name: {"CONFIG": str(ROOT / "configs" / config)} for name, config in CONFIGS.items()},
    "GRID": {"OPTIM.LR": [0.001, 0.002, 0.003], "DATASET.SHOTS": [1, 2]},
    "SEEDS": [1, 2],
    "EVAL": {"dtd": {"DATASET.NAME": "dtd"}, "new": {"DATASET.CLASSES": "new"}},
}


@pytest.fixture
def parsed(monkeypatch):
    """Marks of the YAML texts that were parsed so far."""
    found, parse = [], PlainLoader.get_single_node

    def counting(loader):
        found.append(loader.get_mark())
        return parse(loader)

    monkeypatch.setattr(PlainLoader, "get_single_node", counting)
    return found


@pytest.fixture
def planned(tmp_path):
    """`planned(comment)` plans the grid from a file of a text of its own."""

    def make(comment=""):
        path = tmp_path / "benchmark.yaml"
        path.write_text(f"# {comment}\n{yaml.safe_dump(CONTENT)}")
        return plan(load_cells(path), tmp_path / "out", [], FAMILIES)

    return make


def test_a_grid_parses_each_file_once_and_plans_what_its_files_say(planned, parsed):
    jobs = planned("once")
    files = {source for config in CONFIGS.values() for source, _ in read_files(ROOT / "configs" / config)}
    assert sum(job.runs for job in jobs) == 72 and len(parsed) <= 1 + len(files)
    job = jobs[-1]
    words = ["OPTIM.LR", 0.003, "DATASET.SHOTS", 2, "SEED", 2, "OUTPUT_DIR", job.cfg.OUTPUT_DIR]
    assert job.cfg == load_config(ROOT / "configs" / CONFIGS["VPT"], words, FAMILIES)
    assert job.evals["dtd"] == load_config(ROOT / "configs" / CONFIGS["VPT"], [*words, "DATASET.NAME", "dtd"], FAMILIES)
    assert job.cfg.is_frozen() and job.cfg.OPTIM.is_frozen() and jobs[-2].cfg.SEED == 1


def test_files_that_change_are_parsed_again(planned, tmp_path):
    planned("first")
    base = tmp_path / "base.yaml"
    base.write_text("OPTIM: {LR: 0.5}")
    row = {"CONFIG": str(base), "METHOD.NAME": "coop"}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"RUNS": {"row": row}}))
    for rate in (0.5, 0.6):
        base.write_text(f"OPTIM: {{LR: {rate}}}")
        (job,) = plan(load_cells(tmp_path / "b.yaml"), tmp_path / "out", [], FAMILIES)
        assert rate == job.cfg.OPTIM.LR


def test_finished_runs_are_known_without_parsing_their_configs(planned, parsed):
    jobs = planned("finished")
    for job in jobs:
        folder = Path(job.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(job.cfg))
        (folder / "result.json").write_text(json.dumps({"accuracy": 1.0}))
        (folder / "learned.safetensors").write_bytes(b"")
        run = file_hash(folder / "learned.safetensors")
        for name, cfg in job.evals.items():
            (folder / f"eval-{name}.json").write_text(json.dumps({"config_hash": config_hash(cfg), "run_hash": run}))
    parsed.clear()
    refuse_others(jobs)
    assert all(done(job) for job in jobs) and not parsed
    changed = Path(jobs[0].cfg.OUTPUT_DIR, "config.yaml")
    changed.write_text(changed.read_text().replace("LR: 0.001", "LR: 0.5"))
    assert done(jobs[0]) is None and done(jobs[1])
