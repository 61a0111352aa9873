from dataclasses import replace

import numpy as np
import pytest

from ray_tl.errors import TrialFailed, Unavailable
from ray_tl.validation import Features, metrics, score_all
from ray_tl.validation.importance import control_variate_risk, importance_weights, normalised, weighted_risk
from tests.validation.world import ROWS, whole_evidence

WEIGHTS, LOSSES = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0])
RISKS = ["dev", "devn", "importance_weighted_risk"]


def gaussian(seed, rows, mean=0.0):
    return np.random.default_rng(seed).normal(mean, size=(rows, 1))


def with_features(evidence, features):
    own = Features(np.arange(ROWS), features)
    source = replace(evidence["source"], features=own, training=own)
    return {**evidence, "source": source, "target": replace(evidence["target"], features=own)}


def test_weighted_risk_is_the_mean_of_the_products():
    assert weighted_risk(WEIGHTS, LOSSES) == pytest.approx(7 / 3)


def test_control_variate_takes_off_what_the_mean_weight_is_wrong_by():
    # w l = (1, 0, 6): Cov(w l, w) = 5 / 2, Var(w) = 1, so eta = -5 / 2 and 7 / 3 + eta 2 - eta = -1 / 6.
    assert control_variate_risk(WEIGHTS, LOSSES) == pytest.approx(-1 / 6)


def test_equal_weights_leave_nothing_to_correct():
    assert control_variate_risk(np.full(3, 2.0), LOSSES) == pytest.approx(2)
    assert control_variate_risk(np.array([2.0]), np.array([3.0])) == pytest.approx(6)


def test_control_variate_is_right_where_the_loss_is_the_same_for_all():
    # The weights' mean is 2 instead of 1; the loss spread over the target is still 5.
    assert weighted_risk(WEIGHTS, np.full(3, 5.0)) == pytest.approx(10)
    assert control_variate_risk(WEIGHTS, np.full(3, 5.0)) == pytest.approx(5)


def test_normalised_weights_are_shares_of_the_largest_about_1():
    assert normalised(WEIGHTS) == pytest.approx([2 / 3, 1, 4 / 3])
    assert normalised(10 * WEIGHTS) == pytest.approx([2 / 3, 1, 4 / 3])
    assert control_variate_risk(normalised(WEIGHTS), LOSSES) == pytest.approx((2 / 3 + 8 / 3) / 3)


@pytest.mark.parametrize("rows", [4000, 1000])
def test_weights_are_the_ratio_of_two_gaussians_however_many_rows_each_has(rows):
    # N(1, 1) over N(0, 1) at x is exp(x - 1 / 2).
    at = np.linspace(-1.5, 2.5, 9)[:, None]
    found = importance_weights(gaussian(0, 4000), gaussian(1, rows, 1.0), at)
    assert np.log(found) == pytest.approx(at[:, 0] - 0.5, abs=0.25)


def test_domains_that_are_alike_weigh_about_1():
    found = importance_weights(gaussian(0, 3000), gaussian(1, 3000), gaussian(2, 100))
    assert found == pytest.approx(np.ones(100), abs=0.15)


def test_domains_far_apart_have_finite_weights():
    found = importance_weights(gaussian(0, 50), 1e4 + gaussian(1, 50), np.array([[-1e9], [1e9]]))
    assert np.isfinite(np.square(found)).all()
    assert found[0] < 1e-3 < 1e3 < found[1]


@pytest.mark.parametrize("name", RISKS)
def test_risk_where_features_say_nothing_is_the_cross_entropy_on_the_source(name):
    evidence = with_features(whole_evidence(), np.ones((ROWS, 2)))
    source = evidence["source"]
    expected = metrics.nll(source.probabilities, source.labels)
    assert score_all([name], **evidence)[name] == pytest.approx(expected, rel=1e-6)


def test_losses_are_those_of_the_rows_whose_features_are_weighed():
    evidence = whole_evidence()
    last = np.arange(ROWS - 10, ROWS)
    features = Features(last, evidence["source"].features.values[last])
    source = replace(evidence["source"], features=features, probabilities=evidence["source"].probabilities.copy())
    source.probabilities[:-10] = [1, 0, 0]
    expected = score_all(RISKS, **{**evidence, "source": replace(evidence["source"], features=features)})
    assert score_all(RISKS, **{**evidence, "source": source}) == expected


@pytest.mark.parametrize("name", RISKS)
def test_one_example_of_a_domain_gives_no_weights(name):
    evidence = whole_evidence()
    one = Features(np.arange(1), np.ones((1, 4)))
    with pytest.raises(Unavailable, match=f"'{name}' tells domains apart by two examples of each or more"):
        score_all([name], **{**evidence, "target": replace(evidence["target"], features=one)})


def test_features_that_are_not_finite_fail_the_trial():
    with pytest.raises(TrialFailed, match="features are not finite"):
        score_all(["dev"], **with_features(whole_evidence(), np.full((ROWS, 2), np.inf)))
