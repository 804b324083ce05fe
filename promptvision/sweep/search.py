"""How VPT's tables were made: settings searched on validation images, then tested once (arXiv:2203.12119).

VTAB-1k: every setting trains on 800 images and is judged on 200 after its last epoch; the best one then trains on all
1000 with five seeds, and each run is tested after its last epoch. FGVC: trains on the training list, is judged at its
best epoch, and the best run's best epoch is tested. Sources: KMnP/vpt `tune_vtab.py`, `tune_fgvc.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from promptvision.engine.interrupt import Pruned
from promptvision.engine.train import Watch
from promptvision.errors import Diverged, InputError, unknown
from promptvision.experiment.build import Families
from promptvision.sweep.benchmark import check_size, combinations, read_plain_yaml
from promptvision.sweep.completed import finished, once, validations

LOG = logging.getLogger(__name__)
Setting = dict[str, Any]
"""Keys of a config with the values that one run takes."""
Configure = Callable[[Mapping[str, Any]], CfgNode]
"""Makes the config of a run from what it sets differently."""


class Tried(NamedTuple):
    """A setting with its validation accuracy; None is a run that diverged, or was pruned after so many epochs."""

    setting: Setting
    accuracy: float | None
    pruned: int = 0


Try = Callable[[Setting, Watch | None], Tried]
"""Trains with a setting; what watches its validations may prune it."""

TUNING: dict[str, Setting] = {
    "vtab": {"TEST.SPLIT": "val"},
    "fgvc": {"TEST.SPLIT": "val", "TRAIN.KEEP": "best", "TRAIN.EVAL_EVERY": 1},
}
FINAL: dict[str, Setting] = {
    "vtab": {"DATASET.TRAIN": "train+val", "TEST.SPLIT": "test", "TRAIN.EVAL_EVERY": 0},
    "fgvc": {"TEST.SPLIT": "test", "TRAIN.KEEP": "best", "TRAIN.EVAL_EVERY": 1},
}
"""What each protocol sets in the runs of its search, and in those that are tested."""


@dataclass(frozen=True)
class Search:
    """A file of configs/vpt/grids: the values of each key that are tried, and the seeds of the final runs."""

    protocol: str
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def settings(self) -> list[Setting]:
        """All combinations, large values first, the first key slowest (VPT: learning rate, then weight decay)."""
        return combinations({key: sorted(values, reverse=True) for key, values in self.grid.items()})

    @property
    def runs(self) -> int:
        """How many runs it takes: one per setting, and the final ones."""
        return len(self.settings()) + len(self.seeds)


def load_search(path: str | Path) -> Search:
    """PROTOCOL, GRID and SEEDS of a YAML file."""
    content = read_plain_yaml(path, "grid")
    wanted = {"PROTOCOL": str, "GRID": dict, "SEEDS": list}
    if {k: type(v) for k, v in content.items()} != wanted:
        raise InputError(f"grid {path} must hold PROTOCOL (a name), GRID (key: list of values) and SEEDS (a list)")
    if content["PROTOCOL"] not in TUNING:
        raise unknown(f"PROTOCOL in {path}", content["PROTOCOL"], TUNING)
    for key, values in content["GRID"].items():
        if not isinstance(key, str):
            raise InputError(f"grid {path}: {key!r} in GRID is no key of a config")
        if not isinstance(values, list) or not values or not all(isinstance(v, int | float) for v in values):
            raise InputError(f"grid {path}: {key} needs a list of numbers to try")
    if not content["GRID"]:
        raise InputError(f"grid {path}: GRID is empty; a search needs a key with values to try")
    check_size(f"grid {path}", content["GRID"])
    if not content["SEEDS"]:
        raise InputError(f"grid {path}: SEEDS is empty; the final runs need at least one seed")
    if not all(isinstance(seed, int) for seed in content["SEEDS"]):
        raise InputError(f"grid {path}: SEEDS is a list of whole numbers")
    return Search(content["PROTOCOL"], content["GRID"], content["SEEDS"])


def choose(tuned: Sequence[Tried]) -> Setting:
    """The setting of the best validation accuracy; among equals the smaller first value (learning rate), then the
    first found."""
    done = [(each.setting, each.accuracy) for each in tuned if each.accuracy is not None]
    if not done:
        raise InputError("every setting of the grid diverged; try smaller learning rates")
    best = max(accuracy for _, accuracy in done)
    return min((setting for setting, accuracy in done if accuracy == best), key=lambda s: next(iter(s.values())))


def try_all(find: Search, judge: Try) -> list[Tried]:
    """Every setting of the grid."""
    return [judge(setting, None) for setting in find.settings()]


def search(
    find: Search,
    configure: Configure,
    families: Families,
    folder: str | Path,
    tune: Callable[[Search, Try], list[Tried]] = try_all,
) -> dict[str, Any]:
    """Tune, choose, train the chosen setting once per seed, test each once; what is finished in `folder` is kept.

    `tune` says which settings are tried: all as published, or some (`promptvision.sweep.optuna_search`).
    Returns `protocol`, `tuning` (what was tried, each as {setting, accuracy, pruned}), `chosen`, and `runs`, the
    results of the final runs, tested on the test images.
    """

    def judge(setting: Setting, watch: Watch | None) -> Tried:
        changes = {**TUNING[find.protocol], **setting}
        try:
            result = _once(configure, changes, setting, families, folder, watch)
        except Pruned as stop:
            LOG.info("%s: %s", _name(setting), stop)
            return Tried(setting, None, stop.epochs)
        accuracy = result["accuracy"] if result else None
        LOG.info("%s: validation accuracy %s", _name(setting), accuracy)
        return Tried(setting, accuracy)

    tuned = tune(find, judge)
    chosen = choose(tuned)
    runs = []
    for seed in find.seeds:
        changes = {**FINAL[find.protocol], **chosen, "SEED": seed}
        result = _once(configure, changes, {"final": seed}, families, folder)
        if result is None:
            raise InputError(f"the chosen setting {_name(chosen)} diverged with seed {seed}; leave it out of the grid")
        runs.append(result)
    return {"protocol": find.protocol, "tuning": [each._asdict() for each in tuned], "chosen": chosen, "runs": runs}


def _once(
    configure: Configure,
    changes: Setting,
    label: Setting,
    families: Families,
    folder: str | Path,
    watch: Watch | None = None,
) -> dict[str, Any] | None:
    """The result of a run in its own folder; None if it diverged, Pruned if it is or was given up."""
    cfg = configure({**changes, "OUTPUT_DIR": str(Path(folder) / _name(label))})
    if watch:
        _tell_again(cfg, watch)
    try:
        return once(cfg, families, watch=watch)
    except Diverged as error:
        LOG.warning("%s: %s", _name(label), error)
        return None


def _tell_again(cfg: CfgNode, watch: Watch) -> None:
    """What an earlier search left of the run: what made it give up an unfinished one does so again."""
    if not cfg.TRAIN.EVAL_EVERY:
        raise InputError("a search that gives runs up needs validations along the way: set TRAIN.EVAL_EVERY 1")
    known = finished(cfg) is not None
    for epoch, found in validations(cfg).items():
        if watch(epoch, found) and not known:
            raise Pruned(epoch + 1)


def _name(setting: Setting) -> str:
    """`lr10_weight_decay0.01`: a folder's name, and what a log calls the run."""
    return "_".join(f"{key.rpartition('.')[2].lower()}{value:g}" for key, value in setting.items())
