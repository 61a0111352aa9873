"""The judge of a search: the space, of those that nothing has trained, in which the source bears its labels out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

from ray_tl.config import Component
from ray_tl.neighbours import LEAST_TRUST, NEAREST
from ray_tl.training.untrained_features import _words, find_fixed_space
from ray_tl.validation import SourceEvidence, TargetEvidence, score_all
from tests.training.tiny import tiny_data, tiny_pair
from tests.training.tiny_text import tiny_text_pair

TINY_CNN = Component(name="tiny_cnn", params={"width": 4})
TINY_BERT = Component(name="tiny_bert")


def test_pixels_are_believed_where_they_tell_the_source_classes_apart():
    found = find_fixed_space(TINY_CNN, tiny_data(tiny_pair(num_source=60)), seed=0)
    assert found.can_be_trusted
    assert found.trust > 0.9
    assert sorted(found.neighbours.rows) == list(range(30))


def test_words_stand_where_a_network_has_learned_nothing():
    found = find_fixed_space(TINY_BERT, tiny_data(tiny_text_pair()), seed=0)
    assert found.neighbours.nearest.shape[1] == 5
    assert found.space in ("words", "features of tiny_bert as it comes")


def test_neighbours_that_hardly_share_a_source_label_are_not_believed():
    pair = tiny_pair(num_source=90)
    shuffled = np.random.default_rng(0).permutation(pair.source.labels)
    found = find_fixed_space(TINY_CNN, tiny_data(replace(pair, source=replace(pair.source, labels=shuffled))), seed=0)
    assert found.trust < LEAST_TRUST
    assert "confidence and diversity alone" in found.in_words()


def test_target_examples_alone_decide_what_is_near_and_one_of_them_is_too_few():
    pair = tiny_pair(num_source=60)
    first, again = (find_fixed_space(TINY_CNN, tiny_data(pair), seed=0) for _ in range(2))
    assert np.array_equal(first.neighbours.nearest, again.neighbours.nearest)
    assert find_fixed_space(TINY_CNN, tiny_data(tiny_pair(num_target=1)), seed=0) is None


def test_confident_mistakes_score_below_hesitant_truth():
    # The classes of the target are drawn again as the pair draws them; only this test looks at them.
    labels = np.random.default_rng(2).choice(3, 300, p=[0.5, 0.3, 0.2])
    reference = find_fixed_space(TINY_CNN, tiny_data(tiny_pair(num_source=60, num_target=300)), seed=0)
    truth = 0.4 * np.eye(3, dtype=np.float32)[labels] + 0.2
    mistaken = np.where(np.random.default_rng(1).random(300) < 0.4, (labels + 1) % 3, labels)
    wrong = np.eye(3, dtype=np.float32)[mistaken]
    source = SourceEvidence(truth, labels)
    hesitant, sure = (
        score_all(["neighbours", "nearest_labels", "im"], source, TargetEvidence(found, reference))
        for found in (truth, wrong)
    )
    assert sure["im"] > hesitant["im"]
    assert sure["neighbours"] < hesitant["neighbours"]
    assert sure["nearest_labels"] < hesitant["nearest_labels"]


def test_swapped_classes_are_seen_by_labels_alone():
    reference = find_fixed_space(TINY_CNN, tiny_data(tiny_pair(num_source=60, num_target=300)), seed=0)
    right = np.random.default_rng(2).choice(3, 300, p=[0.5, 0.3, 0.2])
    swapped = (right + 1) % 3
    assert reference.neighbours.agreement(swapped, 3) == pytest.approx(reference.neighbours.agreement(right, 3))
    assert reference.label_agreement(right) > reference.label_agreement(swapped) + 0.5


def test_votes_are_shares_of_the_labels_of_source_pixels_at_the_smallest_angle():
    pair = tiny_pair(num_source=60)
    found = find_fixed_space(TINY_CNN, tiny_data(pair), seed=0)
    assert found.space == "pixels"
    source, target = (each.inputs.reshape(len(each.inputs), -1).astype(float) for each in (pair.source, pair.target))
    angles = cdist(target - target.mean(axis=0), source - source.mean(axis=0), "cosine")
    nearest = np.argsort(angles, axis=1)[:, :NEAREST]
    expected = [np.bincount(pair.source.labels[each], minlength=3) / NEAREST for each in nearest]
    assert_allclose(found.votes, np.array(expected)[found.neighbours.rows], atol=1e-6)


def test_words_of_both_domains_are_columns_of_one_table():
    of_source, of_target = _words(torch.tensor([[5, 5, 7], [7, 9, 9]]), torch.tensor([[11, 5, 5]]))
    assert [row.nonzero()[0].tolist() for row in (*of_source, *of_target)] == [[0, 1], [1, 2], [0, 3]]
