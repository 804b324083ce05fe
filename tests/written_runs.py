"""Fixtures that write folders of runs, for tests of reports."""

import functools
import json

import pytest
import yaml

from promptvision.report.report import load_report

COOP_OPTIONS = {"N_CTX": 16, "CSC": False, "CLASS_TOKEN_POSITION": "end", "CTX_INIT": ""}
COOP_CONFIG = {
    "OPTIM.NAME": "sgd",
    "OPTIM.LR": 0.002,
    "OPTIM.BATCH_SIZE": 32,
    "OPTIM.SCHEDULE": "cosine",
    "OPTIM.WEIGHT_DECAY": 0.0005,
    "OPTIM.EPOCHS": 200,
    "TRAIN.PRECISION": "fp16",
}
"""CoOp's few-shot runs at 16 shots; published with RN50 on DTD: 63.58."""


@pytest.fixture
def write_run(tmp_path, write_run_in):
    """`write_run_in` of tmp_path / "out"."""
    return functools.partial(write_run_in, tmp_path / "out")


@pytest.fixture(scope="session")
def write_run_in():
    """`write_run_in(root, "dtd/seed1", accuracy=60.0, seed=1, evals={"new": {...}})` writes a run folder below `root`.

    `options` go into METHOD.OPTIONS, `config` {KEY: value} into its config, all else into its result.json.
    """

    def write(root, name, *, options=None, config=None, evals=None, **changes):
        folder = root / name
        folder.mkdir(parents=True)
        result = {**REPORTED, "options": options or {}, **changes}
        result["per_class_mean"] = changes.get("per_class_mean", result["accuracy"])
        protocol = {"SHOTS": result["shots"], "CLASSES": result["class_subset"], "VALIDATION": "own"}
        result["protocol"] = {**protocol, "SOURCE": "", "TARGET": "", "HELD_OUT": 0.0, **changes.get("protocol", {})}
        result.setdefault("train_hash", f"{result['dataset']}{result['shots']}{result['class_subset']}{result['seed']}")
        (folder / "result.json").write_text(json.dumps(result))
        for place, test in (evals or {}).items():
            (folder / f"eval-{place}.json").write_text(json.dumps({**result, "test_hash": place, **test}))
        settings = {"DATASET": {**result["protocol"], "NAME": result["dataset"]}, "SEED": result["seed"]}
        settings["METHOD"] = {"FAMILY": result["family"], "NAME": result["method"], "OPTIONS": result["options"]}
        settings |= {"BACKBONE": {"NAME": result["backbone"], "PRETRAINED": "default"}}
        for key, value in (config or {}).items():
            section, _, rest = key.partition(".")
            settings.setdefault(section, {})[rest] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
        (folder / "log.txt").write_text("2026-01-01 INFO training\n")
        rows = [{"step": n, "epoch": n, "loss": 2.0 / (n + 1), "lr": 0.1} for n in range(5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


REPORTED = {
    "family": "coop",
    "method": "coop",
    "backbone": "ViT-B-16",
    "dataset": "dtd",
    "class_subset": "all",
    "shots": 16,
    "seed": 1,
    "classes": ["a", "b"],
    "split": "test",
    "n": 1692,
    "accuracy": 60.0,
    "macro_f1": 59.0,
    "ece": 5.0,
    "seconds": 2.0,
    "learned_parameters": 2048,
    "backbone_parameters": 1_000_000,
    "peak_memory_bytes": 2**30,
    "test_hash": "t",
    "precision": "fp32",
    "train_transform": "coop",
    "test_transform": "coop",
    "train_views": 0,
    "image_size": 224,
}
"""Fields of a result.json that a report reads."""


@pytest.fixture
def coop_runs(write_run):
    def write(accuracies=(63.0, 63.5, 64.0), config=None, **changes):
        for seed, accuracy in enumerate(accuracies, 1):
            write_run(
                f"{changes.get('dataset', 'dtd')}{seed}",
                seed=seed,
                accuracy=accuracy,
                options=COOP_OPTIONS,
                config={**COOP_CONFIG, **(config or {})},
                backbone=changes.pop("backbone", None) or backbone[0],
                **changes,
            )

    backbone = ["RN50"]
    return write


@pytest.fixture
def compared(tmp_path):
    """The table against the literature, as [{column: text}], and its notes."""

    def load():
        tables = [table for table in load_report(tmp_path / "out").tables if "literature" in table.title]
        assert len(tables) == 1
        names = [column.name for column in tables[0].columns]
        return [dict(zip(names, (e.text for e in row), strict=True)) for row in tables[0].rows], tables[0].notes

    return load
