"""When predictions of the champion are corrected to the class shares of the target, and to what."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from ray_tl.config import Component
from ray_tl.selection import ByAgreement, Candidate, Choice, TrialEvidence
from ray_tl.selection.correction import by_ratio, correction_of, half_way, to_shares, with_correction
from ray_tl.selection.prior.of_pool import stated_prior
from tests.selection.mixtures import SHARES, mixture
from tests.selection.test_by_agreement import CONTEXT, ROWS, TRUE, final, sure, wrong_in
from tests.selection.test_findings import trials_of

EVEN = np.full(3, 1 / 3)
FEW_OF_ONE = np.array([0.5, 0.4, 0.1])


def test_the_mean_prediction_gets_the_shares():
    probabilities = softmax(np.random.default_rng(0).normal(size=(500, 3), scale=2), axis=1)
    corrected = with_correction(probabilities, to_shares(probabilities, FEW_OF_ONE).tolist())
    np.testing.assert_allclose(corrected.mean(axis=0), FEW_OF_ONE, atol=1e-4)


def test_predictions_that_have_the_shares_stay_as_they_are():
    probabilities = softmax(np.random.default_rng(0).normal(size=(500, 3), scale=2), axis=1)
    np.testing.assert_allclose(to_shares(probabilities, probabilities.mean(axis=0)), 0, atol=1e-3)


def test_the_ratio_gives_the_posterior_of_the_target_by_bayes_rule():
    target = mixture(SHARES, 200, 0)
    joint = target.probabilities * SHARES  # of a balanced source
    corrected = with_correction(target.probabilities, by_ratio(SHARES, np.full(4, 0.25)).tolist())
    np.testing.assert_allclose(corrected, joint / joint.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("correct", [lambda p, shares: to_shares(p, shares), lambda p, shares: by_ratio(shares, EVEN)])
def test_a_class_that_is_absent_gets_a_finite_correction(correct):
    added = correct(sure(TRUE), np.array([0.5, 0.5, 0.0]))
    assert np.isfinite(added).all()
    assert added[2] < min(added[:2])


def wavering():
    """Right everywhere, but that a third of the third class is taken for the first by a hair."""
    found = sure(TRUE, 0.9)
    rows = np.flatnonzero(TRUE == 2)[:14]
    found[rows] = [0.42, 0.18, 0.40]
    return found


def corrected(shares, predicted=None, is_stated=True, **changes):
    """For trial 1 among five, of which the others are wrong here and there."""
    outputs = {
        number: TrialEvidence(sure(TRUE), sure(wrong_in(0.1, number)), replace(final(0.05, number), head=np.eye(3)))
        for number in range(5)
    }
    outputs[1] = replace(outputs[1], target=wavering() if predicted is None else predicted, **changes)
    trials = trials_of(5)
    trials = [replace(each, epochs=[with_histogram(each, outputs)]) for each in trials]
    choice = Choice(tuple(Candidate(each, 0.5, 0.5, None) for each in [trials[1], trials[0], *trials[2:]]), "best")
    prior = stated_prior(np.asarray(shares), FEW_OF_ONE)
    return correction_of(prior, is_stated, ByAgreement(CONTEXT).choose, choice, trials, outputs.__getitem__)


def with_histogram(trial, outputs):
    counts = np.bincount(outputs[trial.number].target.argmax(axis=1), minlength=3)
    return trial.epochs[-1].model_copy(update={"histogram": (counts / ROWS).tolist()})


def test_what_the_rule_finds_better_is_kept_and_says_how_much_changes():
    found = corrected(EVEN)
    assert found.logits is not None
    assert found.logits[2] > found.logits[0]
    assert found.reason == "predictions are corrected to these shares: 12% of the target's change class."  # 14 of 120


def test_an_estimate_that_the_rule_finds_no_better_changes_nothing():
    found = corrected([0.9, 0.05, 0.05], predicted=sure(TRUE, 0.9), is_stated=False)
    assert found.logits is None
    assert "no better" in found.reason


def test_what_users_state_is_not_put_to_the_rule():
    assert corrected([0.9, 0.05, 0.05], predicted=sure(TRUE, 0.9)).logits is not None


def test_stated_shares_move_predictions_half_by_ratio_and_half_to_the_shares():
    prior = stated_prior(EVEN, FEW_OF_ONE)
    found = half_way(sure(TRUE, 0.9), prior)
    ratio = np.log(EVEN) - np.log(FEW_OF_ONE)
    np.testing.assert_allclose(2 * found - to_shares(sure(TRUE, 0.9), EVEN), ratio - ratio.mean(), atol=1e-9)


def test_shares_of_the_source_change_nothing():
    found = corrected(FEW_OF_ONE)
    assert found.logits is None
    assert "stated are the source's" in found.reason


def test_an_estimate_that_may_be_chance_changes_nothing():
    found = corrected(FEW_OF_ONE, is_stated=False)
    assert found.logits is None
    assert "no shift of the shares is beyond chance" in found.reason


def test_a_head_that_is_not_linear_is_not_corrected():
    found = corrected(EVEN, final=final())
    assert found.logits is None
    assert "no linear head" in found.reason


def test_means_over_views_are_not_corrected():
    views = Component(name="flip")
    trials = [
        replace(each, config=each.config.model_copy(update={"test_time_augmentation": views})) for each in trials_of(1)
    ]
    choice = Choice((Candidate(trials[0], 0.5, 0.5, None),), "best")
    outputs = TrialEvidence(sure(TRUE), sure(TRUE), final())
    found = correction_of(stated_prior(EVEN, FEW_OF_ONE), True, lambda *_: None, choice, trials, lambda _: outputs)
    assert "means over several views" in found.reason
