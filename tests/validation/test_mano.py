from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from ray_tl.errors import InvalidInput, TrialFailed, Unavailable
from ray_tl.validation import score_all
from ray_tl.validation.mano import matrix_norm, softrun
from tests.validation.world import whole_evidence


def mano(logits):
    evidence = whole_evidence()
    return score_all(["mano"], **{**evidence, "target": replace(evidence["target"], logits=logits)})["mano"]


def test_unsure_logits_are_normalised_by_the_series():
    # 1 + z + z^2 / 2 is 2.5, 1, 0.5; less the smallest 2, 0.5, 0.
    assert softrun(np.array([[1.0, 0.0, -1.0]])) == pytest.approx(np.array([[0.8, 0.2, 0.0]]))
    assert matrix_norm(np.array([[1.0, 0.0, -1.0]])) == pytest.approx(((0.8**4 + 0.2**4) / 3) ** 0.25)


def test_sure_logits_are_normalised_by_softmax():
    # The mean of -log softmax over the entries is near (0 + 15 + 30) / 3, above 5.
    logits = np.array([[15.0, 0.0, -15.0]])
    assert softrun(logits) == pytest.approx(softmax(logits, axis=1))


@pytest.mark.parametrize(("spread", "least"), [(5.02, expit(-2 * 5.02)), (4.97, 0.0)])
def test_what_is_sure_is_decided_at_a_mean_of_5(spread, least):
    # The mean of -log softmax of (z, -z) is nearly z. Only softmax leaves the second class a share.
    found = softrun(np.array([[spread, -spread]] * 2))
    assert found == pytest.approx(np.array([[1 - least, least]] * 2), rel=1e-9, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.5, 30.0]))
def test_score_is_the_scaled_norm_of_a_distribution_over_classes(seed, rows, classes, scale):
    logits = np.random.default_rng(seed).normal(scale=scale, size=(rows, classes))
    found = softrun(logits)
    assert found.sum(axis=1) == pytest.approx(np.ones(rows))
    assert matrix_norm(logits) == pytest.approx(np.linalg.norm(found.ravel(), 4) / (rows * classes) ** 0.25)
    assert 1 / classes - 1e-9 <= matrix_norm(logits) <= 1 + 1e-9


def test_equal_logits_are_uniform():
    assert matrix_norm(np.zeros((7, 4))) == pytest.approx(1 / 4)


def test_logits_that_are_missing_empty_or_not_finite_give_no_score():
    with pytest.raises(Unavailable, match="'mano' needs logits on the target, which were not recorded"):
        mano(None)
    with pytest.raises(InvalidInput, match="hold no prediction to judge"):
        mano(np.zeros((0, 3)))
    with pytest.raises(TrialFailed, match="logits are not finite"):
        mano(np.array([[np.inf, 0.0, 0.0]]))
