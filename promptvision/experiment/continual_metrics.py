"""What a continual learner knew, kept and lost. `matrix[i][j]`: accuracy on task j after learning task i, j <= i.

All tasks weigh alike. Sources: l2p-pytorch `engine.py` (official), Chaudhry et al. 2018 (arXiv:1801.10112) for
textbook forgetting, Lopez-Paz and Ranzato 2017 (arXiv:1706.08840) for backward transfer.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptvision.errors import InputError

Matrix = Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy over the tasks seen, after the last of them."""
    _check(matrix)
    return _mean(matrix[-1])


def incremental_accuracy(matrix: Matrix) -> float:
    """Mean, over the stream, of the average accuracy after each task (LAMDA-PILOT's)."""
    _check(matrix)
    return _mean([_mean(row) for row in matrix])


def learning_accuracy(matrix: Matrix) -> float:
    """Mean accuracy on each task just after it was learned."""
    _check(matrix)
    return _mean([row[-1] for row in matrix])


def forgetting(matrix: Matrix) -> float | None:
    """Mean over old tasks of (best accuracy before the last task - accuracy now); None where no task is old."""
    _check(matrix)
    return _lost(matrix, matrix[:-1])


def forgetting_official(matrix: Matrix) -> float | None:
    """As `forgetting`, but the best may be that of now: what a task gained in the end counts 0, not less."""
    _check(matrix)
    return _lost(matrix, matrix)


def backward_transfer(matrix: Matrix) -> float | None:
    """Mean over old tasks of (accuracy now - accuracy just after learning it); None where no task is old."""
    _check(matrix)
    old = len(matrix) - 1
    return _mean([matrix[-1][task] - matrix[task][task] for task in range(old)]) if old else None


def _lost(matrix: Matrix, rows: Matrix) -> float | None:
    old = len(matrix) - 1
    best = [max(row[task] for row in rows if len(row) > task) for task in range(old)]
    return _mean([best[task] - matrix[-1][task] for task in range(old)]) if old else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _check(matrix: Matrix) -> None:
    if not matrix or any(len(row) != number for number, row in enumerate(matrix, start=1)):
        raise InputError(f"row i of an accuracy matrix holds i + 1 tasks; these rows hold {[len(r) for r in matrix]}")
