import numpy as np
import pytest

from ray_tl.errors import InvalidInput, TrialFailed, Unavailable
from ray_tl.validation import score_all
from ray_tl.validation.ensemble import ensemble_agreement
from tests.validation.world import whole_evidence

POOL = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.3, 0.4, 0.3]])


def test_agreement_is_the_share_of_rows_with_the_likeliest_class_of_the_pool():
    # The pool says 0, 2, 1, 1.
    assert ensemble_agreement(np.eye(3)[[0, 2, 0, 1]], POOL) == 0.75
    assert ensemble_agreement(POOL, POOL) == 1


def test_mean_softmax_decides_and_not_the_number_of_trials():
    trials = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]])
    assert [ensemble_agreement(trial, trials.mean(axis=0)) for trial in trials] == [0, 0, 1]


def test_no_pool_gives_no_score():
    with pytest.raises(Unavailable, match="'ensv' needs the pool evidence, which is not there"):
        score_all(["ensv"], **{**whole_evidence(), "pool": None})


def test_pools_of_other_rows_or_that_are_not_finite_are_refused():
    with pytest.raises(InvalidInput, match=r"\(3, 3\) do not match \(4, 3\) of the pool"):
        ensemble_agreement(np.eye(3), POOL)
    with pytest.raises(TrialFailed, match="4 of 4 predictions are not finite"):
        ensemble_agreement(POOL, POOL * np.nan)
