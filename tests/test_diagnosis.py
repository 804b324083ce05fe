"""Numbers of a run's page, against values computed by hand."""

import pytest
import torch

from promptvision.engine.evaluate import calibration_error as torch_error
from promptvision.engine.results.predictions_file import Predicted
from promptvision.report.diagnosis import (
    calibration,
    calibration_error,
    confident_mistakes,
    confusions,
    doubtful_labels,
    thresholds,
    wilson,
)


def predicted(label, *probabilities, path="a.png"):
    """The prediction of these probabilities of classes 0, 1 ..."""
    top = dict(sorted(enumerate(probabilities), key=lambda each: -each[1]))
    first = next(iter(top))
    return Predicted(path, label, first, top[first], probabilities[label], top)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.49016, 0.94332), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (50, 100, 0.40383, 0.59617)],
)
def test_interval_of_wilson(hits, n, low, high):
    """8 in 10: (0.8 + 0.19207 ± 1.96 sqrt(0.016 + 0.0096)) / 1.38415."""
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_calibration_by_hand():
    """Bin 12 of 15 (0.8 to 0.867) holds 0.81 right and 0.85 wrong, bin 14 holds 1.0 right, bin 8 0.55 wrong."""
    found = [predicted(0, 0.81, 0.19), predicted(1, 0.85, 0.15), predicted(0, 1.0, 0.0), predicted(1, 0.55, 0.45)]
    bins = calibration(found)
    assert [(each.count, round(each.confidence, 4), each.accuracy) for each in bins] == [
        (1, 0.55, 0.0),
        (2, 0.83, 0.5),
        (1, 1.0, 1.0),
    ]
    assert [round(each.low * 15) for each in bins] == [8, 12, 14] and bins[-1].high == 1
    assert calibration_error(bins) == pytest.approx((1 * 0.55 + 2 * 0.33 + 1 * 0.0) / 4)


def test_the_error_of_the_curve_is_that_of_the_result():
    values = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    labels = torch.randint(4, (500,), generator=torch.Generator().manual_seed(1))
    found = [predicted(int(label), *row.tolist()) for row, label in zip(values, labels, strict=True)]
    assert calibration_error(calibration(found)) == pytest.approx(torch_error(values, labels), abs=1e-6)


def test_confusions_and_confident_mistakes():
    found = [predicted(0, 0.6, 0.4), predicted(0, 0.3, 0.7), predicted(1, 0.9, 0.1), predicted(1, 0.2, 0.8)]
    assert confusions(found) == {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 1}
    assert [each.probability for each in confident_mistakes(found)] == [0.9, 0.7]


def test_labels_that_look_wrong_by_hand():
    """t_0 = (0.9 + 0.7 + 0.2) / 3 = 0.6 and t_1 = (0.8 + 0.6 + 0.35) / 3 = 0.5833.

    The third image, labelled 0, has p_1 = 0.8 >= t_1: its label looks wrong. The last, labelled 1, has p_0 = 0.65 >=
    t_0. Were t_0 the 0.7 that p_0 lacks, it would be counted nowhere.
    """
    zeros = [predicted(0, 0.9, 0.1), predicted(0, 0.7, 0.3), predicted(0, 0.2, 0.8)]
    ones = [predicted(1, 0.2, 0.8), predicted(1, 0.4, 0.6), predicted(1, 0.65, 0.35)]
    assert thresholds([*zeros, *ones]) == pytest.approx({0: 0.6, 1: 0.58333}, abs=1e-4)
    first, second = doubtful_labels([*ones, *zeros])
    assert (first.of, first.guess, first.probability) == (zeros[2], 1, 0.8), "the least probable label first"
    assert (second.of, second.guess, round(second.threshold, 3)) == (ones[2], 0, 0.6)
    sure = predicted(0, 0.98, 0.02)  # t_0 = 0.695
    assert [each.of for each in doubtful_labels([*zeros, *ones, sure])] == [zeros[2]]


def test_a_class_without_images_is_no_guess():
    assert doubtful_labels([predicted(0, 0.1, 0.2, 0.7), predicted(1, 0.0, 1.0, 0.0)]) == []
