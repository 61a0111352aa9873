"""Agreement with the others, whichever of them had happened to be in the pool."""

import numpy as np
import pytest

from ray_tl.selection.votes import MOST_CLASSES, agreement_with_drawn, draws_of_trials

FAMILIES = {0: "source", 1: "im", 2: "coral", 3: "im", 4: "im", 5: "source"}


def sure(*classes):
    return 0.04 / 3 + 0.96 * np.eye(3)[list(classes)]


def drawn_ensemble(probabilities, families, draw, left_out, row):
    """Class that the drawn ones predict, one trial after the other."""
    total = 0
    for family in set(families.values()):
        others = [number for number in probabilities if families[number] == family and number != left_out]
        times = {number: draw[number] for number in others}
        if not any(times.values()):
            times = dict.fromkeys(others, 1)
        if others:
            total = total + sum(times[n] * probabilities[n][row] for n in others) / sum(times.values())
    return total.argmax()


def one_by_one(probabilities, families, weights, draws):
    return [
        [
            sum(
                weight[row] * (drawn_ensemble(probabilities, families, draw, number, row) == each[row].argmax())
                for row in range(len(each))
            )
            for number, each in probabilities.items()
        ]
        for weight, draw in zip(weights, draws, strict=True)
    ]


def often_right(true, num_classes, random):
    likely = np.where(random.random(len(true)) < 0.5, true, random.integers(num_classes, size=len(true)))
    return 0.3 * np.eye(num_classes)[likely] + 0.7 * random.dirichlet(np.full(num_classes, 0.5), size=len(true))


@pytest.mark.parametrize("num_classes", [2, 7, 2 * MOST_CLASSES])
def test_all_at_once_is_the_same_as_one_by_one(num_classes):
    random = np.random.default_rng(0)
    true = random.integers(num_classes, size=25)
    outputs = {number: often_right(true, num_classes, random) for number in FAMILIES}
    weights = random.multinomial(25, np.full(25, 1 / 25), size=12) / 25
    draws = draws_of_trials(list(FAMILIES.values()), 12, random)
    found = agreement_with_drawn(outputs, FAMILIES, weights, draws)
    np.testing.assert_allclose(found, one_by_one(outputs, FAMILIES, weights, draws), atol=1e-12)


def test_what_is_drawn_decides_with_whom_a_trial_agrees():
    outputs = {0: sure(0), 1: sure(0), 2: sure(1)}
    one_family = dict.fromkeys(outputs, "im")
    found = agreement_with_drawn(outputs, one_family, np.ones((2, 1)), np.array([[0, 2, 1], [0, 1, 2]]))
    assert found[:, 0].tolist() == [1, 0]


def test_where_a_family_has_drawn_none_but_the_trial_itself_all_others_of_it_count():
    outputs = {0: sure(2), 1: sure(0), 2: sure(0), 3: sure(2)}
    found = agreement_with_drawn(outputs, dict.fromkeys(outputs, "im"), np.ones((1, 1)), np.array([[4, 0, 0, 0]]))
    assert found[0, 0] == 0  # 1 and 2 outvote 3
    assert found[0, 3] == 1  # only 0 is there


def test_each_family_draws_as_many_as_it_has():
    families = ["im", "coral", "im", "source", "im"]
    draws = draws_of_trials(families, 300, np.random.default_rng(0))
    assert set(draws[:, [0, 2, 4]].sum(axis=1)) == {3}
    assert set(draws[:, 1]) == set(draws[:, 3]) == {1}
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.15)
