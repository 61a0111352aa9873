"""Parts of a domain."""

from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.data.splits import grouped_split, random_halves, stratified_split, temporal_split
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


# groups


def grouped(labels, groups, fraction=0.3, seed=0):
    return [set(part.ids) for part in grouped_split(labelled(labels), np.array(groups), fraction, seed)]


@pytest.mark.parametrize("seed", range(5))
def test_examples_of_a_group_are_on_one_side(seed):
    groups = [row // 3 for row in range(60)]
    rest, held_out = grouped([row % 2 for row in range(60)], groups, seed=seed)
    assert {groups[int(row)] for row in rest}.isdisjoint(groups[int(row)] for row in held_out)
    assert rest | held_out == set(map(str, range(60)))
    assert abs(len(held_out) - 18) <= 3


def test_without_groups_it_is_the_stratified_split():
    labels = [row % 2 for row in range(30)]
    one, other = stratified_split(labelled(labels), 0.3, 4)
    assert grouped(labels, range(30), seed=4) == [set(one.ids), set(other.ids)]


def test_every_class_stays_in_the_rest():
    labels = [0] * 20 + [1] * 4
    rest, held_out = grouped(labels, [*range(20), 100, 100, 100, 100])
    assert {"20", "21", "22", "23"} <= rest
    assert held_out


def test_the_smallest_group_is_held_out_where_all_are_larger_than_the_share():
    _, held_out = grouped([0, 1] * 10, [0] * 12 + [1] * 8, fraction=0.05)
    assert held_out == set(map(str, range(12, 20)))


@pytest.mark.parametrize(
    ("groups", "said"), [([0] * 6, "has a single group"), ([0, 1, 0, 1, 0, 1], "each holds all of a class")]
)
def test_groups_that_leave_nothing_to_hold_out_are_refused(groups, said):
    with pytest.raises(InvalidInput, match=said):
        grouped([0, 1, 0, 1, 0, 1], groups)


# time


@pytest.mark.parametrize(
    "times",
    [
        [3, 1, 2, 10],
        ["2026-01-03", "2026-01-01", "2026-01-02T12:00", "2026-02-01"],
        ["3", "1", "2", "10"],
        [date(2026, 1, 3), date(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 2, 1)],
    ],
)
def test_the_latest_examples_are_held_out(times):
    earlier, latest = temporal_split(labelled([0, 1, 0, 1]), times, 0.25)
    assert (earlier.ids, latest.ids) == (("0", "1", "2"), ("3",))


def test_examples_of_one_time_are_on_one_side():
    _, latest = temporal_split(labelled([0, 1, 0, 1]), [1, 1, 2, 2], 0.25)
    assert latest.ids == ("2", "3")


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([1, 2, None, 3], "row 2 holds None, which is no number or date that is read; write 2026-01-31"),
        ([1, 2, "soon", 3], "row 2 holds 'soon'"),
        ([1, 1, 1, 1], "has one time for all examples"),
        ([1, 9, 2, 9], "the classes b are among the latest examples alone"),
    ],
)
def test_times_that_split_nothing_are_refused(times, said):
    with pytest.raises(InvalidInput, match=said):
        temporal_split(labelled([0, 1, 0, 1]), times, 0.5)
