"""Parts of a domain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.data.splits import random_halves, stratified_split
from ray_tl.errors import InvalidInput


def labelled(labels):
    ids = tuple(map(str, range(len(labels))))
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return LabelledDomain("source", images, ids, np.array(labels, np.int64), ("a", "b", "c"))


def unlabelled(size):
    return UnlabelledDomain("target", np.zeros((size, 1, 1, 1), np.uint8), tuple(map(str, range(size))))


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_both_sides_have_every_class_that_has_two(labels, fraction, seed):
    rest, held_out = stratified_split(labelled(labels), fraction, seed)
    pairs = {label for label in labels if labels.count(label) >= 2}
    assert set(rest.labels) == set(labels)
    assert set(held_out.labels) == pairs
    assert sorted([*rest.ids, *held_out.ids]) == sorted(labelled(labels).ids)


def test_each_class_gives_its_share():
    _, held_out = stratified_split(labelled([0] * 40 + [1] * 10), 0.2, 0)
    assert np.bincount(held_out.labels).tolist() == [8, 2]


def test_images_and_labels_stay_with_their_ids():
    rest, held_out = stratified_split(labelled([0, 1, 2] * 20), 0.3, 5)
    for part in (rest, held_out):
        assert part.inputs.ravel().tolist() == [int(id) for id in part.ids]
        assert part.labels.tolist() == [int(id) % 3 for id in part.ids]


def test_the_seed_decides():
    domain = labelled([0, 1] * 30)
    first, again, other = (stratified_split(domain, 0.5, seed)[1].ids for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(InvalidInput, match=f"fraction={fraction} is out of range"):
        stratified_split(labelled([0, 1]), fraction, 0)


@given(size=st.integers(2, 50), seed=st.integers(0, 2**32))
def test_halves_part_the_domain(size, seed):
    first, second = random_halves(unlabelled(size), seed)
    assert sorted([*first.ids, *second.ids]) == sorted(unlabelled(size).ids)
    assert len(first) - len(second) == size % 2


def test_halves_are_random_and_follow_the_seed():
    first, again, other = (random_halves(unlabelled(50), seed)[0].ids for seed in (1, 1, 2))
    assert first == again != other


def test_a_single_example_has_no_halves():
    with pytest.raises(InvalidInput, match="'target' has 1 examples, too few to halve"):
        random_halves(unlabelled(1), 0)
