from dataclasses import replace

import numpy as np
import pytest

from ray_tl.validation import score_all
from ray_tl.validation.reverse import reverse_probabilities
from tests.validation.world import ROWS, whole_evidence

TWO_SIDES = np.array([[-2.0], [-1.0], [1.0], [2.0]])
LEFT_THEN_RIGHT = np.array([0, 0, 1, 1])


def reverse_accuracy(target_probabilities):
    evidence = whole_evidence()
    target = replace(evidence["target"], probabilities=target_probabilities.astype(np.float32))
    return score_all(["reverse_validation"], **{**evidence, "target": target})["reverse_validation"]


def test_boundary_between_two_sides_lies_in_the_middle():
    found = reverse_probabilities(TWO_SIDES, LEFT_THEN_RIGHT, np.array([[-0.1], [0.0], [0.1]]), 2)
    assert found[:, 0] == pytest.approx(found[::-1, 1])
    assert list(found[:, 1] > 0.5 + 1e-6) == [False, False, True]


def test_classes_that_are_predicted_nowhere_have_no_share():
    found = reverse_probabilities(TWO_SIDES, 2 * LEFT_THEN_RIGHT, TWO_SIDES, 4)
    assert found[:, [1, 3]].max() == 0
    assert list(found.argmax(axis=1)) == [0, 0, 2, 2]


def test_right_labels_lead_back_and_those_of_the_next_class_do_not():
    probabilities = whole_evidence()["target"].probabilities
    assert reverse_accuracy(probabilities) == 1
    assert reverse_accuracy(np.roll(probabilities, 1, axis=1)) == 0


def test_a_single_predicted_class_leads_back_to_its_share_of_the_source():
    found = reverse_probabilities(TWO_SIDES, np.full(4, 1), TWO_SIDES, 3)
    assert np.array_equal(found, np.tile([0, 1, 0], (4, 1)))
    assert reverse_accuracy(np.tile([0.0, 1.0, 0.0], (ROWS, 1))) == pytest.approx(1 / 3)


def test_wide_features_are_narrowed_and_still_tell_the_sides():
    random, side = np.random.default_rng(0), np.arange(300) % 2
    wide = random.normal(size=(300, 400)) + np.where(side[:, None] == 1, 1.0, -1.0)
    found = reverse_probabilities(wide[:200], side[:200], wide[200:], 2)
    assert list(found.argmax(axis=1)) == list(side[200:])
