import math

import pytest
from scipy.stats import norm

from ray_tl.selection.guards import collapse, effective_classes, no_better_on_source, source_loss


@pytest.mark.parametrize(
    ("histogram", "expected"),
    [([1.0, 0.0], 1), ([0.5, 0.5], 2), ([0.25] * 4, 4), ([0.5, 0.25, 0.25], 2**1.5), ([0.9, 0.1], 10 / 9**0.9)],
)
def test_effective_classes_by_hand(histogram, expected):
    assert math.isclose(effective_classes(histogram), expected, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("histogram", "shares"),
    [
        ([1.0, 0.0], [0.5, 0.5]),
        ([0.99, 0.01], [0.5, 0.5]),
        ([1.0, 0.0], [0.9, 0.1]),  # 1 effective class is more than 0.6 of 1.38
        ([0.5, 0.5] + [0.0] * 8, [0.1] * 10),
        ([0.2] * 5 + [0.0] * 5, [0.1] * 10),  # 5 of 10
    ],
)
def test_predictions_on_too_few_classes_have_collapsed(histogram, shares):
    assert collapse(histogram, shares).startswith("predictions spread over ")


@pytest.mark.parametrize(
    ("histogram", "shares"),
    [
        ([1.0, 0.0], [1.0, 0.0]),  # the target is known to hold no other
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.8, 0.2], [0.5, 0.5]),  # exp(0.5004) = 1.65 of 2
        ([0.9, 0.1], [0.9, 0.1]),
        ([1 / 7] * 7 + [0.0] * 3, [0.1] * 10),  # 7 of 10
        ([0.1] * 10, [0.91] + [0.01] * 9),
    ],
)
def test_predictions_spread_about_like_the_known_shares_have_not_collapsed(histogram, shares):
    assert collapse(histogram, shares) is None


@pytest.mark.parametrize("histogram", [[0.99, 0.01], [0.5, 0.5] + [0.0] * 8, [0.1] * 10])
def test_where_shares_are_not_known_few_classes_are_no_collapse(histogram):
    assert collapse(histogram, None) is None


def test_a_single_class_is_a_collapse_where_shares_are_not_known():
    assert collapse([0.0, 1.0, 0.0], None) == "predictions are of a single class"


def test_collapse_says_how_many_classes_there_are():
    reason = "predictions spread over 1.0 effective classes where the target has 2.0"
    assert collapse([0.0, 1.0], [0.5, 0.5]) == reason


def test_source_accuracy_may_fall_by_the_margin_and_no_more():
    assert source_loss(0.8, 0.9) is None
    assert source_loss(0.95, 0.9) is None
    assert source_loss(0.79, 0.9) == "source accuracy 79.0% is more than 10% below source-only's 90.0%"


@pytest.mark.parametrize("num_examples", [100, 400, 3000])
def test_a_better_source_accuracy_must_pass_the_one_sided_bound(num_examples):
    variance = (0.8 * 0.2 + 0.85 * 0.15) / num_examples
    is_beyond = norm.sf(0.05 / math.sqrt(variance)) < 0.05
    assert (no_better_on_source(0.85, 0.8, num_examples) is None) == is_beyond


def test_what_is_not_above_source_only_is_said():
    said = "source accuracy 84.2% is not above source-only's 80.0% beyond chance"
    assert no_better_on_source(0.842, 0.8, 400) == said
    assert no_better_on_source(1.0, 1.0, 400) is not None
