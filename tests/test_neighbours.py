import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import cohen_kappa_score

from ray_tl.neighbours import NEAREST, LabelledSpace, kappa, nearest_across, nearest_neighbours, num_looked_at
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
    expected = 0 if chance == 1 else (alike / pairs - chance) / (1 - chance)
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


def test_uneven_classes_that_all_lie_beside_their_like_agree_wholly():
    labels = np.repeat([0, 1], [34, 6])
    found = nearest_neighbours(np.eye(2)[labels], np.arange(40))
    assert found.agreement(labels, 2) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_kappa_is_that_of_scikit_learn(pairs):
    first, second = np.array(pairs).T
    assume(len({*first, *second}) > 1)  # where all is of one class, theirs is not a number
    shares = [np.bincount(each, minlength=3) / len(each) for each in (first, second)]
    expected = cohen_kappa_score(first, second)
    assert kappa(float((first == second).mean()), float(shares[0] @ shares[1])) == pytest.approx(expected)


def test_nothing_but_chance_is_no_agreement():
    assert kappa(1.0, 1.0) == 0


ROWS = np.arange(9) * 3


def some_space(votes=None):
    """Of 9 examples among 27."""
    features = np.random.default_rng(0).normal(size=(9, 2))
    return LabelledSpace(nearest_neighbours(features, ROWS), trust=0.7, votes=votes)


@given(st.integers(0, 2**32 - 1))
def test_label_agreement_is_the_kappa_of_predictions_and_every_near_label(seed):
    random = np.random.default_rng(seed)
    classes, near = random.integers(3, size=27), random.integers(3, size=(9, 5))
    found = some_space(np.eye(3)[near].mean(axis=1)).label_agreement(classes)
    assert found == pytest.approx(cohen_kappa_score(np.repeat(classes[ROWS], 5), near.flatten()))


def test_names_matter_to_labels_and_one_class_for_all_agrees_no_better_than_chance():
    labels = np.tile(np.repeat([0, 1, 2], 3), 3)
    space = some_space(np.eye(3)[labels[ROWS]])
    assert space.label_agreement(labels) == pytest.approx(1)
    assert space.label_agreement((labels + 1) % 3) < 0
    assert space.label_agreement(np.zeros(27, np.int64)) == pytest.approx(0)


def saved(space, path):
    with path.open("wb") as file:
        space.save(file)
    return LabelledSpace.load(path)


def test_what_is_saved_is_loaded(tmp_path):
    space = some_space(np.random.default_rng(1).dirichlet(np.ones(4), 9))
    again = saved(space, tmp_path / "space.npz")
    assert np.array_equal(again.neighbours.rows, space.neighbours.rows)
    assert np.array_equal(again.neighbours.nearest, space.neighbours.nearest)
    assert again.trust == space.trust
    assert np.allclose(again.votes, space.votes, rtol=0, atol=2**-12)  # half precision of numbers up to 1
    assert saved(some_space(), tmp_path / "without.npz").votes is None


def test_a_file_of_an_older_study_holds_neighbours_that_could_be_trusted(tmp_path):
    found = some_space().neighbours
    np.savez(tmp_path / "old.npz", rows=found.rows, nearest=found.nearest)
    again = LabelledSpace.load(tmp_path / "old.npz")
    assert np.array_equal(again.neighbours.nearest, found.nearest)
    assert again.can_be_trusted
    assert again.votes is None


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
