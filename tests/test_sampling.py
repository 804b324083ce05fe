"""Some settings of a grid in place of all."""

from promptvision.protocols import Search, choose
from promptvision.sampling import some_settings

GRID = Search("vtab", {"OPTIM.LR": [10, 1, 0.1, 0.01], "OPTIM.WEIGHT_DECAY": [0.1, 0.01, 0]}, [1])


def accuracy(setting):
    """One setting is best, neighbours are good, the largest rate diverges."""
    if setting["OPTIM.LR"] == 10:
        return None
    return {1: 80.0, 0.1: 60.0, 0.01: 40.0}[setting["OPTIM.LR"]] + {0.1: 0.0, 0.01: 5.0, 0: 2.0}[
        setting["OPTIM.WEIGHT_DECAY"]
    ]


def test_the_best_setting_is_found_and_none_is_judged_twice():
    judged = []
    tuned = some_settings(GRID, lambda setting: judged.append(dict(setting)) or accuracy(setting), 40)
    assert len(judged) == len(tuned) == len({tuple(setting.values()) for setting in judged}) <= 12
    assert choose(tuned) == {"OPTIM.LR": 1, "OPTIM.WEIGHT_DECAY": 0.01}
    assert [setting for setting, _ in tuned] == judged
    assert some_settings(GRID, accuracy, 40) == tuned


def test_few_trials_are_few_runs():
    tuned = some_settings(GRID, accuracy, 3)
    assert 1 <= len(tuned) <= 3
    assert all(found == accuracy(setting) for setting, found in tuned)
