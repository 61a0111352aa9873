import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from scipy.stats import hypergeom

from ray_tl.errors import Unavailable
from ray_tl.validation import Features, SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.density import cluster_agreement, soft_neighbourhood_density
from tests.validation.world import peak_of_memory

GROUPS = np.repeat(np.arange(3), 10)
APART = 10.0 * np.eye(3)[GROUPS] + np.random.default_rng(0).normal(size=(30, 3))


def adjusted_mutual_information(first, second):
    """By its definition: the expected value is over all tables with the same sums (Vinh et al., 2010)."""
    table = np.array([[np.sum((first == a) & (second == b)) for b in np.unique(second)] for a in np.unique(first)])
    rows, columns, total = table.sum(axis=1), table.sum(axis=0), table.sum()

    def term(count, row, column):
        return count / total * math.log(total * count / (row * column)) if count else 0.0

    found = sum(term(table[a, b], rows[a], columns[b]) for a, b in np.ndindex(table.shape))
    chance = sum(
        hypergeom(total, rows[a], columns[b]).pmf(count) * term(count, rows[a], columns[b])
        for a, b in np.ndindex(table.shape)
        for count in range(min(rows[a], columns[b]) + 1)
    )
    most = -sum(share * math.log(share) for sums in (rows, columns) for share in sums / total) / 2
    return (found - chance) / (most - chance)


def density_by_loops(probabilities):
    entropies = []
    for i, row in enumerate(probabilities):
        cosines = [
            row @ other / math.sqrt((row @ row) * (other @ other)) / 0.05
            for j, other in enumerate(probabilities)
            if j != i
        ]
        shares = [math.exp(each - logsumexp(cosines)) for each in cosines]
        entropies.append(-sum(share * math.log(share) for share in shares if share > 0))
    return sum(entropies) / len(entropies)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agreement_with_well_separated_clusters_is_adjusted_mutual_information_with_the_groups(seed):
    classes = np.where(np.random.default_rng(seed).random(30) < 0.3, (GROUPS + 1) % 3, GROUPS)
    assert cluster_agreement(classes, APART, 3) == pytest.approx(adjusted_mutual_information(classes, GROUPS))


def test_classes_that_are_the_clusters_agree_wholly_whatever_they_are_called():
    assert cluster_agreement(GROUPS, APART, 3) == pytest.approx(1)
    assert cluster_agreement((GROUPS + 1) % 3, APART, 3) == pytest.approx(1)


def test_features_wider_than_is_clustered_keep_their_clusters():
    groups, random = np.repeat(np.arange(3), 50), np.random.default_rng(0)
    wide = np.pad(10.0 * np.eye(3)[groups], ((0, 0), (0, 197))) + random.normal(scale=0.1, size=(150, 200))
    assert cluster_agreement(groups, wide, 3) == pytest.approx(1)


def test_a_single_predicted_class_says_nothing_of_clusters():
    assert cluster_agreement(np.zeros(30, np.int64), APART, 3) == pytest.approx(0, abs=1e-12)


def test_fewer_distinct_rows_than_classes_are_a_cluster_each():
    assert cluster_agreement(np.array([0, 0, 1, 1]), np.array([[0.0], [0.0], [5.0], [5.0]]), 10) == pytest.approx(1)


@pytest.mark.parametrize(
    ("features", "num_classes", "why"),
    [
        (np.ones((6, 2)), 3, "all features of the target are alike"),
        (APART[:6], 1, "there is one"),
        (APART[:1], 3, "al"),
    ],
)
def test_clusters_that_say_nothing_are_no_score(features, num_classes, why):
    with pytest.raises(Unavailable, match=f"'class_ami' compares classes with clusters, and {why}"):
        cluster_agreement(np.zeros(len(features), np.int64), features, num_classes)


def test_class_ami_looks_at_the_predictions_of_the_rows_whose_features_it_has():
    order = np.random.default_rng(1).permutation(30)[:20]
    predictions = np.eye(3)[GROUPS]
    target = TargetEvidence(predictions, features=Features(order, APART[order]))
    assert score_all(["class_ami"], SourceEvidence(predictions, GROUPS), target)["class_ami"] == pytest.approx(1)


def test_a_thousand_clusters_of_many_rows_take_bounded_memory():
    groups, random = np.arange(8000) % 1000, np.random.default_rng(0)
    features = random.normal(size=(1000, 8))[groups].astype(np.float32)
    predictions = np.zeros((8000, 1000), np.float32)
    predictions[np.arange(8000), groups] = 1
    target = TargetEvidence(predictions, features=Features(np.arange(8000), features))
    with peak_of_memory() as peak:
        found = score_all(["class_ami"], SourceEvidence(predictions, groups), target)
    assert found["class_ami"] > 0.9
    assert peak() < 150e6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 5))
def test_density_is_that_of_a_loop_over_pairs(seed, rows, classes):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(classes), rows)
    assert soft_neighbourhood_density(probabilities) == pytest.approx(density_by_loops(probabilities), abs=1e-9)


def test_density_of_more_rows_than_a_chunk_is_that_of_the_whole_matrix():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 1203)
    similarity = (1 - cdist(probabilities, probabilities, "cosine")) / 0.05
    np.fill_diagonal(similarity, -np.inf)
    shares = softmax(similarity, axis=1)
    expected = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1).mean()
    assert soft_neighbourhood_density(probabilities) == pytest.approx(expected, rel=1e-9)


def test_density_is_highest_where_all_are_alike():
    assert soft_neighbourhood_density(np.full((12, 3), 1 / 3)) == pytest.approx(math.log(11))
    assert soft_neighbourhood_density(np.eye(3)[np.repeat(np.arange(3), 4)]) == pytest.approx(math.log(3), abs=1e-6)
    assert soft_neighbourhood_density(np.eye(3)[[0, 1]]) == 0


def test_one_row_has_no_neighbourhood():
    with pytest.raises(Unavailable, match="'snd' compares target examples with one another, and there is one"):
        soft_neighbourhood_density(np.eye(3)[:1])


def test_density_of_many_rows_takes_bounded_memory():
    predictions = np.zeros((20_000, 100), np.float32)
    predictions[:, 0] = 1
    source, target = SourceEvidence(predictions[:1], np.zeros(1, np.int64)), TargetEvidence(predictions)
    with peak_of_memory() as peak:
        found = score_all(["snd"], source, target)
    assert found["snd"] == pytest.approx(math.log(4999))
    assert peak() < 100e6
