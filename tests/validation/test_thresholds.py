import numpy as np
import pytest

from ray_tl.selection import by_agreement
from ray_tl.validation import SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.thresholds import expected_accuracy, expected_accuracy_by_entropy, share_above


def outputs(confidence):
    confidence = np.asarray(confidence)
    return np.stack([1 - confidence, confidence], axis=1)


def test_share_above_counts_the_target_beyond_the_threshold_of_the_source():
    # Half of the source is right, so the threshold lies between 2 and 3, at 2.5.
    assert share_above(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, np.array([2.4, 2.5, 9.0, 0.0])) == 0.5


def test_entropy_and_largest_probability_say_the_same_of_two_classes():
    # With two classes entropy falls as confidence grows; the thresholds lie between the same two examples.
    holdout, target = outputs([0.6, 0.7, 0.8, 0.9]), outputs([0.55, 0.65, 0.79, 0.9, 0.95])
    assert expected_accuracy(holdout, 2 / 3, target) == pytest.approx(3 / 5)
    assert expected_accuracy_by_entropy(holdout, 2 / 3, target) == pytest.approx(3 / 5)


def test_entropy_sees_how_the_rest_is_spread():
    holdout = np.array([[0.6, 0.4, 0.0], [0.6, 0.2, 0.2]])
    target = np.array([[0.6, 0.4, 0.0], [0.6, 0.2, 0.2], [0.5, 0.5, 0.0]])
    assert expected_accuracy(holdout, 0.5, target) == pytest.approx(2 / 3)
    assert expected_accuracy_by_entropy(holdout, 0.5, target) == pytest.approx(2 / 3)
    assert expected_accuracy_by_entropy(holdout, 0.5, target[1:2]) == 0


def test_validators_take_the_accuracy_on_the_source_from_its_labels():
    # Three of four are right, so 0.7 is sure enough.
    source = SourceEvidence(outputs([0.6, 0.7, 0.8, 0.9]), np.array([0, 1, 1, 1]))
    found = score_all(["atc", "atc_entropy"], source, TargetEvidence(outputs([0.55, 0.65, 0.75, 0.9, 0.95])))
    assert found == {"atc": pytest.approx(3 / 5), "atc_entropy": pytest.approx(3 / 5)}


def test_selection_asks_the_same_function():
    assert by_agreement.expected_accuracy is expected_accuracy
