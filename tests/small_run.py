"""A method that learns in milliseconds, and the config of a run of seconds."""

from pathlib import Path

import pytest
from torch import nn

from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.run import run
from promptvision.method import Method

ROOT = Path(__file__).parents[1]

NAMES = ["cat", "dog", "golden_retriever", "hen"]


class Line(Method):
    """A head on the pixels."""

    def __init__(self, classes=NAMES):
        super().__init__(nn.Identity(), classes)
        self.head = nn.Linear(12, len(classes))

    def forward(self, images):
        return self.head(images.flatten(1))


CONFIG = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {LR: 0.5, EPOCHS: 6, WARMUP_EPOCHS: 0, BATCH_SIZE: 8}
INPUT: {TRAIN: center, TEST: center}
TRAIN: {DEVICE: cpu}
"""


def config(tmp_path, *words):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on ten digits, and its config with batches of eight."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = config(folder, "OPTIM.EPOCHS", 1, "TEST.BATCH_SIZE", 8, "CACHE_DIR", "")
    with RunFolder(folder / "run") as opened:
        run(cfg, FAMILIES, opened, progress=False)
    return folder / "run", cfg


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An untrained CoOp on 24 classes."""
    folder = tmp_path_factory.mktemp("words")
    settings = [
        "OPTIM.EPOCHS",
        0,
        "DATASET.NAME",
        "world_shapes",
        "DATASET.SHOTS",
        1,
        "OUTPUT_DIR",
        str(folder / "run"),
    ]
    cfg = load_config(ROOT / "configs/coop/embedded.yaml", [*settings, "TEST.SPLIT", "val"], FAMILIES)
    with RunFolder(folder / "run") as opened:
        run(cfg, FAMILIES, opened, progress=False)
    return folder / "run"
