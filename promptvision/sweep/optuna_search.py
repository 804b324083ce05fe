"""Some settings of a grid instead of all: Optuna's TPE proposes the next one from the accuracies so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from promptvision.errors import InputError, unknown
from promptvision.sweep.search import Search, Tried, Try

if TYPE_CHECKING:
    from promptvision.engine.loop import Watch

SEED = 1
PRUNERS = ("median", "halving")
"""Rules that stop a run early for its validations so far: Optuna's MedianPruner and SuccessiveHalvingPruner."""


def some_settings(find: Search, judge: Try, trials: int, prune: str = "", spare: int = 0) -> list[Tried]:
    """Judge `trials` proposals, a setting that is proposed again only once; the same ones every time.

    Not the published protocol, which tries the whole grid. A run that diverged counts as one of accuracy 0.
    `prune`: one of PRUNERS, or empty to prune no run. `spare`: epochs in which no run is pruned, as in a warm-up.
    """
    optuna = _optuna()
    if prune and prune not in PRUNERS:
        raise unknown("rule to prune by", prune, PRUNERS)
    pruner = optuna.pruners.NopPruner()
    if prune == "median":
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=spare + 1)
    elif prune == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=spare + 1)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED), pruner=pruner)
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


def _watching(trial: Any) -> Watch:
    """Return a watch that reports the accuracy of every epoch to the trial, once, and asks it whether to prune."""
    reported: set[int] = set()

    def watch(epoch: int, found: Mapping[str, float]) -> bool:
        if epoch not in reported:
            reported.add(epoch)
            trial.report(found["accuracy"], epoch + 1)
        return trial.should_prune()

    return watch
