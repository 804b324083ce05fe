"""VPT's search protocols: settings searched on validation images, then tested once (arXiv:2203.12119).

VTAB-1k: every setting trains on 800 images and is judged on 200 after its last epoch; the best one then trains on all
1000 with five seeds, and each run is tested after its last epoch. FGVC: a setting trains on the training list and is
judged at its best epoch; the best run's best epoch is tested. Sources: KMnP/vpt `tune_vtab.py`, `tune_fgvc.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yacs.config import CfgNode

from promptvision.config.files import find_config
from promptvision.engine.interrupt import Pruned
from promptvision.engine.metrics_file import read_rows
from promptvision.errors import Diverged, InputError, unknown
from promptvision.sweep.benchmark import check_grid, combinations, read_mapping
from promptvision.sweep.completed import Families, finished, once, started

if TYPE_CHECKING:
    from promptvision.engine.loop import Watch

LOG = logging.getLogger(__name__)
Setting = dict[str, Any]
"""Keys of a config with the values of one run."""
Configure = Callable[[Mapping[str, Any]], CfgNode]
"""Makes the config of a run from its overrides."""
Ahead = Callable[[Sequence[CfgNode]], None]
"""Trains runs together, as far as they can be; one that fails is met again alone."""


class Tried(NamedTuple):
    """A setting with its validation accuracy; None if its run diverged, or was pruned after so many epochs."""

    setting: Setting
    accuracy: float | None
    pruned: int = 0


Try = Callable[[Setting, "Watch | None"], Tried]
"""Trains with a setting; what watches its validations may prune it."""

TUNING: dict[str, Setting] = {
    "vtab": {"TEST.SPLIT": "val"},
    "fgvc": {"TEST.SPLIT": "val", "TRAIN.KEEP": "best", "TRAIN.EVAL_EVERY": 1},
}
FINAL: dict[str, Setting] = {
    "vtab": {"DATASET.TRAIN": "train+val", "TEST.SPLIT": "test", "TRAIN.EVAL_EVERY": 0},
    "fgvc": {"TEST.SPLIT": "test", "TRAIN.KEEP": "best", "TRAIN.EVAL_EVERY": 1},
}
"""Overrides of each protocol for the runs of its search, and for those that are tested."""


@dataclass(frozen=True)
class Search:
    """A file of configs/vpt/grids: the values of each key that are tried, and the seeds of the final runs."""

    protocol: str
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def settings(self) -> list[Setting]:
        """Return all combinations, large values first, the first key slowest (VPT: learning rate, weight decay)."""
        return combinations({key: sorted(values, reverse=True) for key, values in self.grid.items()})


@dataclass(frozen=True)
class Trials:
    """The runs of a search, each in a folder of its own below `folder`; those that are finished are kept."""

    find: Search
    configure: Configure
    families: Families
    folder: Path
    overwrite: bool = False

    def judge(self, setting: Setting, watch: Watch | None) -> Tried:
        """Train with a setting and return its validation accuracy."""
        try:
            result = self.result({**TUNING[self.find.protocol], **setting}, setting, watch)
        except Pruned as stop:
            LOG.info("%s: %s", setting_name(setting), stop)
            return Tried(setting, None, stop.epochs)
        accuracy = result["accuracy"] if result else None
        LOG.info("%s: validation accuracy %s", setting_name(setting), accuracy)
        return Tried(setting, accuracy)

    def config(self, changes: Setting, label: Setting) -> CfgNode:
        """Return the config of a run, whose folder `label` names."""
        return self.configure({**changes, "OUTPUT_DIR": str(self.folder / setting_name(label))})

    def result(self, changes: Setting, label: Setting, watch: Watch | None = None) -> dict[str, Any] | None:
        """Return the result of a run, None if it diverged; raise Pruned if it is or was pruned."""
        cfg = self.config(changes, label)
        folder = Path(cfg.OUTPUT_DIR)
        if watch and not cfg.TRAIN.EVAL_EVERY:
            raise InputError("a search that prunes runs needs validations along the way: set TRAIN.EVAL_EVERY 1")
        if watch:
            rows = read_rows(folder / "metrics.jsonl") if started(cfg, folder) else []  # of an earlier search
            for epoch, scores in {row["epoch"]: row["val"] for row in rows if "val" in row}.items():
                if watch(epoch, scores) and finished(cfg, folder) is None:
                    raise Pruned(epoch + 1)
        try:
            return once(cfg, self.families, folder, overwrite=self.overwrite, watch=watch)
        except Diverged as error:
            LOG.warning("%s: %s", setting_name(label), error)
            return None


def load_search(path: str | Path) -> Search:
    """Read PROTOCOL, GRID and SEEDS of a YAML file; raise InputError for whatever is wrong."""
    content = read_mapping(find_config(path), "grid")
    wanted = {"PROTOCOL": str, "GRID": dict, "SEEDS": list}
    if {k: type(v) for k, v in content.items()} != wanted:
        raise InputError(f"grid {path} must hold PROTOCOL (a name), GRID (key: list of values) and SEEDS (a list)")
    protocol, grid, seeds = (content[key] for key in wanted)
    if protocol not in TUNING:
        raise unknown(f"PROTOCOL in {path}", protocol, TUNING)
    check_grid(f"grid {path}", grid)
    if not grid:
        raise InputError(f"grid {path}: GRID is empty; a search needs a key with values to try")
    for key, values in grid.items():
        if not all(isinstance(value, int | float) for value in values):
            raise InputError(f"grid {path}: {key} needs a list of numbers to try")
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"grid {path}: SEEDS needs at least one whole number, for the final runs")
    return Search(protocol, grid, seeds)


def choose(tuned: Sequence[Tried]) -> Setting:
    """Return the setting of the best validation accuracy; among equals the one with the smaller first value (learning
    rate), then the first one."""
    done = [(each.setting, each.accuracy) for each in tuned if each.accuracy is not None]
    if not done:
        raise InputError("every setting of the grid diverged; try smaller learning rates")
    best = max(accuracy for _, accuracy in done)
    return min((setting for setting, accuracy in done if accuracy == best), key=lambda s: next(iter(s.values())))


def search(
    find: Search,
    configure: Configure,
    families: Families,
    folder: str | Path,
    tune: Callable[[Search, Try], list[Tried]] | None = None,
    *,
    overwrite: bool = False,
    ahead: Ahead | None = None,
) -> dict[str, Any]:
    """Tune, choose, train the chosen setting once per seed, test each once; finished runs in `folder` are kept, and
    runs with other settings raise InputError, or are replaced with `overwrite`.

    `tune` tries some of the settings (`promptvision.sweep.optuna_search`); all are tried without it, as published.
    `ahead` trains runs together before each is asked for: those of the grid, unless `tune` chooses, and the final ones.
    Returns `protocol`, `tuning` (every trial as {setting, accuracy, pruned}), `chosen`, and `runs`, the results of the
    final runs, tested on the test images.
    """
    trials = Trials(find, configure, families, Path(folder), overwrite)
    if ahead and not tune:
        ahead([trials.config({**TUNING[find.protocol], **setting}, setting) for setting in find.settings()])
    tuned = tune(find, trials.judge) if tune else [trials.judge(setting, None) for setting in find.settings()]
    chosen, runs = choose(tuned), []
    final = {**FINAL[find.protocol], **chosen}
    if ahead:
        ahead([trials.config({**final, "SEED": seed}, {"final": seed}) for seed in find.seeds])
    for seed in find.seeds:
        result = trials.result({**final, "SEED": seed}, {"final": seed})
        if result is None:
            name = setting_name(chosen)
            raise InputError(f"the chosen setting {name} diverged with seed {seed}; leave it out of the grid")
        runs.append(result)
    return {"protocol": find.protocol, "tuning": [each._asdict() for each in tuned], "chosen": chosen, "runs": runs}


def setting_name(setting: Setting) -> str:
    """Return `lr10_weight_decay0.01`, a run's folder and its name in the log."""
    return "_".join(f"{key.rpartition('.')[2].lower()}{value:g}" for key, value in setting.items())
