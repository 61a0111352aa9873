import numpy as np
import pytest

from ray_tl.neighbours import nearest_neighbours
from ray_tl.selection.agreement import NUM_RESAMPLES, agreement_by_structure, agreements
from ray_tl.selection.reference_space import ReferenceSpace

ROWS = 90
TRUE = np.arange(ROWS) % 3


def sure(classes, num_classes=3):
    """Softmax that is nearly sure of these classes."""
    return 0.02 / num_classes + 0.98 * np.eye(num_classes)[classes]


def wrong_in(share, seed=0):
    random = np.random.default_rng(seed)
    return np.where(random.random(ROWS) < share, random.integers(3, size=ROWS), TRUE)


def space(classes=TRUE, noise=0.05, seed=0, owners=(0,), **fields):
    features = np.eye(3)[classes] + np.random.default_rng(seed).normal(scale=noise, size=(ROWS, 3))
    return ReferenceSpace(nearest_neighbours(features, np.arange(ROWS)), frozenset(owners), **fields)


FIXED = space(is_fixed=True)


def found(target, families=None, spaces=(FIXED,)):
    target = {number: sure(classes) for number, classes in target.items()}
    return agreements(target, families or {number: str(number) for number in target}, spaces, 3)


def test_structure_is_kappa_of_neighbours_and_on_average_the_same_on_resamples():
    classes = {0: TRUE, 1: wrong_in(0.4), 2: wrong_in(0.8, seed=1)}
    result = found(classes)
    expected = []
    for own in classes.values():
        alike = np.mean([np.mean(own[near] == own[row]) for row, near in enumerate(FIXED.neighbours.nearest)])
        chance = sum(np.mean(own == label) ** 2 for label in range(3))
        expected.append((alike - chance) / (1 - chance))
    assert result.structure.shape == result.names.shape == (1 + NUM_RESAMPLES, 3)
    np.testing.assert_allclose(result.structure[0], np.array(expected) - np.mean(expected), atol=1e-12)
    np.testing.assert_allclose(result.structure[1:].mean(axis=0), result.structure[0], atol=0.03)


def test_names_is_the_share_on_which_the_ensemble_of_the_others_agrees():
    classes = {0: TRUE, 1: wrong_in(0.2), 2: wrong_in(0.3, seed=1), 3: wrong_in(0.4, seed=2)}
    result = found(classes)
    for place, number in enumerate(classes):
        others = sum(sure(classes[other]) for other in classes if other != number)
        assert result.names[0, place] == pytest.approx(np.mean(others.argmax(axis=1) == classes[number]))


def test_a_family_has_one_vote_however_many_trials_it_has():
    copies, lonely = wrong_in(1.0, seed=3), {0: TRUE, 1: TRUE}
    classes = lonely | dict.fromkeys(range(2, 9), copies)
    one_vote = found(classes, {0: "a", 1: "b", **dict.fromkeys(range(2, 9), "c")})
    each_a_vote = found(classes)
    assert one_vote.names[0, 0] > 0.9
    assert each_a_vote.names[0, 0] < 0.6


def test_merging_two_classes_costs_names_and_swapping_two_as_well():
    merged, swapped = np.where(TRUE == 2, 1, TRUE), np.array([0, 2, 1])[TRUE]
    result = found({0: TRUE, 1: wrong_in(0.1), 2: wrong_in(0.1, seed=1), 3: merged, 4: swapped})
    assert result.structure[0, 4] == pytest.approx(result.structure[0, 0])
    assert result.names[0, 0] > 0.9
    assert max(result.names[0, 3:]) < 0.75
    assert result.merits()[0].argmax() == 0


def test_a_target_of_half_of_the_classes_is_no_drawback():
    few = np.where(TRUE == 2, 0, TRUE)
    even = np.where(np.arange(ROWS) % 6 == 2, 2, few)  # spreads over all three, half of the time wrongly
    spaces = [space(few, is_fixed=True)]
    result = found({0: few, 1: even, 2: few}, spaces=spaces)
    assert result.merits()[0, 0] > result.merits()[0, 1]


def test_one_class_for_all_scores_nothing_for_structure():
    result = found({0: TRUE, 1: np.zeros(ROWS, int), 2: wrong_in(0.5)})
    assert result.structure[0].argmin() == 1
    assert result.structure[0, 1] - result.structure[0, 0] == pytest.approx(-1, abs=0.05)


def test_in_trained_spaces_a_trial_is_not_judged_by_its_own():
    errors = wrong_in(0.8, seed=5)
    spaces = [space(errors, owners=(3,)), *(space(seed=seed, owners=(seed,)) for seed in range(3))]
    classes = {0: TRUE, 1: wrong_in(0.2), 2: wrong_in(0.3, seed=1), 3: errors}
    result = found(classes, spaces=spaces)
    assert result.structure[0].argmin() == 3


def test_too_little_to_compare_gives_none():
    assert found({0: TRUE, 1: TRUE}) is None
    assert found(dict.fromkeys(range(4), TRUE), spaces=[]) is None
    assert found(dict.fromkeys(range(4), TRUE), spaces=[space(owners=(0,)), space(owners=(1,))]) is None


def test_equal_trials_have_equal_merit():
    np.testing.assert_array_equal(found(dict.fromkeys(range(4), TRUE)).merits(), 0)


def test_structure_on_drawn_spaces_is_the_mean_over_those_a_trial_does_not_own():
    classes = np.stack([wrong_in(share, seed) for seed, share in enumerate((0.1, 0.3, 0.5, 0.7))])
    spaces = [space(wrong_in(0.2, seed=seed), seed=seed, owners=(seed,)) for seed in range(3)]
    weights = np.random.default_rng(1).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=3) / ROWS
    draws = np.array([[1, 1, 1], [2, 0, 1], [3, 0, 0]])
    result = agreement_by_structure((0, 1, 2, 3), classes, spaces, weights, draws, 3)
    for row, (weight, draw) in enumerate(zip(weights, draws, strict=True)):
        expected = [in_drawn_spaces(number, classes, spaces, weight, draw) for number in range(4)]
        np.testing.assert_allclose(result[row], expected, atol=1e-12)


def in_drawn_spaces(number, classes, spaces, weight, draw):
    """Slowly; of the spaces that a trial does not own all count where none of these is drawn."""
    others = [place for place in range(len(spaces)) if place != number]
    times = {place: draw[place] for place in others}
    times = times if any(times.values()) else dict.fromkeys(others, 1)
    ahead = {}
    for place in others:
        judged = [trial for trial in range(len(classes)) if trial != place]
        kappas = {trial: weighted_kappa(classes[trial], spaces[place].neighbours.nearest, weight) for trial in judged}
        ahead[place] = kappas[number] - np.mean(list(kappas.values()))
    return sum(times[place] * ahead[place] for place in others) / sum(times.values())


def weighted_kappa(own, nearest, weight):
    alike = sum(w * np.mean(own[near] == own[row]) for row, (w, near) in enumerate(zip(weight, nearest, strict=True)))
    chance = sum(weight[own == label].sum() ** 2 for label in range(3))
    return (alike - chance) / (1 - chance)


def test_who_else_is_in_the_pool_adds_to_the_noise_of_names():
    quarters = np.split(np.arange(ROWS), [22, 44, 66])
    classes = {0: TRUE} | {
        number + 1: np.where(np.isin(np.arange(ROWS), rows), (TRUE + 1) % 3, TRUE)
        for number, rows in enumerate(quarters * 2)
    }
    one_family = found(classes, dict.fromkeys(classes, "im")).names
    each_its_own = found(classes).names
    assert one_family[1:, 1].std() > 1.2 * each_its_own[1:, 1].std()


def test_the_order_of_the_trials_does_not_change_what_is_drawn():
    classes = {0: TRUE, 1: wrong_in(0.2), 2: wrong_in(0.3, seed=1), 3: wrong_in(0.4, seed=2)}
    families = dict.fromkeys(classes, "im")
    first, again = found(classes, families), found(dict(reversed(classes.items())), families)
    np.testing.assert_array_equal(first.names, again.names)
    assert first.numbers == again.numbers == (0, 1, 2, 3)
