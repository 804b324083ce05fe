"""Options of `predict`: a threshold, other classes, and accuracy by the names of folders."""

import csv
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import promptvision
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.deploy.folder_labels import FolderLabels
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.prediction.cluster import Classify, Read
from promptvision.experiment.prediction.inputs import find_images
from promptvision.experiment.prediction.output import plan_of
from promptvision.experiment.run import load_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four images of noise in each of `zero`, `one` and `other`, and one beside them."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(13):
        folder = root / ("zero", "one", "other", ".")[number // 4]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def best(trained, photos):
    """{path: (class, probability)} of every image."""
    paths = sorted(map(str, photos.rglob("*.png")))
    return dict(zip(paths, [one[0] for one in promptvision.load(trained[0])(paths, top=1)], strict=True))


@pytest.fixture(scope="module")
def middle(best):
    """A threshold that all but six images reach."""
    return sum(sorted(value for _, value in best.values())[5:7]) / 2


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def test_images_below_the_threshold_are_unsure_in_every_format(tool, trained, photos, best, middle, tmp_path):
    words = ["--run", trained[0], photos, "--top", "2", "--threshold", middle]
    status, out, _ = tool("predict", *words, "--json")
    labels = {path: name if value >= middle else "unsure" for path, (name, value) in best.items()}
    assert status == 0 and {row["picture"]: row["label"] for row in lines(out)} == labels
    assert sum(label == "unsure" for label in labels.values()) == 6
    assert tool("predict", *words)[1].count("│ unsure: ") == 6
    for name in ("o.jsonl", "o.csv", "o.parquet"):
        assert tool("predict", *words, "--output", tmp_path / name)[0] == 0
    assert {row["path"]: row["label"] for row in lines((tmp_path / "o.jsonl").read_text())} == labels
    rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert {row["path"]: row["label"] for row in rows} == labels
    assert {row["path"]: row["labels"][0] for row in rows} == {path: name for path, (name, _) in best.items()}
    rows = list(csv.DictReader((tmp_path / "o.csv").open(newline="")))
    assert [*rows[0]] == ["path", "label", "probability", "label_1", "label_2", "probability_2", "error"]
    assert {row["path"]: row["label"] for row in rows} == labels
    assert {row["path"]: row["label_1"] for row in rows} == {path: name for path, (name, _) in best.items()}


def test_a_broken_image_is_neither_sure_nor_unsure(tool, trained, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no image")
    words = ["--run", trained[0], tmp_path / "torn.png", "--threshold", "0.9", "--output", tmp_path / "o.csv"]
    assert tool("predict", *words)[0] == 2
    (row,) = csv.DictReader((tmp_path / "o.csv").open(newline=""))
    assert row["label"] == row["label_1"] == "" and "cannot be read" in row["error"]


def test_labels_are_used_where_folders_are_called_like_classes(tool, trained, photos, best, middle, tmp_path):
    true = {path: name for path in best for name in ("zero", "one") if f"/{name}/" in path}
    right = sum(best[path][0] == name for path, name in true.items())
    assert 0 < right < 8
    sentence = f"8 of 13 images in folders named after classes: accuracy {100 * right / 8:.1f} %, mistakes:"
    status, out, err = tool("predict", "--run", trained[0], photos)
    wrong = [f"  {path}: {best[path][0]}" for path, name in true.items() if best[path][0] != name]
    assert status == 0 and sentence in out and sorted(out.splitlines()[-len(wrong) :]) == sorted(wrong)
    out, err = tool("predict", "--run", trained[0], photos, "--json")[1:]
    assert len(lines(out)) == 13 and sentence in err, "what programs read holds rows only"
    for name in ("o.csv", "folder"):
        assert sentence in tool("predict", "--run", trained[0], photos, "--output", tmp_path / name)[1]
    assert sentence in tool("predict", "--run", trained[0], photos, "--output", tmp_path / "folder", "--resume")[1]
    sure = {path: name for path, name in true.items() if best[path][1] >= middle}
    of_sure = 100 * sum(best[path][0] == name for path, name in sure.items()) / len(sure)
    sentence = f", {8 - len(sure)} of them unsure: accuracy of the others {of_sure:.1f} %"
    assert sentence in tool("predict", "--run", trained[0], photos, "--threshold", middle)[1]
    assert "named after classes" not in tool("predict", "--run", trained[0], photos / "other")[1]


def test_folders_in_shards_and_with_blanks_are_labels():
    labels = FolderLabels(["golden_retriever", "cat"])
    for path in ("x/golden retriever/1.png", "s.tar/golden_retriever/1.png", "cat.png", "x/cats/1.png"):
        labels.add(path, "golden_retriever")
    assert [*labels.lines()] == ["2 of 4 images in folders named after classes: accuracy 100.0 %"]
    for number in range(1000):
        labels.add(f"cat/{number}\n.png", "golden_retriever")
    told = [*labels.lines()]
    assert len(told) == 22 and told[-1] == "  and 980 more" and told[1] == r"  'cat/0\n.png': golden_retriever"
    alike = FolderLabels(["a_b", "a b"])
    alike.add("a_b/1.png", "a_b")
    alike.add("a b/1.png", "a b")
    assert [*alike.lines()] == ["2 of 2 images in folders named after classes: accuracy 100.0 %"]
    unsure = FolderLabels(["cat"])
    unsure.add("cat/1.png", "unsure")
    assert [*unsure.lines()] == ["1 of 1 image in folders named after classes, 1 of them unsure"]


def test_other_classes_by_words_or_by_a_file(tool, words, photos, tmp_path):
    (tmp_path / "names.txt").write_text("a red thing\n\n  a blue, square thing \n")
    wanted = promptvision.load(words).with_classes(["a red thing", "a blue, square thing"])
    paths = sorted(map(str, (photos / "one").iterdir()))
    status, out, _ = tool("predict", "--run", words, photos / "one", "--classes", tmp_path / "names.txt", "--json")
    given = [[(each["class"], each["probability"]) for each in row["top"]] for row in lines(out)]
    assert status == 0 and given == wanted(paths)
    out = tool("predict", "--run", words, photos, "--classes", "zero, one", "--json")[1]
    assert {row["top"][0]["class"] for row in lines(out)} <= {"zero", "one"}
    saved = wanted.save(tmp_path / "saved")
    out = tool("predict", "--run", saved, photos / "one", "--output", tmp_path / "o.csv")[1]
    assert [*csv.reader((tmp_path / "o.csv").open())][0][-2:] == ["probability_2", "error"]


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--threshold", "80", "--threshold is 80; it is a probability, from 0 to 1"),
        ("--threshold", "nan", "--threshold is nan; it is a probability, from 0 to 1"),
        ("--classes", "a,b", "Linear is tied to the classes it was trained on and cannot name new ones"),
        ("--classes", ",", "--classes ',' names no class: give a,b,c, or a file with a name per line"),
        ("--classes", "missing.txt", "file of --classes missing.txt cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_sentence(tool, trained, photos, option, value, sentence):
    status, _, err = tool("predict", "--run", trained[0], photos, option, value)
    assert (status, err) == (2, f"error: {sentence}")


def test_a_class_called_unsure_takes_no_threshold(tool, words, photos):
    status, _, err = tool("predict", "--run", words, photos, "--classes", "unsure,cat", "--threshold", "0.5")
    assert status == 2 and "--threshold calls images unsure, which is the name of a class" in err


def test_addresses_are_named_as_such(tool, trained, tmp_path):
    for name in ("https://example.org/a.png", "hf://data/a.png"):
        status, _, err = tool("predict", "--run", trained[0], name)
        assert status == 2 and f"no image at {name}; it is an address: download the image" in err
    (tmp_path / "list.txt").write_text("https://example.org/a.png\n")
    status, _, err = tool("predict", "--run", trained[0], "--list", tmp_path / "list.txt")
    assert status == 2 and "image https://example.org/a.png cannot be read: No such file or directory; it is" in err


def test_another_threshold_or_other_classes_are_other_predictions(tool, words, photos, tmp_path):
    def predict(*options):
        status, _, err = tool("predict", "--run", words, photos / "one", "--output", tmp_path / "out", *options)
        return err if status else ""

    given = ["--threshold", "0.5", "--classes", "a,b"]
    assert predict(*given) == "" == predict(*given, "--resume")
    assert "predictions of another --threshold:" in predict("--classes", "a,b", "--resume")
    assert "predictions of other --classes:" in predict("--threshold", "0.5", "--classes", "b,a", "--resume")


def test_an_actor_of_a_cluster_takes_threshold_and_classes(words, photos):

    cfg = load_config(words / "config.yaml", [], FAMILIES)
    images = find_images([str(photos / "one")])
    plan = plan_of(words, 5, images, threshold=0.9, classes=["a", "b"])
    actor = Classify(cfg, {"coop": "coop"}, str(words), plan)
    read = Read(transform_of(cfg, load_run(cfg, FAMILIES, words)), 8, ".")
    (batch,) = read({"part": [0], "entries": [pickle.dumps([images.entry(0)])]})
    (found,) = pickle.loads(actor({**batch})["data"][0])
    assert found.unsure and found.label == "unsure" and {name for name, _ in found.top} == {"a", "b"}
