"""The page of a real run: what train and report write, and near-duplicates by features."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import config
from test_report_page import Parsed

from promptvision.config.families import FAMILIES
from promptvision.deploy.duplicates import nearest
from promptvision.deploy.run_page import changes, setup_of
from promptvision.deploy.thumbnails import data_uri
from promptvision.errors import InputError
from promptvision.report.page.run import MOST_IMAGES


def said(file):
    return " ".join(Parsed(file.read_text(encoding="utf-8")).text.split())


def write_images(folder):
    """Two classes of coloured tiles; the first test image is a copy of a training image."""
    for split, count in (("train", 4), ("test", 6)):
        for number, (name, colour) in enumerate({"it's <b>": 130, 'a "quoted" one': 5}.items()):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                tiles = np.random.default_rng([number, count, index]).integers(colour, colour + 120, (3, 3, 3))
                image = Image.fromarray(tiles.astype("uint8")).resize((32, 32), Image.Resampling.NEAREST)
                image.save(folder / split / name / f"{index}'.png")
    shutil.copy(folder / "train/it's <b>/2'.png", folder / "test/it's <b>/0'.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder)
    return folder


WORDS = ("--config", "vpt/embedded_linear.yaml", "DATASET.NAME", "folder", "DATASET.SHOTS", 0, "OPTIM.EPOCHS", 2)


@pytest.mark.slow
def test_a_run_ends_with_its_page(tool, images, tmp_path):
    """The near-duplicate is found by features, and the images can be gone when the page is written again."""
    shutil.copytree(images, tmp_path / "images")
    words = [*WORDS, "DATASET.ROOT", tmp_path / "images", "OUTPUT_DIR", tmp_path / "run"]
    status, out, err = tool("train", *words, page=True)
    page = tmp_path / "run/run.html"
    assert status == 0 and f"page: {page}" in out, err
    assert "1 of 12 test images have features with a cosine of 0.98 or more" in said(page) and "is 1.0000." in said(
        page
    )
    assert "differ from vpt/embedded_linear.yaml" in said(page) and "DATASET.NAME world_" in said(page)
    parsed = Parsed(page.read_text())
    assert parsed.all("img") and all(image["src"].startswith("data:image/png;base64,") for image in parsed.all("img"))
    assert "test/it's <b>/0'.png" in parsed.text and not parsed.all("b>")
    shutil.rmtree(tmp_path / "images")
    status, out, err = tool("report", "--run", tmp_path / "run", "--html", tmp_path / "again.html")
    assert status == 0, err
    again = said(tmp_path / "again.html")
    assert "Images are not shown: " in again and "images does not exist" in again
    assert not Parsed((tmp_path / "again.html").read_text()).all("img") and "accuracy" in again


def test_images_that_changed_are_not_shown(tool, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    words = [*WORDS, "DATASET.ROOT", tmp_path / "images", "OUTPUT_DIR", tmp_path / "run", "--no-page"]
    status, out, err = tool("train", *words, page=True)
    assert status == 0 and "page:" not in out and not (tmp_path / "run/run.html").exists(), err
    (tmp_path / "images/test/it's <b>/3'.png").unlink()
    assert tool("report", "--run", tmp_path / "run")[0] == 0
    assert "the dataset has changed since the run was tested" in said(tmp_path / "run/run.html")


@pytest.mark.fault("files")
def test_a_page_that_cannot_be_written_loses_no_result(tool, images, tmp_path):
    """A folder is in its place when the run is resumed; a run without predictions has no page either."""
    folder = tmp_path / "run"
    words = [*WORDS, "DATASET.ROOT", images, "OUTPUT_DIR", folder, "--resume", "auto"]
    assert tool("train", *words)[0] == 0
    (folder / "result.json").unlink()
    (folder / "run.html").mkdir()
    status, out, err = tool("train", *words, page=True)
    assert status == 0 and "No page: " in err and "run.html cannot be written: Is a directory" in err
    assert (folder / "result.json").exists() and "hardest classes" in out and "page:" not in out
    (folder / "predictions.csv").unlink()
    status, _, err = tool("report", "--run", folder, "--html", tmp_path / "page.html")
    assert status == 2 and "predictions.csv cannot be read" in err


@pytest.mark.parametrize("words", [(), ("out", "--run", "out/coop")])
def test_report_takes_a_folder_of_runs_or_one_run(tool, words):
    status, _, err = tool("report", *words)
    assert status == 2 and "name OUTPUT_DIR, the folder of the runs, or one run by --run" in err


def test_a_stream_has_no_page_of_its_own(trained, tmp_path):
    _, cfg = trained
    (tmp_path / "result.json").write_text('{"continual": {}}')
    with pytest.raises(InputError, match="is a stream of tasks, which `python tools/report.py OUTPUT_DIR --html FILE`"):
        setup_of(cfg, FAMILIES, tmp_path)


def test_nearest_by_hand():
    """The cosine of (3, 4) and (4, 3) is 24 / 25."""
    test, train = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[4.0, 3.0], [0.0, 1.0], [-3.0, -4.0]])
    (first, cosine), (second, same) = nearest(test, train)
    assert (first, second) == (0, 1) and (cosine, same) == pytest.approx((0.96, 1.0))


def test_settings_are_compared_with_the_preset_or_the_defaults(tmp_path):
    cfg = config(tmp_path, "OPTIM.LR", 0.25, "TRAIN.WORKERS", 1)
    found = changes(cfg, FAMILIES, str(tmp_path / "c.yaml"))
    assert found.values == {"OPTIM.LR": (0.5, 0.25)}, "where and how a run is computed is no change"
    values = changes(cfg, FAMILIES).values
    assert values["METHOD.NAME"][1] == "linear" and "OUTPUT_DIR" not in values and "TRAIN.WORKERS" not in values


@pytest.mark.parametrize(("size", "kind"), [((32, 48), "png"), ((3000, 2000), "jpeg")])
def test_thumbnails_are_small(size, kind):
    uri = data_uri(Image.effect_noise(size, 50))
    assert uri.startswith(f"data:image/{kind};base64,") and len(uri) < 20_000
    assert 4 * MOST_IMAGES * len(uri) < 3_000_000
