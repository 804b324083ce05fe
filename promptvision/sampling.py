"""Some settings of a grid in place of all: Optuna's TPE proposes the next from what the earlier ones reached."""

from __future__ import annotations

from promptvision.errors import InputError
from promptvision.protocols import Search, Setting, Try, Tuned

SEED = 1


def some_settings(find: Search, judge: Try, trials: int) -> Tuned:
    """`trials` proposals, each setting judged once however often it is proposed; the same ones every time.

    Not the published protocol, which tries the whole grid. A run that diverged counts as one of accuracy 0.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("--optuna needs Optuna: pip install 'promptvision[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
    known: dict[tuple[float, ...], tuple[Setting, float | None]] = {}
    for _ in range(trials):
        trial = study.ask()
        setting = {key: trial.suggest_categorical(key, list(values)) for key, values in find.grid.items()}
        place = tuple(setting.values())
        if place not in known:
            known[place] = setting, judge(setting)
        study.tell(trial, known[place][1] or 0.0)
    return list(known.values())
