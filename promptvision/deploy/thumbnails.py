"""Small images of pages, as data URIs: those that a run's page shows, and samples of the datasets of many runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.data.decode import BadImage
from promptvision.data.images import Images
from promptvision.errors import InputError, without_formula
from promptvision.experiment.data import read_lists
from promptvision.report.collect import Run
from promptvision.report.page.details import predictions_of, sample_paths

SIDE = 128
"""Pixels of the longer side of a thumbnail."""
MOST_SETS = 20
"""Datasets of many runs of which images are shown."""


def sample_images(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Return {test_hash: {path in predictions.csv: data URI}}: a few test images of each dataset that is here."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        key = str(run.result.get("test_hash"))
        if key in found or len(found) == MOST_SETS or "continual" in run.result:
            continue
        if predictions := predictions_of(run):
            try:
                cfg = load_config(run.folder / "config.yaml", [], FAMILIES, of_run=True)
                _, images = read_lists(cfg.DATASET)
            except InputError:  # the data are elsewhere, or the run needs code that is not trusted
                found[key] = {}
                continue
            known = {without_formula(path): path for path in images.paths}
            wanted = sample_paths(predictions)
            found[key] = thumbnails(images, {name: known[name] for name in wanted if name in known})
    return found


def thumbnails(images: Images, paths: Mapping[str, str]) -> dict[str, str]:
    """Return {name: data URI} of the images at {name: path} that can still be read."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = data_uri(images.open(path))
        except BadImage:  # the page says "no image" in its place
            continue
    return found


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """Return an image, its longer side at most `side` pixels, as a data URI: a JPEG, or a PNG of one half as large."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    kind, content = "png" if max(image.size) <= side // 2 else "jpeg", io.BytesIO()
    small.save(content, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
