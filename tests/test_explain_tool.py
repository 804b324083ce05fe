"""tools/explain.py on a run: its files, its images, and mistakes in one sentence."""

import re
import shutil

import pytest
from own_images import image
from small_run import config

from promptvision.config.families import FAMILIES
from promptvision.deploy.classifier import load
from promptvision.deploy.explain.subject import load_subject
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.run import run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A CoOp with the words of its start, on images of its user in classes whose names are code and formulas."""
    root = tmp_path_factory.mktemp("explained")
    for name in ("<script>document.title = 'broken'<|script>", "$x_1$", "hen's"):
        for number in range(4):
            image(root / "images" / name / f"{number} 'quoted'.png")
    words = ["METHOD.FAMILY", "coop", "METHOD.NAME", "coop", "METHOD.OPTIONS.CTX_INIT", "a photo of a"]
    words += ["BACKBONE.NAME", "embedded", "DATASET.NAME", "folder", "DATASET.ROOT", str(root / "images")]
    cfg = config(root, *words, "OPTIM.EPOCHS", 0, "CACHE_DIR", "")
    with RunFolder(root / "run") as opened:
        run(cfg, FAMILIES, opened, progress=False)
    return root / "run"


@pytest.mark.slow
def test_the_tool_writes_figures_words_and_a_page(run_folder, tool):
    status, out, _ = tool("explain", "--run", run_folder, "--words", 2, "--plane", "pca")
    assert status == 0 and f"page: {run_folder / 'explain' / 'explain.html'}" in out
    assert "Nearest words: The words whose" in out and "need not mean anything" in out
    names = {path.name for path in (run_folder / "explain").iterdir()}
    assert {"explain.html", "words.csv", "attention_1.png", "similarity_3.svg"} <= names
    rows = (run_folder / "explain/words.csv").read_text().splitlines()
    assert rows[:2] == ["prompt,vector,rank,word,distance", "all classes,1,1,a,0.0000"] and len(rows) == 1 + 4 * 2
    page = (run_folder / "explain/explain.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "hen&#39;s" in page


@pytest.mark.slow
def test_named_images_are_shown_and_mistakes_are_one_sentence(run_folder, tool, tmp_path):
    image(tmp_path / "own.png")
    status, _, _ = tool("explain", "--run", run_folder, "--output", tmp_path / "here", tmp_path / "own.png")
    assert status == 0 and "own.png" in (tmp_path / "here/explain.html").read_text()
    assert not (tmp_path / "here/attention_2.png").exists()
    for words, said in (
        ([tmp_path / "none.png"], "error: no image at"),
        (["--words", 0], "error: --words is 0; it must be at least 1"),
        (["--output", tmp_path], f"error: {tmp_path} holds files that no explanation wrote: choose another --output"),
    ):
        status, _, err = tool("explain", "--run", run_folder, *words)
        assert status == 2 and said in err


@pytest.mark.slow
def test_without_the_test_images_named_ones_are_explained(run_folder, tool, tmp_path):
    image(tmp_path / "own.png")
    (run_folder.parent / "images").rename(run_folder.parent / "elsewhere")
    try:
        status, out, _ = tool("explain", "--run", run_folder, "--output", tmp_path / "here", tmp_path / "own.png")
        assert status == 0 and "The test images of the run are not here" in out
        status, _, err = tool("explain", "--run", run_folder)
        assert status == 2 and "images" in err
    finally:
        (run_folder.parent / "elsewhere").rename(run_folder.parent / "images")


def test_a_run_of_a_gpu_is_explained_where_there_is_none(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("explain"))
    file = tmp_path / "run/config.yaml"
    text, count = re.subn("DEVICE: .*", "DEVICE: cuda", file.read_text())
    file.write_text(text)
    subject = load_subject(load(tmp_path / "run", overrides=["COMPUTE.WAY", "plain"]), [])
    assert count == 1 and len(subject.images) == 3 and subject.frozen.compute.way == "plain"
