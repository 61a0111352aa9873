import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_tl.validation.thresholds import expected_accuracy


def outputs(confidence):
    confidence = np.asarray(confidence)
    return np.stack([1 - confidence, confidence], axis=1)


def test_the_target_is_right_where_it_is_as_sure_as_the_source_is_where_it_is_right():
    # Three of four source examples are right, so 0.7 is sure enough, and three of five target examples are.
    holdout, target = outputs([0.6, 0.7, 0.8, 0.9]), outputs([0.55, 0.65, 0.75, 0.9, 0.95])
    assert expected_accuracy(holdout, 0.75, target) == pytest.approx(3 / 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_target_that_is_the_source_loses_nothing(seed):
    random = np.random.default_rng(seed)
    holdout, accuracy = random.dirichlet(np.ones(4), 50), random.integers(51) / 50
    assert expected_accuracy(holdout, accuracy, holdout) == pytest.approx(accuracy, abs=1 / 50)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_threshold_is_found_by_trying_every_one(seed):
    random = np.random.default_rng(seed)
    holdout, target, right = random.dirichlet(np.ones(3), 20), random.dirichlet(np.ones(3), 30), random.integers(1, 21)
    sure = sorted(max(row) for row in holdout)
    # Any threshold between the last that is too low and the first that is high enough says the same of the source.
    low, high = (sure[20 - right - 1] if right < 20 else 0), sure[20 - right]
    found = expected_accuracy(holdout, right / 20, target)
    bounds = [sum(max(row) >= threshold for row in target) / 30 for threshold in (high, low)]
    assert bounds[0] <= found <= bounds[1]
