from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_tl.neighbours import LabelledSpace, Neighbours, nearest_neighbours
from ray_tl.search_space.file import NEEDED_VALIDATORS
from ray_tl.selection import SelectionContext
from ray_tl.selection.objective import confidence, objective
from ray_tl.validation import SourceEvidence, TargetEvidence, score_all


def knowing(shares: Sequence[float] | None, num_target: int = 8, source_weight: float = 1.0) -> SelectionContext:
    return SelectionContext((), (), None if shares is None else tuple(shares), source_weight, num_target)


def scored(probabilities: np.ndarray, neighbours: Neighbours | None = None) -> float:
    """The objective of predictions on a target, of a network that makes no mistake on a source of even classes."""
    source = SourceEvidence(probabilities, probabilities.argmax(axis=1))
    target = TargetEvidence(probabilities, None if neighbours is None else LabelledSpace(neighbours, 1.0))
    judged = ("neighbours",) if neighbours is not None else ()
    scores = score_all([*NEEDED_VALIDATORS, *judged], source, target)
    classes = probabilities.shape[1]
    return objective(scores, target.histogram(), knowing([1 / classes] * classes, len(probabilities)))


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
    assert scored(probabilities) == pytest.approx((1 + (0 + 1 / 4) / 2) / 2, abs=1e-6)


def test_one_class_for_all_ranks_below_every_sound_one():
    # IM is 0, BNM has rank 1 and norm sqrt(N): 1 / sqrt(C) after scaling; less the penalty of 1.
    assert scored(np.tile(np.eye(4)[0], (12, 1))) == pytest.approx((1 + (0 + 1 / 2) / 2) / 2 - 1, abs=1e-6)


def test_confidence_buys_nothing_where_neighbours_are_known():
    groups = np.repeat(np.eye(3), 8, axis=0)
    neighbours = nearest_neighbours(groups, np.arange(24))
    mixed = np.tile(np.eye(3), (8, 1))  # as sure and as even, across the groups
    unsure = 0.4 * groups + 0.2
    assert scored(groups) == pytest.approx(scored(mixed))
    assert scored(groups, neighbours) == pytest.approx(scored(unsure, neighbours)) == pytest.approx(1)
    assert scored(mixed, neighbours) < 0.6


def test_half_of_the_objective_is_source_accuracy():
    predictions = np.repeat(np.eye(2), 4, axis=0)
    neighbours = nearest_neighbours(predictions, np.arange(8))
    wrong = SourceEvidence(predictions, 1 - predictions.argmax(axis=1))
    scores = score_all(
        [*NEEDED_VALIDATORS, "neighbours"], wrong, TargetEvidence(predictions, LabelledSpace(neighbours, 1.0))
    )
    assert objective(scores, [0.5, 0.5], knowing([0.5, 0.5])) == pytest.approx(scored(predictions, neighbours) - 0.5)


def test_source_accuracy_neighbours_and_nearest_labels_count_alike():
    scores = {"source_accuracy": 0.9, "im": 0.1, "bnm": 0.1, "neighbours": 0.6, "nearest_labels": 0.3}
    assert objective(scores, [0.5, 0.5], knowing(None)) == pytest.approx((0.9 + 0.6 + 0.3) / 3)
    del scores["neighbours"]
    assert objective(scores, [0.5, 0.5], knowing(None)) == pytest.approx((0.9 + 0.3) / 2)


def test_the_further_the_domains_are_apart_the_less_the_source_counts():
    scores = {"source_accuracy": 0.9, "im": 0.1, "bnm": 0.1, "neighbours": 0.6, "nearest_labels": 0.4}
    assert objective(scores, [0.5, 0.5], knowing(None, source_weight=0.5)) == pytest.approx((0.45 + 1.0) / 2.5)
    assert objective(scores, [0.5, 0.5], knowing(None, source_weight=0.0)) == pytest.approx(0.5)


def test_only_known_shares_make_a_few_classes_a_collapse():
    scores = {"source_accuracy": 0.9, "im": 0.1, "bnm": 0.1, "neighbours": 0.6, "nearest_labels": 0.3}
    half, even = [0.5, 0.5, 0.0, 0.0], [0.25] * 4
    assert objective(scores, half, knowing(None)) == objective(scores, half, knowing(half)) == pytest.approx(0.6)
    assert objective(scores, half, knowing(even)) == pytest.approx(0.6 - 1)


@pytest.mark.parametrize(("classes", "right"), [(2, 0.8), (9, 0.5), (3, 1.0), (4, 0.25)])
def test_confidence_counts_for_no_more_than_being_as_sure_as_one_is_right(classes, right):
    even = np.tile(np.eye(classes), (20, 1))
    other = (1 - right) / (classes - 1)
    calibrated = even * (right - other) + other
    scores, most = (scores_of(each, right) for each in (even, calibrated))
    assert confidence(scores, classes, len(even)) == pytest.approx(confidence(most, classes, len(even)))
    timid = scores_of(calibrated * 0.5 + 0.5 / classes, right)
    assert confidence(timid, classes, len(even)) <= confidence(most, classes, len(even))


def test_confidence_below_the_source_accuracy_is_the_mean_of_im_and_bnm():
    unsure = 0.4 * np.tile(np.eye(3), (8, 1)) + 0.2
    scores = scores_of(unsure, right=0.9)
    entropy = -(0.6 * np.log(0.6) + 2 * 0.2 * np.log(0.2))
    nuclear = (2 * 0.4 + 1) / 3  # singular values of 0.4 I + 0.2 J, of the most there could be
    assert confidence(scores, 3, 24) == pytest.approx(((np.log(3) - entropy) / np.log(3) + nuclear) / 2)


def scores_of(probabilities: np.ndarray, right: float) -> dict[str, float]:
    """Scores of predictions on a target, of a network that is right about this share of its source."""
    source = SourceEvidence(probabilities, probabilities.argmax(axis=1))
    return {**score_all(["im", "bnm"], source, TargetEvidence(probabilities)), "source_accuracy": right}
