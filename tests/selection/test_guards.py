import math

import pytest

from ray_tl.selection.guards import source_loss
from ray_tl.validation.objective import collapse, effective_classes


@pytest.mark.parametrize(
    ("histogram", "expected"),
    [([1.0, 0.0], 1), ([0.5, 0.5], 2), ([0.25] * 4, 4), ([0.5, 0.25, 0.25], 2**1.5), ([0.9, 0.1], 10 / 9**0.9)],
)
def test_effective_classes_by_hand(histogram, expected):
    assert math.isclose(effective_classes(histogram), expected, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("histogram", "source"),
    [
        ([1.0, 0.0], [0.5, 0.5]),
        ([0.99, 0.01], [0.5, 0.5]),
        ([1.0, 0.0], [0.9, 0.1]),  # 1 effective class is more than 0.6 of the source's 1.38
        ([0.5, 0.5] + [0.0] * 8, [0.1] * 10),
        ([0.2] * 5 + [0.0] * 5, [0.1] * 10),  # 5 of 10
    ],
)
def test_predictions_on_too_few_classes_have_collapsed(histogram, source):
    assert collapse(histogram, source).startswith("predictions spread over ")


@pytest.mark.parametrize(
    ("histogram", "source"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.8, 0.2], [0.5, 0.5]),  # exp(0.5004) = 1.65 of 2
        ([0.9, 0.1], [0.9, 0.1]),
        ([1 / 7] * 7 + [0.0] * 3, [0.1] * 10),  # 7 of 10
        ([0.1] * 10, [0.91] + [0.01] * 9),
    ],
)
def test_predictions_spread_about_like_the_source_have_not_collapsed(histogram, source):
    assert collapse(histogram, source) is None


def test_collapse_says_how_many_classes_there_are():
    reason = "predictions spread over 1.0 effective classes where the source has 2.0"
    assert collapse([0.0, 1.0], [0.5, 0.5]) == reason


def test_source_accuracy_may_fall_by_the_margin_and_no_more():
    assert source_loss(0.8, 0.9) is None
    assert source_loss(0.95, 0.9) is None
    assert source_loss(0.79, 0.9) == "source accuracy 79.0% is more than 10% below source-only's 90.0%"
