"""Measures of continual learning.

All tasks weigh alike, except where a measure says otherwise. Sources: l2p-pytorch `engine.py` (official), Chaudhry et
al. 2018 (arXiv:1801.10112) for textbook forgetting, Lopez-Paz and Ranzato 2017 (arXiv:1706.08840) for backward
transfer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.errors import InputError


def accuracy(logits: Tensor, labels: Tensor, allowed: Sequence[int]) -> float:
    """Return the percentage of rows of logits (N, C) whose highest allowed class is the label (N,)."""
    if not logits.isfinite().all():
        raise InputError("the method gives NaN or infinite logits; try a smaller OPTIM.LR")
    best = torch.tensor(list(allowed))[logits[:, list(allowed)].argmax(dim=1)]
    return 100 * (best == labels).double().mean().item()


def measures(matrix: Sequence[Sequence[float]], counts: Sequence[int]) -> dict[str, float | None]:
    """Return measures by name. `matrix[i][j]`: accuracy on task j after learning task i, j <= i; `counts`: test images.

    average_accuracy: mean over all tasks after the last one. incremental_accuracy: mean over tasks of the accuracy on
    all images of the tasks so far (LAMDA-PILOT's; where tasks have equally many, that of the average accuracies).
    learning_accuracy: mean accuracy on each task just after it was learned.
    The others are means over all tasks except the last, None if there is one task. forgetting: best accuracy before
    the last task - accuracy now. forgetting_official: the same, but the best may be that of now: what a task gained in
    the end counts 0, not less. backward_transfer: accuracy now - accuracy just after the task was learned.
    """
    if not matrix or any(len(row) != number for number, row in enumerate(matrix, start=1)):
        raise InputError(f"row i of an accuracy matrix holds i + 1 tasks; these rows hold {[len(r) for r in matrix]}")
    now, old = matrix[-1], range(len(matrix) - 1)
    best = [max(row[task] for row in matrix[task:-1]) for task in old]
    return {
        "average_accuracy": _mean(now),
        "incremental_accuracy": _mean([overall(row, counts) for row in matrix]),
        "learning_accuracy": _mean([row[-1] for row in matrix]),
        "forgetting": _mean([best[task] - now[task] for task in old]),
        "forgetting_official": _mean([max(best[task], now[task]) - now[task] for task in old]),
        "backward_transfer": _mean([now[task] - matrix[task][task] for task in old]),
    }


def overall(accuracies: Sequence[float], counts: Sequence[int]) -> float:
    """Return the accuracy on the images of the first tasks together; `counts`: images of each task."""
    weights = counts[: len(accuracies)]
    return sum(each * count for each, count in zip(accuracies, weights, strict=True)) / sum(weights)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
