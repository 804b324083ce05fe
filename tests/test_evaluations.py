"""An evaluation beside a run names the run and what was evaluated, and no other takes its place."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from promptvision.engine.results.evaluation_file import stored_evaluations
from promptvision.report.report import load_report

ROOT = Path(__file__).parents[1]
COOP, LINEAR = ROOT / "configs/coop/embedded.yaml", ROOT / "configs/vpt/embedded_linear.yaml"
COLOURS = {"green": (30, 200, 30), "red": (200, 30, 30)}


def write_images(folder, seed, count=4):
    """Write a class folder per colour, whose images have the same names in every dataset."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([seed, index]).integers(-25, 25, (32, 32, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Datasets `one` and `two` with the same names of files, as folders, as lists, and as cards of one name."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("one", "two")):
        write_images(root / name, seed)
        rows = [f"{colour}/{index}.png,{colour},test" for colour in COLOURS for index in range(4)]
        (root / name / "list.csv").write_text("\n".join(["path,label,split", *rows]))
        write_images(root / f"card_{name}/colours/images", seed)
        lists = {
            split: [[f"{colour}/{number}.png", label, colour] for label, colour in enumerate(COLOURS)]
            for number, split in enumerate(("train", "val", "test"))
        }
        (root / f"card_{name}/colours/split.json").write_text(json.dumps(lists))
        card = dict.fromkeys(("title", "source", "licence", "where", "template"), "-") | {"reader": "coop_split"}
        card |= {"classes": 2, "folders": ["colours"], "images": "images", "split": "split.json", "template": "a {}."}
        (root / f"card_{name}/colours.yaml").write_text(yaml.safe_dump(card))
    return root


@pytest.fixture
def run(tool, data, tmp_path):
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", data / "one", "DATASET.SHOTS", "0", "OPTIM.EPOCHS", "5"]
    status, _, err = tool("train", "--config", LINEAR, *words, "OUTPUT_DIR", tmp_path / "run")
    assert status == 0, err
    return tmp_path / "run"


def stored(folder):
    """Return {name: content} of the evaluations in a folder."""
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("eval-*.json"))}


def folder_of(data, name):
    return ["DATASET.NAME", "folder", "DATASET.ROOT", data / name]


OTHERS = {
    "images": lambda data: (folder_of(data, "one"), folder_of(data, "two")),
    "lists": lambda data: [
        ["DATASET.NAME", "list", "DATASET.ROOT", data / name / "list.csv"] for name in ("one", "two")
    ],
    "cards": lambda data: [
        ["DATASET.NAME", data / f"card_{name}/colours.yaml", "DATASET.ROOT", data / f"card_{name}"]
        for name in ("one", "two")
    ],
    "transform": lambda data: ([], ["INPUT.TEST", "fgvc"]),
    "size": lambda data: ([], ["INPUT.SIZE", "32", "INPUT.MEAN", "[0.4, 0.4, 0.4]"]),
    "precision": lambda data: ([], ["TRAIN.PRECISION", "bf16"]),
    "exif": lambda data: ([], ["INPUT.EXIF", "apply"]),
    "method": lambda data: ([], ["METHOD.OPTIONS.HEAD_DROPOUT", "0.2"]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_evaluation_gets_another_file(tool, data, run, what):
    first, second = OTHERS[what](data)
    status, _, err = tool("eval", "--run", run, *first)
    assert status == 0, err
    before = stored(run)
    status, out, err = tool("eval", "--run", run, *second)
    assert status == 0, err
    after = stored(run)
    [name] = before
    [added] = after.keys() - before
    assert after[name] == before[name] and added.startswith(Path(name).stem)
    assert Path(added).stem.removeprefix("eval-") in out
    for words in (first, second, [*second, "TRAIN.WORKERS", "1", "COMPUTE.CHUNK", "3"]):
        status, _, err = tool("eval", "--run", run, *words)
        assert status == 0, err
        assert stored(run).keys() == after.keys()


def test_other_labels_of_the_same_images_are_another_evaluation(tool, data, run, tmp_path):
    shutil.copytree(data / "one", tmp_path / "list")
    rows = (data / "one/list.csv").read_text().replace("/0.png,green", "/0.png,red")
    (tmp_path / "list/other.csv").write_text(rows)
    for name in ("list.csv", "other.csv"):
        assert tool("eval", "--run", run, "DATASET.NAME", "list", "DATASET.ROOT", tmp_path / "list" / name)[0] == 0
    assert len(stored(run)) == 2


def test_an_evaluation_of_another_run_is_ignored_with_a_remark_and_kept(tool, data, run, tmp_path):
    assert tool("eval", "--run", run, *folder_of(data, "two"))[0] == 0
    [(name, first)] = stored(run).items()
    place = name.removeprefix("eval-").removesuffix(".json")
    report = load_report(run)
    assert report.runs[0].evals[place] == {**first, "dataset": "folder (two)"} and not any(
        "left out" in remark for remark in report.remarks
    )
    words = [*folder_of(data, "one"), "DATASET.SHOTS", "0", "OPTIM.EPOCHS", "6", "OUTPUT_DIR", tmp_path / "other"]
    assert tool("train", "--config", LINEAR, *words)[0] == 0
    shutil.copy(run / name, tmp_path / "other")
    report = load_report(tmp_path / "other")
    assert report.runs[0].evals == {}
    assert f"{tmp_path / 'other' / name} is left out: it evaluates another run" in " ".join(report.remarks)
    status, _, err = tool("report", tmp_path / "other")
    assert status == 0 and "it evaluates another run" in err
    assert tool("eval", "--run", tmp_path / "other", *folder_of(data, "two"))[0] == 0
    found = stored(tmp_path / "other")
    assert len(found) == 2 and found[name] == first
    assert len(load_report(tmp_path / "other").runs[0].evals) == 1


def test_a_run_whose_learned_tensors_changed_has_no_evaluation(tool, data, run):
    assert tool("eval", "--run", run)[0] == 0
    content = (run / "learned.safetensors").read_bytes()
    (run / "learned.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    report = load_report(run)
    assert report.runs[0].evals == {} and "evaluates another run" in " ".join(report.remarks)


def test_an_evaluation_is_used_where_nothing_contradicts_it(tool, data, run):
    """Written by an older version, or without the tensors of its run, as in a copy for a report."""
    assert tool("eval", "--run", run)[0] == 0
    [(name, found)] = stored(run).items()
    (run / name).write_text(json.dumps({key: value for key, value in found.items() if not key.endswith("n_hash")}))
    assert load_report(run).runs[0].evals
    (run / name).write_text(json.dumps(found))
    (run / "learned.safetensors").unlink()
    assert load_report(run).runs[0].evals


def test_an_older_or_damaged_file_is_kept(tool, run):
    for text in ("{}", "[1]", '{"accuracy": 1', ""):
        (run / "eval-folder-all-test.json").write_text(text)
        assert tool("eval", "--run", run)[0] == 0
        assert (run / "eval-folder-all-test.json").read_text() == text
    assert len(list(run.glob("eval-*.json"))) == 2


def test_the_name_of_an_evaluation_is_no_pattern(tmp_path):
    for name in ("eval-a.json", "eval-[a].json"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    assert [each["name"] for each in stored_evaluations(tmp_path, "[a]")] == ["eval-[a].json"]


def test_two_tests_on_one_dataset_have_a_column_each(write_run, tmp_path):
    """The average is over the datasets, each with its first test."""
    tests = {"dtd": {"dataset": "dtd", "accuracy": 50.0}, "food": {"dataset": "food101", "accuracy": 70.0}}
    tests["dtd-1a2b"] = {"dataset": "dtd", "accuracy": 10.0}
    for seed in (1, 2):
        write_run(
            f"run/seed{seed}",
            dataset="imagenet",
            seed=seed,
            evals={k: {**v, "classes": ["c"]} for k, v in tests.items()},
        )
    [section] = load_report(tmp_path / "out").sections
    scores = {name: score.mean for name, score in section.rows[0].scores.items()}
    assert scores["dtd"] == 50 and scores["dtd, tested as dtd-1a2b"] == 10 and scores["average"] == 60


def test_two_tests_on_new_classes_have_a_column_each(write_run, tmp_path):
    tests = {"new": {"accuracy": 50.0}, "new-1a2b": {"accuracy": 10.0}}
    write_run("run", class_subset="base", evals={k: {**v, "class_subset": "new"} for k, v in tests.items()})
    [section] = load_report(tmp_path / "out").sections
    scores = {name: score.mean for name, score in section.rows[0].scores.items()}
    assert (scores["new"], scores["new, tested as new-1a2b"]) == (50, 10)


def test_a_sweep_with_other_tests_keeps_the_earlier_ones(tool, data, tmp_path):
    rows = {"words": {"CONFIG": str(COOP), "OPTIM.EPOCHS": 1, "DATASET.SHOTS": 2}}
    words = ["--config", tmp_path / "b.yaml", "--output", tmp_path / "out", *folder_of(data, "one")]

    def sweep(**test):
        (tmp_path / "b.yaml").write_text(json.dumps({"RUNS": rows, "EVAL": {"again": test}}))
        status, _, err = tool("sweep", *words)
        assert status == 0, err
        return stored(tmp_path / "out/words/seed1")

    first = sweep(**{"INPUT.TEST": "fgvc"})
    second = sweep(**{"INPUT.TEST": "vtab"})
    assert first.items() < second.items() and len(second) == 2
    assert sweep(**{"INPUT.TEST": "fgvc"}) == sweep(**{"INPUT.TEST": "vtab"}) == second


def test_keys_that_only_training_reads_are_named(tool, run):
    status, _, err = tool("eval", "--run", run, "OPTIM.LR", 3, "TRAIN.WORKERS", 1)
    assert status == 0 and "warning: OPTIM.LR: only training reads OPTIM; the run is tested as it is" in err
