"""Of spaces that are fixed before a search, the one in which source neighbours share their label."""

import subprocess
import sys

import numpy as np
import pytest

from ray_tl.selection.fixed_space import most_trusted_space

LABELS = np.array([0] * 6 + [1] * 6)
ROWS = np.array([4, 7, 9])
SIDES = np.array(
    [[side, height / 10] for side in (2.0, -2.0) for height in range(6)]
)  # six to the right, six to the left
# The third target example lies to the right, the others to the left.
TARGET = np.array([[-1.0, 0.1], [-1, 0.2], [3, 0.1]])
APART = SIDES, TARGET  # each class on a side of its own
MIXED = SIDES[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]], TARGET  # three of each class on either side


def found(features):
    return most_trusted_space(features, LABELS, ROWS, num_classes=2)


def test_the_space_whose_source_neighbours_share_their_label_wins():
    assert found({"mixed": MIXED, "apart": APART}).space == "apart"


def test_of_equal_spaces_the_first_wins():
    assert found({"one": APART, "other": APART}).space == "one"


def test_trust_is_kappa_of_the_labels_of_five_neighbours():
    assert found({"apart": APART}).trust == pytest.approx(1)
    # On either side each has two others of its class among five: 2/5, where chance gives 1/2.
    assert found({"mixed": MIXED}).trust == pytest.approx((0.4 - 0.5) / 0.5)


def test_votes_are_shares_among_the_nearest_source_examples():
    result = found({"apart": APART})
    np.testing.assert_allclose(result.votes, [[0, 1], [0, 1], [1, 0]], atol=1e-6)
    assert result.neighbours.rows.tolist() == [4, 7, 9]


def test_a_fixed_space_is_chosen_without_torch():
    program = "import sys, ray_tl.selection.fixed_space; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
