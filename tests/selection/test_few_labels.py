"""A few labels and a label-free merit as one estimate, and the choice that follows."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from ray_tl.selection import Candidate, Choice, LabelledPredictions
from ray_tl.selection.few_labels import estimate, with_labels
from tests.examples import trial

HITS = np.array(
    [[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]], bool
)
MERITS = np.array([0.9, 0.2, 0.4, -0.3, -1.2])


def contrasts(num_trials):
    """Orthonormal rows that sum to 0: what is left of I numbers once their mean is taken away."""
    return np.linalg.svd(np.ones((1, num_trials)))[2][1:]


def sampling_variance(hits):
    """Per trial of the mean over examples of what it is above the other trials' mean, by an explicit sum."""
    num_trials, num_examples = hits.shape
    paired = [[hits[i, e] - hits[:, e].sum() / num_trials for e in range(num_examples)] for i in range(num_trials)]
    variances = [sum((x - sum(row) / num_examples) ** 2 for x in row) / (num_examples - 1) for row in paired]
    return sum(variances) / (num_trials - 1) / num_examples


def posterior(hits, merits):
    """Estimates as generalised least squares in matrices, integrated over t: accuracies, `ahead` of the first, noise.

    Integrating the slope out under a flat prior is the density of what the merit can't reach (REML).
    """
    num_trials, noise = len(hits), sampling_variance(hits.astype(float))
    basis = contrasts(num_trials)
    y, x = basis @ hits.mean(axis=1), (basis @ merits)[:, None]
    rest = np.linalg.svd(x.T)[2][1:]
    pick = np.eye(num_trials) - np.eye(num_trials)[0]

    def at(t):
        total = (t**2 + noise) * np.eye(num_trials - 1)
        likelihood = multivariate_normal(np.zeros(num_trials - 2), rest @ total @ rest.T).pdf(rest @ y)
        inverse = np.linalg.inv(total)
        of_slope = np.linalg.inv(x.T @ inverse @ x)
        slope = of_slope @ x.T @ inverse @ y
        gain = t**2 * inverse
        mean = basis.T @ (x @ slope + gain @ (y - x @ slope))
        pulled = x - gain @ x
        spread = t**2 * np.eye(num_trials - 1) - gain * t**2 + pulled @ of_slope @ pulled.T
        variance = np.diag(pick @ basis.T @ spread @ basis @ pick.T)
        return likelihood, mean, variance

    def integral(value):
        return np.array([quad(lambda t, i=i: value(*at(t))[i], 0, 0.5)[0] for i in range(num_trials)])

    weight = quad(lambda t: at(t)[0], 0, 0.5)[0]
    mean = integral(lambda density, mean, variance: density * mean) / weight
    second = integral(lambda density, mean, variance: density * (variance + (pick @ mean) ** 2)) / weight
    return hits.mean() + mean, mean - mean[0], np.sqrt(second - (mean - mean[0]) ** 2)


def test_estimates_are_the_posterior_that_matrices_give():
    found = estimate(HITS, MERITS)
    accuracies, ahead, noise = posterior(HITS, MERITS)
    np.testing.assert_allclose(found.accuracies, accuracies, atol=5e-4)  # 101 spreads stand for an integral
    np.testing.assert_allclose(found.ahead, ahead, atol=5e-4)
    np.testing.assert_allclose(found.noise, noise, atol=2e-3)


def test_a_merit_that_points_the_other_way_does_not_count():
    against, without = estimate(HITS, -MERITS), estimate(HITS, np.zeros(5))
    assert np.argsort(against.accuracies).tolist() == np.argsort(without.accuracies).tolist()
    ranks = HITS.mean(axis=1)
    assert np.all(np.diff(against.accuracies[np.argsort(ranks)]) >= -1e-12)


def test_how_easy_the_examples_are_says_nothing_of_a_difference():
    easier = np.concatenate([HITS[:, :3], ~HITS[:, 3:4], HITS[:, 4:]], axis=1)  # from wrong by all to right by all
    np.testing.assert_allclose(estimate(easier, MERITS).ahead, estimate(HITS, MERITS).ahead, atol=1e-12)


def test_the_more_examples_the_more_the_labels_count():
    trust = [estimate(np.tile(HITS, times), MERITS).trust for times in (1, 4, 40)]
    assert trust == sorted(trust)
    many = estimate(np.tile(HITS, 40), MERITS)
    np.testing.assert_allclose(many.accuracies, HITS.mean(axis=1), atol=0.02)


def test_trials_that_are_all_alike_are_all_as_good():
    found = estimate(np.tile(HITS[:1], (5, 1)), np.zeros(5))
    np.testing.assert_allclose(found.accuracies, 5 / 6)
    assert not found.is_ahead.any()


def test_shrinkage_chooses_better_than_labels_or_merit_alone():
    random, regrets = np.random.default_rng(0), []
    for _ in range(300):
        merits = random.normal(size=25)
        accuracies = np.clip(0.6 + 0.08 * merits + 0.06 * random.normal(size=25), 0, 1)
        hits = random.random((25, 20)) < accuracies[:, None]
        taken = np.argmax(merits), np.argmax(hits.mean(axis=1)), np.argmax(estimate(hits, merits).accuracies)
        regrets.append(accuracies.max() - accuracies[list(taken)])
    by_merit, by_labels, joined = np.mean(regrets, axis=0)
    assert joined < 0.8 * min(by_merit, by_labels)


LABELS = np.arange(30) % 3


def predictions(num_right):
    """On 30 examples, of which the first so many are predicted rightly."""
    classes = np.where(np.arange(30) < num_right, LABELS, (LABELS + 1) % 3)
    return LabelledPredictions(np.eye(3)[classes], LABELS)


def choice_of(*numbers, rejected=()):
    """In the order of preference, the first of merit 1 and each that follows of 0.2 less; trial 0 is source-only."""
    items = [
        Candidate(
            trial(number, is_baseline=number == 0), 0.5, 1 - place / 5, "collapsed" if number in rejected else None
        )
        for place, number in enumerate(numbers)
    ]
    return Choice(tuple(sorted(items, key=lambda item: item.rejected is not None)), "best merit.")


def order_of(choice):
    return [item.trial.number for item in choice.candidates]


def test_of_what_the_rule_puts_ahead_the_best_by_both_wins():
    right = {1: 12, 2: 27, 3: 25, 0: 10, 4: 9}
    found = with_labels(choice_of(1, 2, 3, 0, 4), {number: predictions(count) for number, count in right.items()})
    assert order_of(found)[:2] == [2, 3]
    assert order_of(found)[-2:] == [0, 4]
    assert "of 10 labelled target examples a class, 30 in all, it predicts 27 rightly" in found.reason
    assert found.reason.endswith("Without labels it would be trial 1: best merit.")


def test_what_a_guard_rejects_does_not_win_however_many_it_predicts_rightly():
    choice = choice_of(1, 2, 3, 0, 4, rejected=(4,))
    found = with_labels(choice, {number: predictions(20) for number in (1, 2, 3, 0)} | {4: predictions(30)})
    assert order_of(found)[-1] == 4


def test_source_only_stays_where_labels_put_nothing_ahead_of_it_beyond_chance():
    right = {0: 20, 1: 21, 2: 20, 3: 19, 4: 21}
    found = with_labels(choice_of(0, 1, 2, 3, 4), {number: predictions(count) for number, count in right.items()})
    assert found.champion.number == 0
    assert found.reason.startswith("source-only stays: of 10 labelled target examples a class, 30 in all")


def test_labels_replace_source_only_where_the_rule_saw_no_reason():
    right = {0: 8, 1: 10, 2: 29, 3: 9, 4: 10}
    found = with_labels(choice_of(0, 1, 2, 3, 4), {number: predictions(count) for number, count in right.items()})
    assert order_of(found)[:2] == [2, 0]


def test_what_labels_put_behind_source_only_beyond_chance_does_not_replace_it():
    right = {1: 6, 2: 5, 0: 29, 3: 28, 4: 27}
    found = with_labels(choice_of(1, 2, 0, 3, 4), {number: predictions(count) for number, count in right.items()})
    assert found.champion.number == 0


def test_a_merit_of_an_estimated_choice_is_an_accuracy():
    right = {1: 12, 2: 27, 3: 25, 0: 10, 4: 9}
    found = with_labels(choice_of(1, 2, 3, 0, 4), {number: predictions(count) for number, count in right.items()})
    expected = estimate(np.stack([predictions(right[number]).hits for number in (1, 2, 3, 0, 4)]), 1 - np.arange(5) / 5)
    assert [found.merits[number] for number in (1, 2, 3, 0, 4)] == pytest.approx(expected.accuracies.tolist())


@pytest.mark.parametrize(
    ("numbers", "given", "said"),
    [
        ((0,), (0,), "1 trial passes the guards and 4 are needed"),
        ((1, 0, 2), (1, 0, 2), "3 trials pass the guards and 4 are needed"),
        ((1, 0, 2, 3), (1, 0, 2), "1 of 4 trials left no predictions on them"),
    ],
)
def test_where_labels_can_not_join_in_the_rule_decides_and_says_why(numbers, given, said):
    choice = choice_of(*numbers)
    found = with_labels(choice, {number: predictions(20) if number in given else None for number in numbers})
    assert found.candidates == choice.candidates
    assert said in found.reason
