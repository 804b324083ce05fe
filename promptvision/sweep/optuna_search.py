"""Some settings of a grid in place of all: Optuna's TPE proposes the next from what the earlier ones reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptvision.engine.train import Watch
from promptvision.errors import InputError, unknown
from promptvision.sweep.search import Search, Tried, Try

SEED = 1
PRUNERS = ("median", "halving")
"""Rules by which a run is given up for its validations so far: Optuna's MedianPruner and SuccessiveHalvingPruner."""


def some_settings(find: Search, judge: Try, trials: int, prune: str = "", spare: int = 0) -> list[Tried]:
    """`trials` proposals, each setting judged once however often it is proposed; the same ones every time.

    Not the published protocol, which tries the whole grid. A run that diverged counts as one of accuracy 0.
    `prune`: one of PRUNERS, or empty: none is given up. `spare`: the epochs in which none is, as in a warm-up.
    """
    optuna = _optuna()
    sampler, pruner = optuna.samplers.TPESampler(seed=SEED), _pruner(optuna, prune, spare)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    known: dict[tuple[float, ...], Tried] = {}
    for _ in range(trials):
        trial = study.ask()
        setting = {key: trial.suggest_categorical(key, list(values)) for key, values in find.grid.items()}
        place = tuple(setting.values())
        if place not in known:
            known[place] = judge(setting, _watching(trial) if prune else None)
        if known[place].pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, known[place].accuracy or 0.0)
    return list(known.values())


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("--optuna needs Optuna: pip install 'promptvision[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _pruner(optuna: Any, name: str, spare: int) -> Any:
    if not name:
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=spare + 1)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=spare + 1)
    raise unknown("rule to prune by", name, PRUNERS)


def _watching(trial: Any) -> Watch:
    """Tells the trial the accuracy of every epoch, once."""
    told: set[int] = set()

    def watch(epoch: int, found: Mapping[str, float]) -> bool:
        if epoch not in told:
            told.add(epoch)
            trial.report(found["accuracy"], epoch + 1)
        return trial.should_prune()

    return watch
