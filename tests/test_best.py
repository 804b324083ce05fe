"""Keeping the epoch that validates best."""

import pytest
import torch

from promptvision.config import load_config
from promptvision.engine.best_epoch import Best
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.experiment.run import run
from promptvision.method import Method
from promptvision.report.comparable import selected_on_test

CONFIG = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {LR: 0.5, EPOCHS: 6, WARMUP_EPOCHS: 0}
INPUT: {TRAIN: center, TEST: center}
"""


class Tiny(Method):
    def __init__(self):
        super().__init__(torch.nn.Identity(), ["a", "b"])
        self.value = torch.nn.Parameter(torch.zeros(1))


def test_the_first_epoch_of_the_highest_accuracy_is_kept(tmp_path):
    method = Tiny()
    with RunFolder(tmp_path) as folder:
        best = Best(folder, method)
        for epoch, accuracy in enumerate([30.0, 70.0, 50.0, 70.0]):
            method.value.data.fill_(epoch)
            best.note(epoch, {"accuracy": accuracy})
        assert best.restore() == {"best_epoch": 1, "best_val_accuracy": 70.0}
    assert method.value.item() == 1


@pytest.fixture
def families(monkeypatch):
    import coop
    import vpt

    return {"vpt": vpt, "coop": coop}


def config(tmp_path, families, *words):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], families)


@pytest.mark.parametrize("keep, split", [("best", "val"), ("best_test", "test")])
def test_a_run_ends_with_its_best_epoch(keep, split, tmp_path, families):
    cfg = config(tmp_path, families, "TRAIN.KEEP", keep, "TRAIN.EVAL_EVERY", "1", "TEST.SPLIT", split)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, families, folder, progress=False)
        curve = [row["val"]["accuracy"] for row in read_rows(folder.metrics) if "val" in row]
    assert len(curve) == 6 and result["best_val_accuracy"] == max(curve) == result["accuracy"]
    assert selected_on_test(result) == (keep == "best_test")
    assert result["best_epoch"] == curve.index(max(curve))
    kept, learned = load_learned(folder.best)[0], load_learned(folder.learned)[0]
    assert all(torch.equal(kept[name], learned[name]) for name in learned)


def test_keeping_the_best_needs_evaluations(tmp_path, families):
    cfg = config(tmp_path, families, "TRAIN.KEEP", "best")
    with RunFolder(cfg.OUTPUT_DIR) as folder, pytest.raises(InputError, match="set TRAIN.EVAL_EVERY 1"):
        run(cfg, families, folder, progress=False)


def test_training_on_validation_images_too(tmp_path, families):
    apart = load_data(config(tmp_path, families)).images
    joined = load_data(config(tmp_path, families, "DATASET.TRAIN", "train+val")).images
    assert joined.train == [*apart.train, *apart.val] and not joined.val and joined.test == apart.test
