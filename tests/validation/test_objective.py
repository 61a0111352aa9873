import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_tl.validation import SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.objective import objective


def scored(probabilities: np.ndarray, source_histogram: list[float] | None = None) -> float:
    source = SourceEvidence(probabilities, np.zeros(len(probabilities), dtype=np.int64))
    target = TargetEvidence(probabilities)
    scores = score_all(["im", "bnm"], source, target)
    classes = probabilities.shape[1]
    return objective(scores, target.histogram(), source_histogram or [1 / classes] * classes, len(probabilities))


@given(st.integers(1, 40), st.integers(2, 12), st.floats(-2, 4), st.integers(0, 2**32 - 1))
def test_objective_lies_between_minus_one_and_one(rows, classes, sharpness, seed):
    logits = np.random.default_rng(seed).normal(size=(rows, classes)) * 10**sharpness
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert -1 - 1e-6 <= scored(probabilities) <= 1 + 1e-6


@pytest.mark.parametrize(("classes", "repeats"), [(2, 1), (2, 50), (10, 3), (3, 7)])
def test_sure_and_even_predictions_score_one(classes, repeats):
    assert scored(np.tile(np.eye(classes), (repeats, 1))) == pytest.approx(1, abs=1e-6)


def test_even_uncertainty_scores_only_what_bnm_gives_for_rank_one():
    # IM is 0. The matrix has rank 1 and norm sqrt(N / C), over N, times sqrt(N / C): 1 / C.
    probabilities = np.full((12, 4), 0.25) + np.eye(4)[np.arange(12) % 4] * 1e-9
    assert scored(probabilities) == pytest.approx((0 + 1 / 4) / 2, abs=1e-6)


def test_one_class_for_all_ranks_below_every_sound_one():
    # IM is 0, BNM has rank 1 and norm sqrt(N): 1 / sqrt(C) after scaling; less the penalty of 1.
    assert scored(np.tile(np.eye(4)[0], (12, 1))) == pytest.approx((0 + 1 / 2) / 2 - 1, abs=1e-6)
