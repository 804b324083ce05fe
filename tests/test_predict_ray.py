"""Predictions on a Ray cluster: one part per shard or block of images, and a killed actor loses and doubles nothing."""

import json
import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_shards import shard

from promptvision.config.families import FAMILIES
from promptvision.engine.cluster import actors_for
from promptvision.errors import InputError
from promptvision.experiment.predict import read_batches
from promptvision.experiment.prediction import inputs
from promptvision.experiment.prediction.cluster import Cluster, Read, predict_on_cluster
from promptvision.experiment.prediction.inputs import ImageList, find_images
from promptvision.experiment.prediction.output import Output, plan_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 30 images, one of which is broken, a shard of 50, and one that is cut short."""
    root = tmp_path_factory.mktemp("photos")
    stream = np.random.default_rng(0)
    for number in range(80):
        Image.fromarray(stream.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(root / f"{number:03d}.png")
    shard(root / "s.tar", {path.name: path.read_bytes() for path in sorted(root.glob("*.png"))[30:]})
    (root / "torn.tar").write_bytes((root / "s.tar").read_bytes()[:-11000])
    for path in sorted(root.glob("*.png"))[30:]:
        path.unlink()
    (root / "007.png").write_bytes(b"no image")
    return root


def descendants(pid):
    """Command lines of the processes below one, by number."""
    found, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue

    def below(number):
        return number == pid or (number in parents and below(parents[number]))

    return {number: line for number, line in found.items() if number != pid and below(number)}


@pytest.mark.slow
@pytest.mark.fault("files")
def test_a_killed_actor_loses_and_doubles_nothing(tool, trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "PART", 4)
    folder, cfg = trained
    images = find_images([str(photos)], inside=False)
    killed, readers = [], set()
    with Output(tmp_path / "out", plan_of(folder, 3, images)) as output:
        for _ in predict_on_cluster(cfg, FAMILIES, folder, images, output, Cluster("local")):
            below = descendants(os.getpid())
            readers |= {line for line in below.values() if "Read" in line}
            if not killed:
                killed = [pid for pid, line in below.items() if "Classify" in line]
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
        assert len(images.parts()) == 10 and output.missing(10) == []
    assert len(killed) == 1 and not [line for line in readers if "Classify" in line], "each waits for the other"
    words = ["--run", folder, photos, "--top", "3", "--output"]
    status, _, err = tool("predict", *words, tmp_path / "here.jsonl")
    assert status == 2 and "007.png cannot be read" in err and "torn.tar cannot be read" in err
    here = [json.loads(line) for line in (tmp_path / "here.jsonl").read_text().splitlines()]
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert len(found) == 30 + 50 + 1 and [row["path"] for row in found] == [row["path"] for row in here]
    for ours, theirs in zip(found, here, strict=True):
        assert ours["labels"] == theirs["labels"] and ours["error"] == theirs["error"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)
    assert [len(pq.read_table(part)) for part in sorted((tmp_path / "out").glob("part-*"))] == [*[4] * 7, 2, 50, 1]


def test_errors_are_those_without_ray(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    names = ["007.png", "torn.tar", "missing.png"]
    (here,) = read_batches(ImageList(names), None, 8, [range(3)])
    monkeypatch.chdir(tmp_path)
    (there,) = Read(None, 8, str(photos))({"part": [0], "entries": [pickle.dumps(names)]})
    _, faults, _ = pickle.loads(there["data"][0])
    assert faults == here.faults and faults[0].startswith("image 007.png cannot be read")


MACHINES = {"CPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("gpus", "wanted", "actors"), [(0, 0, 5), (0, 5, 5), (0, 1, 1), (1, 0, 2), (0.5, 0, 4), (2, 0, 1), (0.5, 3, 3)]
)
def test_actors_leave_room_for_reading(gpus, wanted, actors):
    assert actors_for(MACHINES, gpus, wanted) == actors
    assert actors_for([{"CPU": 2.0}], 0) == 1


@pytest.mark.parametrize(
    ("machines", "gpus", "wanted", "sentence"),
    [
        ([{"CPU": 2.0}], 0, 2, "--actors 2: the cluster has 2 CPUs and 0 GPUs, which is room for 1: each needs a CPU"),
        ([{"CPU": 1.0}], 0, 0, "--ray: the cluster has 1 CPU and 0 GPUs, which is no room for an actor"),
        (MACHINES, 4, 0, "6 CPUs and 2 GPUs, which is no room for an actor: each needs a CPU and 4 GPUs on one mach"),
        (MACHINES, 1, 3, "--actors 3: the cluster has 6 CPUs and 2 GPUs, which is room for 2"),
    ],
)
def test_an_impossible_plan_is_one_sentence(machines, gpus, wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        actors_for(machines, gpus, wanted)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ray", "local"], "--ray writes predictions: name a folder or file for them by --output"),
        (["--gpus", "1"], "--gpus and --actors are for a cluster: name it by --ray"),
        (
            ["--ray", "local", "--output", "o", "--gpus", "1.5"],
            "argument --gpus: '1.5' is neither a whole number nor the share",
        ),
        (
            ["--ray", "local", "--output", "o", "--gpus", "nan"],
            "argument --gpus: 'nan' is neither a whole number nor the share of one",
        ),
        (["--ray", "127.0.0.1:1", "--output", "o"], "--ray 127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_a_wrong_call_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    status, _, err = tool("predict", "--run", trained[0], photos / "000.png", *words)
    assert status == 2 and f"error: {sentence}" in err


def test_ray_without_its_data_packages_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    words = ["--run", trained[0], photos / "000.png", "--ray", "local", "--output", tmp_path / "o"]
    status, _, err = tool("predict", *words)
    assert status == 2 and "error: --ray needs Ray Data: pip install 'promptvision[ray]'" in err
