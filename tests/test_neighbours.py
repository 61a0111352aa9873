import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_tl.neighbours import NEAREST, Neighbours, nearest_neighbours


@given(st.integers(2, 20), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_agreement_is_that_of_a_double_loop(rows, num_classes, seed):
    random = np.random.default_rng(seed)
    classes = random.integers(num_classes, size=rows + 7)
    chosen = random.permutation(rows + 7)[:rows]
    found = nearest_neighbours(random.normal(size=(rows, 4)), chosen)
    alike, pairs = 0, 0
    for place, row in enumerate(chosen):
        for other in found.nearest[place]:
            alike, pairs = alike + (classes[row] == classes[chosen[other]]), pairs + 1
    chance = sum(((classes[chosen] == each).sum() / rows) ** 2 for each in range(num_classes))
    expected = (alike / pairs - chance) / (1 - 1 / num_classes)
    assert found.agreement(classes, num_classes) == pytest.approx(expected)


@given(st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_nearest_are_those_at_the_smallest_angle_and_never_oneself(rows, seed):
    features = np.random.default_rng(seed).normal(size=(rows, 5))
    found = nearest_neighbours(features, np.arange(rows)).nearest
    centred = features - features.mean(axis=0)
    for place in range(rows):
        angles = [
            np.inf if other == place else -np.dot(centred[place], centred[other]) / np.linalg.norm(centred[other])
            for other in range(rows)
        ]
        assert place not in found[place]
        assert list(found[place]) == list(np.argsort(angles, kind="stable")[: min(NEAREST, rows - 1)])


def test_one_class_for_all_agrees_no_better_than_chance_and_true_groups_agree_wholly():
    groups = np.repeat(np.eye(3), 10, axis=0)
    found = nearest_neighbours(groups, np.arange(30))
    assert found.agreement(np.zeros(30, np.int64), 3) == 0
    assert found.agreement(np.repeat([2, 0, 1], 10), 3) == pytest.approx(1)


def test_constant_features_have_some_neighbours_and_no_nan():
    found = nearest_neighbours(np.ones((6, 3)), np.arange(6))
    assert found.nearest.shape == (6, 5)
    assert np.isfinite(found.agreement(np.arange(6) % 2, 2))


def test_what_is_saved_is_loaded(tmp_path):
    found = nearest_neighbours(np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) * 3)
    with (tmp_path / "n.npz").open("wb") as file:
        found.save(file)
    again = Neighbours.load(tmp_path / "n.npz")
    assert np.array_equal(again.rows, found.rows)
    assert np.array_equal(again.nearest, found.nearest)
