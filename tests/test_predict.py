"""Predictions at any scale: one row per image, in files that survive a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from own_images import noise_folders
from test_shards import shard

from promptvision.config.families import FAMILIES
from promptvision.experiment.predict import predict_images
from promptvision.experiment.prediction.inputs import find_images
from promptvision.experiment.run import load_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return noise_folders(tmp_path_factory.mktemp("photos"))


SMALL = "import runpy, sys; from promptvision.experiment.prediction import inputs; inputs.PART = 20; "
SMALL += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""A tool whose parts have 20 images."""


def rows_of(trained, names, **options):
    folder, cfg = trained
    images = find_images([str(name) for name in names])
    batches = list(predict_images(cfg, load_run(cfg, FAMILIES, folder), images, 3, **options))
    return [[(each.path, each.top, each.error) for each in batch] for batch in batches]


def test_workers_and_shards_change_nothing(trained, photos, tmp_path):
    here = rows_of(trained, [photos / "a"])
    assert [len(batch) for batch in here] == [8] * 7 + [4]
    assert rows_of(trained, [photos / "a"], workers=2) == here
    shard(tmp_path / "a.tar", {path.name: path.read_bytes() for path in sorted((photos / "a").iterdir())})
    packed = rows_of(trained, [tmp_path / "a.tar"])
    assert [[row[1] for row in batch] for batch in packed] == [[row[1] for row in batch] for batch in here]


def test_a_batch_is_yielded_before_the_next_one_is_read(trained, photos, tmp_path):
    for path in sorted((photos / "a").iterdir())[:16]:
        (tmp_path / path.name).symlink_to(path)
    folder, cfg = trained
    batches = predict_images(cfg, load_run(cfg, FAMILIES, folder), find_images([str(tmp_path)]), 1)
    assert not any(row.error for row in next(batches))
    for path in tmp_path.iterdir():
        path.unlink()
    assert all("No such file" in row.error for row in next(batches))


def test_broken_images_are_named_briefly_and_stop_no_other(tool, trained, photos, tmp_path):
    for number in range(25):
        (tmp_path / f"torn{number:02d}.png").write_bytes(b"no image")
    words = ["--run", trained[0], tmp_path, photos / "b", "--top", "1"]
    status, out, err = tool("predict", *words, "--json")
    assert status == 2 and len(out.splitlines()) == 45 and {*json.loads(out.splitlines()[0])} == {"picture", "top"}
    assert err.count("error: image") == 20 and err.endswith("error: and 5 more")
    status, out, err = tool("predict", *words, "--output", tmp_path / "out.csv")
    assert status == 2 and err.endswith("error: and 5 more")
    table = list(csv.reader((tmp_path / "out.csv").open(newline="")))
    assert len(table) == 71 and all(cells[1] == "" and "cannot be read" in cells[-1] for cells in table[1:26])


def test_three_formats_hold_the_same_rows(tool, trained, photos, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("=1+1.png", "a.png"):
        (tmp_path / "in" / name).write_bytes((photos / "a/000.png").read_bytes())
    (tmp_path / "in/z.png").write_bytes(b"no image")
    here = rows_of(trained, [tmp_path / "in"])[0]
    for name in ("o.jsonl", "o.csv", "o.parquet", "folder"):
        words = ["--run", trained[0], tmp_path / "in", "--top", "3", "--output", tmp_path / name]
        assert tool("predict", *words)[0] == 2, name
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [path for path, _, _ in here]
    assert lines[0]["labels"] == [name for name, _ in here[0][1]] and lines[0]["label"] == lines[0]["labels"][0]
    assert np.float32(lines[0]["probabilities"]).tolist() == [value for _, value in here[0][1]]
    assert lines[2]["label"] is None and "cannot be read" in lines[2]["error"] and lines[0]["error"] is None
    tables = [pq.read_table(tmp_path / name).to_pylist() for name in ("o.parquet", "folder")]
    assert (
        tables[0]
        == tables[1]
        == [
            {**line, "probability": rounded[0] if rounded else None, "probabilities": rounded}
            for line in lines
            for rounded in [np.float32(line["probabilities"]).tolist()]
        ]
    )
    cells = list(csv.reader((tmp_path / "o.csv").open(newline="")))
    assert cells[0] == ["path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "error"]
    assert [float(cell) for cell in cells[1][2:8:2]] == lines[0]["probabilities"] and cells[1][1] == lines[0]["label"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "in", "o.csv", "o.jsonl", "o.parquet"]


def test_no_cell_is_a_formula(tool, trained, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("=1+1.png").write_bytes((photos / "a/000.png").read_bytes())
    assert tool("predict", "--run", trained[0], "=1+1.png", "--output", "o.csv")[0] == 0
    assert Path("o.csv").read_text().splitlines()[1].startswith("'=1+1.png,")


def call(*words):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SMALL, str(ROOT / "tools/predict.py"), *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.fault("files")
@pytest.mark.parametrize("name", ["o.csv", "o.parquet", "folder"])
def test_killed_and_resumed_is_as_if_undisturbed(trained, photos, tmp_path, name):
    (photos / "a/torn.png").write_bytes(b"no image")
    words = ["--run", trained[0], photos, "--output"]
    undisturbed = call(*words, tmp_path / f"whole{Path(name).suffix}")
    assert "torn.png" in undisturbed.communicate()[1] and undisturbed.returncode == 2
    parts = tmp_path / (f"{name}.parts" if "." in name else name)
    process = call(*words, tmp_path / name)
    while len(list(parts.glob("part-*"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert 2 <= len(finished) < 6 and process.returncode == -signal.SIGKILL
    resumed = call(*words, tmp_path / name, "--resume")
    assert "torn.png" in resumed.communicate()[1] and resumed.returncode == 2
    (photos / "a/torn.png").unlink()
    whole = tmp_path / f"whole{Path(name).suffix}"
    if "." in name:
        assert (tmp_path / name).read_bytes() == whole.read_bytes() and not parts.exists()
        return
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert [(path.name, path.read_bytes()) for path in sorted(parts.glob("part-*"))] == [
        (path.name, path.read_bytes()) for path in sorted(whole.glob("part-*"))
    ]


def test_parts_of_something_else_are_refused(tool, trained, photos, tmp_path):
    def predict(*words, run=trained[0]):
        status, _, err = tool("predict", "--run", run, *words, "--output", tmp_path / "out")
        return err if status else ""

    assert predict(photos / "a") == "" == predict(photos / "a", "--resume")
    assert "out holds predictions: continue them with --resume, or delete it" in predict(photos / "a")
    for words, what in (([photos / "b"], "other images"), ([photos / "a", "--top", "2"], "another --top")):
        assert f"out holds predictions of {what}: choose another --output, or delete it" in predict(*words, "--resume")
    other = tmp_path / "other"
    other.mkdir()
    for path in trained[0].iterdir():
        if path.is_file() and path.name != ".lock":
            (other / path.name).write_bytes(path.read_bytes())
    assert predict(photos / "a", "--resume", run=other) == "", "the same run in another place"
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("BATCH_SIZE: 8", "BATCH_SIZE: 9"))
    assert "predictions of another run" in predict(photos / "a", "--resume", run=other)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "o.xlsx"], "unknown format of --output '.xlsx'; one of: .csv, .jsonl, .parquet"),
        (["--output", "o.jsn"], "unknown format of --output '.jsn'; did you mean '.jsonl'"),
        (["--output", "taken.csv"], "--output taken.csv exists: choose another one, or delete it"),
        (["--output", "full"], "--output full holds other files: choose another one"),
        (["--output", "taken.csv/o.csv"], "taken.csv/o.csv.parts cannot be written: Not a directory"),
        (["--resume"], "--resume continues the --output of an earlier call: name it"),
        (["--workers", "-1"], "argument --workers: '-1' is no whole number from 0 on"),
    ],
)
def test_a_wrong_output_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("taken.csv").touch()
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    status, _, err = tool("predict", "--run", trained[0], photos / "a/000.png", *words)
    assert (status, err) == (2, f"error: {sentence}") or (status == 2 and sentence in err), err
    assert not [path for path in tmp_path.iterdir() if path.name not in ("taken.csv", "full")]


def test_parquet_without_pyarrow_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pyarrow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = tool("predict", "--run", trained[0], photos / "a", "--output", tmp_path / "o.parquet")
    assert status == 2 and "o.parquet needs pyarrow: pip install 'promptvision[parquet]'" in err
