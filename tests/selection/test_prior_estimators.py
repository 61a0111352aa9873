import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm

from ray_tl.errors import InvalidInput
from ray_tl.selection.prior import (
    black_box_shift,
    corrected,
    fit_calibration,
    likely_shares,
    maximum_likelihood_shift,
    regularised_shift,
)
from ray_tl.selection.prior.calibration import resampled_calibrations
from ray_tl.validation.metrics import nll
from tests.selection.mixtures import SHARES, mixture, softmax


def estimates(holdout, labels, target, source_shares):
    arguments = (holdout, labels, target, source_shares)
    return {
        "hard": black_box_shift(*arguments, confusion="hard"),
        "soft": black_box_shift(*arguments, confusion="soft"),
        "regularised": regularised_shift(*arguments),
        "likely": maximum_likelihood_shift(*arguments[:3]).shares,
    }


METHODS = ["hard", "soft", "regularised", "likely"]


def test_two_steps_of_expectation_maximisation_by_hand():
    # One row of (0.8, 0.2) and one of (0.4, 0.6), source balanced. Responsibilities are the rows themselves at first,
    # mean (0.6, 0.4). Then 0.48 / (0.48 + 0.08) = 6/7 and 0.24 / (0.24 + 0.24) = 1/2: mean (19/28, 9/28).
    # The likelihood's maximum, by d/dq [log(0.2 + 0.6 q) + log(0.6 - 0.2 q)] = 0, is q = 4/3: beyond the edge, so 1.
    rows, even = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0.5, 0.5])
    first = (corrected(rows, np.ones(2))).mean(axis=0)
    np.testing.assert_allclose(first, [0.6, 0.4])
    np.testing.assert_allclose(corrected(rows, first / even).mean(axis=0), [19 / 28, 9 / 28])
    np.testing.assert_allclose(likely_shares(rows, even), [1, 0], atol=1e-3)


def test_likeliest_shares_inside_the_simplex_by_hand():
    # log(0.1 + 0.8 q) + log(0.7 - 0.4 q) is greatest where 0.8 (0.7 - 0.4 q) = 0.4 (0.1 + 0.8 q), q = 13/16.
    rows = np.array([[0.9, 0.1], [0.3, 0.7]])
    np.testing.assert_allclose(likely_shares(rows, np.array([0.5, 0.5])), [13 / 16, 3 / 16], atol=1e-5)


def test_weights_of_rows_count_like_copies():
    rows, even = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0.5, 0.5])
    thrice = likely_shares(rows[[0, 1, 1, 1]], even)
    np.testing.assert_allclose(likely_shares(rows, even, weights=np.array([1.0, 3.0])), thrice, atol=1e-6)


def test_dirichlet_prior_weighs_as_many_rows_as_it_says():
    # Of two sure rows the first class is certain; with two more of the source's shares it has (2 + 2 * 0.5) / 4.
    rows = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(likely_shares(rows, np.array([0.5, 0.5]), prior_rows=2), [0.75, 0.25])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_likelihood_is_as_great_as_a_general_optimiser_makes_it(seed):
    random = np.random.default_rng(seed)
    rows, reference = random.dirichlet(np.full(4, 0.5), 60), random.dirichlet(np.full(4, 5.0))
    density = rows / reference

    def loss(scores):
        return -np.log(density @ softmax(scores)).mean()

    found = minimize(loss, np.zeros(4), method="BFGS")
    assert -np.log(density @ likely_shares(rows, reference)).mean() <= found.fun + 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_pure_label_shift_is_recovered(method):
    source, target = mixture([0.25] * 4, 20000, 0), mixture(SHARES, 20000, 1)
    found = estimates(source.probabilities, source.labels, target.probabilities, np.full(4, 0.25))[method]
    np.testing.assert_allclose(found, SHARES, atol=0.015)


@pytest.mark.parametrize("method", METHODS)
def test_source_as_target_has_the_shares_of_the_source(method):
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    source, target = mixture(shares, 20000, 0), mixture(shares, 20000, 1)
    found = estimates(source.probabilities, source.labels, target.probabilities, shares)[method]
    np.testing.assert_allclose(found, shares, atol=0.015)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_likelihood_needs_calibration_and_has_it(sharpness):
    source, target = mixture([0.25] * 4, 20000, 0), mixture(SHARES, 20000, 1)
    dishonest = [softmax(sharpness * np.log(each.probabilities) + [1, 0, 0, -1]) for each in (source, target)]
    found = maximum_likelihood_shift(dishonest[0], source.labels, dishonest[1]).shares
    assert np.abs(likely_shares(dishonest[1], np.full(4, 0.25)) - SHARES).max() > 0.02
    np.testing.assert_allclose(found, SHARES, atol=0.015)


def test_calibration_undoes_a_temperature_and_biases():
    source = mixture([0.25] * 4, 20000, 0)
    biases = np.array([0.5, -0.5, 0.25, -0.25])
    fitted = fit_calibration(softmax(3 * np.log(source.probabilities) + biases), source.labels)
    assert np.exp(fitted.log_scale) == pytest.approx(1 / 3, rel=0.03)
    np.testing.assert_allclose(fitted.biases, -biases / 3, atol=0.05)
    assert nll(fitted(softmax(3 * np.log(source.probabilities) + biases)), source.labels) == pytest.approx(
        nll(source.probabilities, source.labels), abs=1e-3
    )


def test_calibrated_probabilities_have_the_shares_of_the_labels_in_the_mean():
    source = mixture([0.4, 0.3, 0.2, 0.1], 2000, 0)
    fitted = fit_calibration(softmax(2 * np.log(source.probabilities)), source.labels)
    shares = np.bincount(source.labels, minlength=4) / 2000
    np.testing.assert_allclose(fitted(softmax(2 * np.log(source.probabilities))).mean(axis=0), shares, atol=2e-3)


@pytest.mark.parametrize("labels", [[0, 1] * 10, [0] * 20])
def test_calibration_stays_finite_where_every_example_is_right_or_a_class_has_none(labels):
    labels = np.array(labels)
    fitted = fit_calibration(np.eye(3)[labels] * 0.97 + 0.01, labels)
    assert np.isfinite(fitted.parameters).all()
    assert np.abs(fitted.parameters).max() < 10


def test_calibration_on_resampled_rows_is_near_one_that_is_fitted_afresh():
    source, random = mixture([0.25] * 4, 2000, 0), np.random.default_rng(0)
    probabilities = softmax(2 * np.log(source.probabilities))
    rows = random.integers(2000, size=2000)
    counts = np.bincount(rows, minlength=2000)[None]
    fitted = fit_calibration(probabilities, source.labels)
    (near,) = resampled_calibrations(fitted, probabilities, source.labels, counts)
    afresh = fit_calibration(probabilities[rows], source.labels[rows])
    assert np.abs(afresh.parameters - fitted.parameters).max() > 0.03
    np.testing.assert_allclose(near.parameters, afresh.parameters, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_absent_class_has_next_to_no_share(method):
    source, target = mixture([0.25] * 4, 20000, 0), mixture([0.5, 0.3, 0.2, 0], 20000, 1)
    found = estimates(source.probabilities, source.labels, target.probabilities, np.full(4, 0.25))[method]
    assert found[3] < 0.01


@pytest.mark.parametrize("confusion", ["hard", "soft"])
def test_classes_that_are_never_told_apart_stay_in_the_proportions_of_the_source(confusion):
    # The first two classes get the same predictions: together 0.6 of the target, split 1 : 2 as in the source.
    labels = np.repeat([0, 1, 2], [100, 200, 300])
    vote = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    target = vote[np.repeat([0, 2], [60, 40])]
    found = black_box_shift(vote[labels], labels, target, np.array([1, 2, 3]) / 6, confusion=confusion)
    np.testing.assert_allclose(found, [0.2, 0.4, 0.4], atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_classifier_that_always_says_the_same_leaves_the_shares_of_the_source(method):
    labels, shares = np.repeat([0, 1, 2], [50, 30, 20]), np.array([0.5, 0.3, 0.2])
    blind = np.tile(shares, (100, 1))
    np.testing.assert_allclose(estimates(blind, labels, blind[:7], shares)[method], shares, atol=1e-3)


def test_regularised_shift_is_as_small_as_a_general_optimiser_makes_its_objective():
    source, target = mixture([0.25] * 4, 300, 0), mixture(SHARES, 200, 1)
    found = regularised_shift(source.probabilities, source.labels, target.probabilities, np.full(4, 0.25))
    joint = np.zeros((4, 4))
    np.add.at(joint, (source.probabilities.argmax(axis=1), source.labels), 0.25)
    joint /= np.bincount(source.labels)
    seen = np.bincount(target.probabilities.argmax(axis=1), minlength=4) / 200
    bound = 0.01 * 3 * (2 * np.log(8 / 0.05) / 900 + np.sqrt(2 * np.log(8 / 0.05) / 300))

    def loss(theta):
        return np.linalg.norm(joint @ theta - seen + joint.sum(axis=1)) + bound * np.linalg.norm(theta)

    best = minimize(loss, np.full(4, 0.1), method="Nelder-Mead", options={"maxiter": 10000, "fatol": 1e-10}).x
    np.testing.assert_allclose(found, (1 + best) / (1 + best).sum(), atol=2e-3)


def test_regularised_shift_without_trust_is_none():
    source, target = mixture([0.25] * 4, 300, 0), mixture(SHARES, 200, 1)
    arguments = (source.probabilities, source.labels, target.probabilities, np.full(4, 0.25))
    np.testing.assert_allclose(regularised_shift(*arguments, trust=0), np.full(4, 0.25))


def test_whole_bound_as_penalty_takes_the_noise_of_few_examples_for_no_shift():
    source, target = mixture([0.25] * 4, 60, 0), mixture([0.25] * 4, 40, 1)
    arguments = (source.probabilities, source.labels, target.probabilities, np.full(4, 0.25))
    assert np.abs(regularised_shift(*arguments) - 0.25).max() > 0.01
    np.testing.assert_allclose(regularised_shift(*arguments, penalty=1.0), 0.25, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 30))
def test_every_estimate_is_in_the_simplex_and_follows_a_permutation_of_classes(seed, num_classes, num_target):
    random = np.random.default_rng(seed)
    holdout, labels = random.dirichlet(np.ones(num_classes), 40), random.integers(num_classes, size=40)
    target, shares = random.dirichlet(np.ones(num_classes), num_target), random.dirichlet(np.full(num_classes, 5.0))
    order = random.permutation(num_classes)
    plain = estimates(holdout, labels, target, shares)
    permuted = estimates(holdout[:, order], np.argsort(order)[labels], target[:, order], shares[order])
    for method, found in plain.items():
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1)
        np.testing.assert_allclose(permuted[method], found[order], atol=5e-3, err_msg=method)


def test_correction_gives_the_posterior_of_the_target():
    # Two normal classes at 0 and 2: the posterior under shares 0.9 and 0.1 by Bayes' rule, from the balanced one.
    points = np.linspace(-2, 4, 7)
    density = np.stack([norm.pdf(points), norm.pdf(points, 2)], axis=1)
    balanced = density / density.sum(axis=1, keepdims=True)
    expected = density * [0.9, 0.1] / (density * [0.9, 0.1]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(corrected(balanced, np.array([1.8, 0.2])), expected)


def test_row_that_holds_absent_classes_alone_becomes_the_ratio():
    np.testing.assert_allclose(corrected(np.array([[1.0, 0, 0]]), np.array([0.0, 1, 3])), [[0, 0.25, 0.75]])


@pytest.mark.parametrize("ratio", [[1.0], [1.0, -1.0], [1.0, np.inf], [np.nan, 1.0]])
def test_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(InvalidInput, match=r"ratio=.* must hold a finite number >= 0 for each of the 2 classes"):
        corrected(np.array([[0.5, 0.5]]), np.array(ratio))


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [1.0], [np.nan, 1.0]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InvalidInput, match=r"source_shares=.* must hold 2 numbers >= 0 that sum to 1"):
        black_box_shift(np.eye(2), np.array([0, 1]), np.eye(2), np.array(shares))


def test_outputs_of_two_networks_are_refused():
    with pytest.raises(InvalidInput, match="target_probs have 3 classes and holdout_probs 2"):
        maximum_likelihood_shift(np.eye(2), np.array([0, 1]), np.eye(3))


@pytest.mark.parametrize(("field", "value"), [("prior_rows", -1.0), ("prior_rows", np.nan)])
def test_negative_number_of_prior_rows_is_refused(field, value):
    with pytest.raises(InvalidInput, match=f"{field}={value}"):
        maximum_likelihood_shift(np.eye(2), np.array([0, 1]), np.eye(2), **{field: value})


@pytest.mark.parametrize("trust", [-0.1, 1.1])
def test_trust_outside_of_0_and_1_is_refused(trust):
    with pytest.raises(InvalidInput, match=f"trust={trust}"):
        regularised_shift(np.eye(2), np.array([0, 1]), np.eye(2), np.full(2, 0.5), trust=trust)
