"""tools/report.py from the command line, and the figures that it draws."""

import csv
import io
from xml.etree import ElementTree

import pytest
from PIL import Image


@pytest.fixture
def out(write_run, tmp_path):
    """A little of everything: few-shot curves, base to new, transfer, a stream."""
    for dataset in ("dtd", "eurosat", "food101"):
        write_run(f"zero-{dataset}", method="zero_shot", dataset=dataset, accuracy=45.0, options={"ENSEMBLE": ""})
        for shots in (1, 16):
            for seed in (1, 2):
                name = f"{dataset}{shots}{seed}"
                write_run(name, dataset=dataset, shots=shots, seed=seed, accuracy=50.0 + shots + seed)
    for method in ("coop", "zero_shot"):
        new = {"new": {"class_subset": "new", "accuracy": 40.0}}
        write_run(f"new-{method}", method=method, class_subset="base", evals=new)
        shifts = {name: {"dataset": name, "accuracy": 30.0} for name in ("imagenet_v2", "imagenet_a", "imagenet_r")}
        write_run(f"shift-{method}", method=method, dataset="imagenet", evals=shifts)
    stream = {"continual": {"JOINT": False}, "matrix": [[90.0], [80.0, 85.0]], "tasks": [{"name": "$1"}, {"name": "2"}]}
    write_run("stream", family="vpt", method="l2p", shots=0, **stream)
    return tmp_path / "out"


def test_formats(tool, out):
    for name, sign in (("terminal", "Few-shot"), ("markdown", "### Few-shot"), ("latex", r"\toprule")):
        status, text, err = tool("report", out, "--format", name, "--no-published")
        assert status == 0 and sign in text and not err, err
    status, text, _ = tool("report", out, "--format", "csv")
    rows = list(csv.reader(io.StringIO(text)))
    assert status == 0 and {"Few-shot", "Continual learning: dtd"} <= {row[0] for row in rows if row}


def test_published_numbers_can_be_left_out(tool, out):
    assert "against the literature" in tool("report", out)[1]
    assert "against the literature" not in tool("report", out, "--no-published")[1]


def test_figures_and_page(tool, out, tmp_path):
    status, _, err = tool("report", out, "--figures", tmp_path / "figures", "--html", tmp_path / "report.html")
    assert status == 0 and "page:" in err
    names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    wanted = {"few-shot_dtd", "few-shot_average", "base_to_new_classes_dtd", "few-shot_all_datasets"}
    wanted |= {"few-shot_difference_from_zero-shot_clip", "accuracy_matrices_dtd", "few-shot_training"}
    wanted |= {"domain_generalization_imagenet", "domain_generalization_imagenet_all_datasets"}
    assert wanted <= names
    for name in names:
        ElementTree.parse(tmp_path / "figures" / f"{name}.svg")
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.width > 300
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<figure>") == len(names)


@pytest.mark.parametrize(
    "words, told", [(["nowhere"], "nowhere does not exist; name the folder"), (["."], "holds no finished run")]
)
def test_mistakes_are_one_sentence(tool, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    status, _, err = tool("report", *words)
    assert status == 2 and told in err and "Traceback" not in err


def test_a_page_that_cannot_be_written_is_one_sentence(tool, write_run, tmp_path):
    write_run("a")
    (tmp_path / "file").write_text("")
    status, _, err = tool("report", tmp_path / "out", "--html", tmp_path / "file" / "report.html")
    assert status == 2 and "cannot be written" in err
