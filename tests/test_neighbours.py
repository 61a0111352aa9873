import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ray_tl.neighbours import NEAREST, Neighbours, nearest_across, nearest_neighbours, num_looked_at
from tests.validation.world import peak_of_memory


@given(st.integers(2, 20), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_agreement_is_that_of_a_double_loop(rows, num_classes, seed):
    random = np.random.default_rng(seed)
    classes = random.integers(num_classes, size=rows + 7)
    chosen = random.permutation(rows + 7)[:rows]
    found = nearest_neighbours(random.normal(size=(rows, 4)), chosen)
    alike, pairs = 0, 0
    for place, row in enumerate(chosen):
        for other in found.nearest[place]:
            alike, pairs = alike + (classes[row] == classes[chosen[other]]), pairs + 1
    chance = sum(((classes[chosen] == each).sum() / rows) ** 2 for each in range(num_classes))
    expected = (alike / pairs - chance) / (1 - 1 / num_classes)
    assert found.agreement(classes, num_classes) == pytest.approx(expected)


@given(st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_nearest_are_those_at_the_smallest_angle_and_never_oneself(rows, seed):
    features = np.random.default_rng(seed).normal(size=(rows, 5))
    found = nearest_neighbours(features, np.arange(rows)).nearest
    centred = features - features.mean(axis=0)
    for place in range(rows):
        angles = [
            np.inf if other == place else -np.dot(centred[place], centred[other]) / np.linalg.norm(centred[other])
            for other in range(rows)
        ]
        assert place not in found[place]
        assert list(found[place]) == list(np.argsort(angles, kind="stable")[: min(NEAREST, rows - 1)])


def test_one_class_for_all_agrees_no_better_than_chance_and_true_groups_agree_wholly():
    groups = np.repeat(np.eye(3), 10, axis=0)
    found = nearest_neighbours(groups, np.arange(30))
    assert found.agreement(np.zeros(30, np.int64), 3) == 0
    assert found.agreement(np.repeat([2, 0, 1], 10), 3) == pytest.approx(1)


def test_constant_features_have_some_neighbours_and_no_nan():
    found = nearest_neighbours(np.ones((6, 3)), np.arange(6))
    assert found.nearest.shape == (6, 5)
    assert np.isfinite(found.agreement(np.arange(6) % 2, 2))


def test_what_is_saved_is_loaded(tmp_path):
    found = nearest_neighbours(np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) * 3)
    with (tmp_path / "n.npz").open("wb") as file:
        found.save(file)
    again = Neighbours.load(tmp_path / "n.npz")
    assert np.array_equal(again.rows, found.rows)
    assert np.array_equal(again.nearest, found.nearest)


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=30))
def test_of_those_that_are_equally_near_the_first_are_taken(values):
    # In one dimension every cosine is 1, 0 or -1, so there are many ties.
    side = np.sign(len(values) * np.array(values) - sum(values))
    cosine = np.outer(side, side) - np.diag(np.full(len(values), np.inf))
    expected = np.argsort(-cosine, axis=1, kind="stable")[:, : min(NEAREST, len(values) - 1)]
    features = len(values) * np.array(values, float)[:, None]
    assert np.array_equal(nearest_neighbours(features, np.arange(len(values))).nearest, expected)


def test_rows_beyond_a_chunk_find_their_neighbours_among_all():
    features = np.random.default_rng(0).normal(size=(1203, 3))
    centred = features - features.mean(axis=0)
    cosine = 1 - cdist(centred, centred, "cosine")
    np.fill_diagonal(cosine, -np.inf)
    expected = np.argsort(-cosine, axis=1)[:, :NEAREST]
    assert np.array_equal(nearest_neighbours(features, np.arange(1203)).nearest, expected)


def test_most_rows_take_far_less_memory_than_all_their_similarities():
    features = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    with peak_of_memory() as peak:
        nearest_neighbours(features, np.arange(5000))
    assert peak() < 5000 * 5000 * 8 / 2


@pytest.mark.parametrize(
    ("num_classes", "num_rows", "expected"), [(10, 1000, 1000), (200, 1000, 2000), (2, 500, 500), (1000, 1000, 5000)]
)
def test_more_rows_are_looked_at_for_many_classes_up_to_5000(num_classes, num_rows, expected):
    assert num_looked_at(num_classes, num_rows) == expected


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_nearest_across_are_the_keys_at_the_smallest_angle(num_queries, num_keys, k, seed):
    random = np.random.default_rng(seed)
    queries, keys = random.normal(size=(num_queries, 4)), random.normal(loc=3, size=(num_keys, 4))
    found = nearest_across(queries, keys, k)
    ours, theirs = queries - queries.mean(axis=0), keys - keys.mean(axis=0)
    for place in range(num_queries):
        angles = [-np.dot(ours[place], key) / np.linalg.norm(key) for key in theirs]
        assert list(found[place]) == list(np.argsort(angles, kind="stable")[:k])


def test_a_shift_of_a_whole_domain_moves_no_neighbour():
    random = np.random.default_rng(0)
    queries, keys = random.normal(size=(700, 4)), random.normal(size=(900, 4))
    assert np.array_equal(nearest_across(queries + np.array([50, 0, -20, 3]), keys), nearest_across(queries, keys - 7))


def test_nearest_across_finds_the_class_of_the_same_name():
    keys, queries = 3 * np.eye(4)[np.arange(40) % 4], 5 + np.eye(4)[np.arange(20) % 4]
    found = nearest_across(queries, keys, 3)
    assert found.dtype == np.int64
    assert np.array_equal(found % 4, np.repeat(np.arange(20)[:, None] % 4, 3, axis=1))
