import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ray_tl.errors import InvalidInput, TrialFailed, Unavailable
from ray_tl.validation import Features, score_all
from ray_tl.validation.transfer_score import hopkins, unevenness
from tests.validation.world import ROWS, whole_evidence, whole_of_one_class

TRIANGLE = np.array([[1.0, 0.0], [-0.5, math.sqrt(3) / 2], [-0.5, -math.sqrt(3) / 2]])


def transfer_score(evidence, **changes):
    return score_all(["transfer_score"], **{**evidence, "target": replace(evidence["target"], **changes)})


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (TRIANGLE, 0.0),
        (TRIANGLE * [[1.0], [20.0], [300.0]], 0.0),
        (np.array([[1.0, 1.0], [-2.0, -2.0]]), 0.0),
        (np.eye(3), (math.pi / 2 - 2 * math.pi / 3) ** 2),
        (np.ones((3, 2)), (2 * math.pi / 3) ** 2),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), (math.pi / 2) ** 2),
    ],
)
def test_unevenness_is_the_mean_square_that_angles_lack_to_the_widest(weights, expected):
    assert unevenness(weights) == pytest.approx(expected, abs=1e-7)


def test_hopkins_is_a_half_for_even_points_and_near_1_for_clusters_and_low_for_a_grid():
    random = np.random.default_rng(1)
    clusters = np.repeat([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], 300, axis=0) + random.normal(scale=1e-3, size=(900, 2))
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(30)), axis=-1).reshape(-1, 2)
    assert hopkins(random.uniform(size=(4000, 2))) == pytest.approx(0.5, abs=0.06)
    assert hopkins(clusters) > 0.98
    assert hopkins(grid) < 0.35


def test_hopkins_compares_nearest_distances_of_drawn_points_and_of_rows():
    features = np.random.default_rng(2).normal(size=(47, 3))
    random = np.random.default_rng(0)
    drawn = random.uniform(features.min(axis=0), features.max(axis=0), (2, 3))
    sampled = random.permutation(47)[:2]
    apart = cdist(features, features) + np.diag(np.full(47, np.inf))
    to_rows, to_others = cdist(drawn, features).min(axis=1).sum(), apart[sampled].min(axis=1).sum()
    assert hopkins(features) == pytest.approx(to_rows / (to_rows + to_others))


def test_score_is_the_sum_of_its_three_parts():
    evidence = whole_evidence()
    target = evidence["target"]
    parts = score_all(["im", "transfer_score"], **evidence)
    expected = hopkins(target.features.values) + parts["im"] / math.log(3) - (math.pi / 6) ** 2
    assert parts["transfer_score"] == pytest.approx(expected)


def test_a_head_that_is_not_linear_gives_no_score():
    with pytest.raises(Unavailable, match="'transfer_score' needs the weights of a linear head"):
        transfer_score(whole_evidence(), head=None)


def test_features_that_are_all_alike_give_no_score():
    alike = Features(np.arange(ROWS), np.ones((ROWS, 2)))
    with pytest.raises(Unavailable, match="'transfer_score' needs features that differ"):
        transfer_score(whole_evidence(), features=alike)
    with pytest.raises(Unavailable, match="'transfer_score' needs features that differ"):
        transfer_score(whole_evidence(), features=Features(np.arange(1), np.ones((1, 2))))


def test_one_class_gives_no_score():
    with pytest.raises(Unavailable, match="'transfer_score' compares classes, and there is one"):
        transfer_score(whole_of_one_class())


def test_a_head_of_other_classes_or_one_that_is_not_finite_is_refused():
    with pytest.raises(InvalidInput, match=r"head of shape \(2, 2\) does not fit 3 classes"):
        transfer_score(whole_evidence(), head=np.eye(2))
    with pytest.raises(TrialFailed, match="weights of the head are not finite"):
        transfer_score(whole_evidence(), head=np.full((3, 4), np.nan))
