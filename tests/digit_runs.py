"""Runs on digits of a second each, for tests of faults."""

from promptvision.config import load_config
from promptvision.config.families import FAMILIES

DIGITS = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {LR: 0.5, EPOCHS: 4, WARMUP_EPOCHS: 0}
INPUT: {TRAIN: center, TEST: center}
TRAIN: {THREADS: 1, CACHE: "off"}
CACHE_DIR: ""
"""


def digits(tmp_path, *words):
    (tmp_path / "c.yaml").write_text(DIGITS)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)


class Before:
    """A loader, and what happens before an epoch."""

    def __init__(self, loader, happens):
        self.loader, self.happens = loader, happens

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        self.happens(epoch)
        return self.loader.epoch(epoch, start)
