import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from ray_tl.neighbours import LEAST_TRUST, LabelledSpace, Neighbours, nearest_neighbours
from ray_tl.selection.cross_examination import cross_agreements

ROWS = 60
TRUE = np.arange(ROWS) % 3


def space(features, trust=0.9):
    return LabelledSpace(nearest_neighbours(features, np.arange(len(features))), trust)


def space_of(classes, noise=0.05, seed=0, **fields):
    """One in which examples of the same of three classes lie together."""
    return space(np.eye(3)[classes] + np.random.default_rng(seed).normal(scale=noise, size=(len(classes), 3)), **fields)


def with_errors(share, seed):
    random = np.random.default_rng(seed)
    return np.where(random.random(ROWS) < share, random.integers(3, size=ROWS), TRUE)


@given(st.integers(3, 7), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_it_is_the_least_squares_fit_of_a_product_to_every_agreement_in_the_space_of_another(trials, seed):
    random = np.random.default_rng(seed)
    classes = {number * 3: with_errors(random.uniform(0, 0.6), random) for number in range(trials)}
    spaces = {number: space_of(TRUE, noise=random.uniform(0.1, 0.6), seed=random) for number in classes}
    elsewhere = [
        (row, column, max(0, spaces[other].neighbours.agreement(classes[number], 3)))
        for row, number in enumerate(classes)
        for column, other in enumerate(spaces)
        if other != number
    ]

    def misses(both):
        return [both[row] * both[trials + column] - value for row, column, value in elsewhere]

    fitted = least_squares(misses, np.full(2 * trials, 0.7), xtol=1e-12, ftol=1e-12, gtol=1e-12).x
    expected = np.abs(fitted[:trials]) * np.sqrt((fitted[trials:] ** 2).mean())
    found = cross_agreements(classes, spaces, 3)
    assert list(found) == list(classes)
    assert list(found.values()) == pytest.approx(expected, abs=1e-5)


def test_who_is_right_oftener_agrees_more_and_who_is_right_always_about_wholly():
    classes = {number: with_errors(number / 5, seed=number) for number in range(5)}
    spaces = {number: space_of(TRUE, seed=number) for number in classes}
    found = cross_agreements(classes, spaces, 3)
    assert sorted(found, key=found.get, reverse=True) == [0, 1, 2, 3, 4]
    assert found[0] == pytest.approx(1, abs=0.03)


def test_features_that_suit_ones_own_errors_do_not_help():
    wrong = with_errors(0.8, seed=1)
    classes = {0: TRUE, 1: with_errors(0.2, seed=2), 2: with_errors(0.2, seed=3), 3: wrong}
    spaces = {0: space_of(TRUE), 1: space_of(TRUE, seed=1), 2: space_of(TRUE, seed=2), 3: space_of(wrong)}
    assert spaces[3].neighbours.agreement(wrong, 3) > 0.9
    found = cross_agreements(classes, spaces, 3)
    assert max(found, key=found.get) == 0
    assert min(found, key=found.get) == 3


def test_a_trial_whose_own_space_is_poor_gains_nothing_by_not_being_measured_in_it():
    classes = {0: with_errors(0.3, 1), 1: with_errors(0.3, 1), 2: with_errors(0.1, 2), 3: with_errors(0.1, 3)}
    spaces = {number: space_of(TRUE, noise=2.0 if number == 0 else 0.05, seed=number) for number in classes}
    found = cross_agreements(classes, spaces, 3)

    def mean_elsewhere(number):
        others = [other.neighbours for owner, other in spaces.items() if owner != number]
        return np.mean([other.agreement(classes[number], 3) for other in others])

    assert mean_elsewhere(0) - mean_elsewhere(1) > 0.15
    assert found[0] == pytest.approx(found[1], abs=0.03)
    assert found[2] > found[0]


def test_a_space_that_several_share_counts_once_and_for_none_of_them():
    frozen = space_of(with_errors(0.5, 9))
    rounded = LabelledSpace(Neighbours(frozen.neighbours.rows, frozen.neighbours.nearest.copy()), 0.9)
    rounded.neighbours.nearest[7] = rounded.neighbours.nearest[7, ::-1]
    spaces = {0: frozen, 1: rounded, 2: frozen, 3: space_of(TRUE), 4: space_of(TRUE, seed=1)}
    classes = {0: with_errors(0.5, 9), 1: TRUE, 2: with_errors(0.2, 2), 3: with_errors(0.2, 3), 4: with_errors(0.2, 4)}
    found = cross_agreements(classes, spaces, 3)
    # 0, 1 and 2 are measured in the spaces of 3 and 4 alone: were theirs another one, their order would be as it is.
    mean = {each: np.mean([spaces[own].neighbours.agreement(classes[each], 3) for own in (3, 4)]) for each in (0, 1, 2)}
    assert found[0] / found[1] == pytest.approx(mean[0] / mean[1], rel=0.02)
    assert found[2] / found[1] == pytest.approx(mean[2] / mean[1], rel=0.02)
    assert cross_agreements(classes, {number: spaces[number] for number in (0, 1, 2, 3)}, 3) is None


def test_spaces_that_say_little_of_the_source_and_those_of_others_than_the_candidates_are_left_out():
    classes = {number: with_errors(0.2, number) for number in range(4)}
    spaces = {number: space_of(TRUE, seed=number) for number in range(4)}
    poor = LabelledSpace(spaces[3].neighbours, np.nextafter(LEAST_TRUST, 0))
    without = cross_agreements(classes, {number: spaces[number] for number in range(3)}, 3)
    assert cross_agreements(classes, {**spaces, 3: poor}, 3) == without
    assert cross_agreements(classes, {**spaces, 3: poor, 9: space_of(TRUE, seed=9)}, 3) == without
    assert cross_agreements(classes, spaces, 3) != without


def test_with_fewer_than_three_spaces_nothing_is_said():
    classes = {number: TRUE for number in range(4)}
    two = {0: space_of(TRUE), 1: space_of(TRUE, seed=1)}
    assert cross_agreements(classes, two, 3) is None
    assert cross_agreements(classes, {}, 3) is None
    assert cross_agreements({}, {}, 3) is None
