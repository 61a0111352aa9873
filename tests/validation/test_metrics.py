import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
)

from ray_tl.errors import InvalidInput, TrialFailed
from ray_tl.validation import metrics

METRICS = [
    metrics.accuracy,
    metrics.balanced_accuracy,
    metrics.macro_f1,
    metrics.expected_calibration_error,
    metrics.brier,
    metrics.nll,
]
# Predicted classes 0, 0, 1, 1 for true classes 0, 1, 1, 1; class 2 occurs nowhere.
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.3, 0.5, 0.2]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 1])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.accuracy, 3 / 4),
        (metrics.balanced_accuracy, (1 + 2 / 3) / 2),
        (metrics.macro_f1, (2 / 3 + 4 / 5) / 2),
        (metrics.expected_calibration_error, (0.2 + 0.6 + 0.0 + 0.5) / 4),
        (metrics.brier, (0.06 + 0.72 + 0.0 + 0.38) / 4),
        (metrics.nll, -(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 4),
    ],
)
def test_four_predictions_score_what_was_worked_out_by_hand(metric, expected):
    assert metric(PROBABILITIES, LABELS) == pytest.approx(expected, abs=1e-6)


def random_predictions(seed, num_rows=40, num_classes=3):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(num_classes), num_rows)
    labels = np.concatenate([np.arange(num_classes), random.integers(num_classes, size=num_rows - num_classes)])
    return probabilities, labels


def calibration_reference(probabilities, labels):
    gap = 0.0
    for lower in range(15):
        inside = [i for i, p in enumerate(probabilities) if lower / 15 < max(p) <= (lower + 1) / 15]
        hits = sum(int(np.argmax(probabilities[i])) == labels[i] for i in inside)
        gap += abs(hits - sum(max(probabilities[i]) for i in inside))
    return gap / len(labels)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_calibration_error_is_that_of_a_loop_over_the_bins(seed):
    probabilities, labels = random_predictions(seed)
    found = metrics.expected_calibration_error(probabilities, labels)
    assert found == pytest.approx(calibration_reference(probabilities, labels), abs=1e-6)


def test_full_confidence_shares_the_last_bin_of_the_calibration_error():
    probabilities = np.array([[1.0, 0.0], [0.95, 0.05]])
    found = metrics.expected_calibration_error(probabilities, np.array([1, 0]))
    assert found == pytest.approx(((1.0 + 0.95) - 1) / 2, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_scikit_learn(seed):
    probabilities, labels = random_predictions(seed)
    predicted, found = probabilities.argmax(axis=1), metrics.summary(probabilities, labels)
    assert found["nll"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), rel=1e-6)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_recalls_and_confusion_are_those_of_scikit_learn(seed):
    probabilities, labels = random_predictions(seed, num_classes=4)
    labels[labels == 2] = 3
    predicted, classes = probabilities.argmax(axis=1), list(range(4))
    expected = recall_score(labels, predicted, labels=classes, average=None, zero_division=np.nan)
    np.testing.assert_allclose(metrics.recalls(probabilities, labels), expected)
    assert np.isnan(expected[2])
    np.testing.assert_array_equal(
        metrics.confusion(probabilities, labels), confusion_matrix(labels, predicted, labels=classes)
    )


@pytest.mark.parametrize("metric", METRICS)
def test_one_row_and_one_class_give_a_finite_number(metric):
    value = metric(np.ones((1, 1), dtype=np.float32), np.array([0]))
    assert value == pytest.approx(1.0) or value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_a_sure_mistake_gives_a_finite_plain_float(metric):
    value = metric(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
    assert type(value) is float
    assert math.isfinite(value)


@pytest.mark.parametrize("metric", [*METRICS, metrics.recalls, metrics.confusion])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), r"shape \(0, 3\) hold no prediction"),
        (np.full((2, 3), 1 / 3), np.array([0]), r"labels of shape \(1,\) do not match 2 predictions"),
        (np.full((2, 3), 1 / 3), np.array([0, 3]), r"labels range over 0..3, but the predictions have 3 classes"),
        (np.full((2, 3), 1 / 3), np.array([-1, 0]), r"labels range over -1..0"),
    ],
)
def test_inputs_that_do_not_match_are_refused(metric, probabilities, labels, message):
    with pytest.raises(InvalidInput, match=message):
        metric(probabilities, labels)


@pytest.mark.parametrize("metric", METRICS)
def test_predictions_that_are_not_finite_fail_the_trial(metric):
    with pytest.raises(TrialFailed, match="1 of 2 predictions are not finite"):
        metric(np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 1]))


def test_recalls_are_those_of_each_class_and_not_a_number_for_one_that_is_not_there():
    np.testing.assert_allclose(metrics.recalls(PROBABILITIES, LABELS), [1, 2 / 3, np.nan])


def test_recalls_are_those_of_scikit_learn():
    probabilities, labels = random_predictions(3)
    expected = recall_score(labels, probabilities.argmax(axis=1), average=None)
    np.testing.assert_allclose(metrics.recalls(probabilities, labels), expected)
