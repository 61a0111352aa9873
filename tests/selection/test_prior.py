from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_tl.errors import InvalidInput
from ray_tl.selection.prior import PriorEstimate, TrialOutputs, estimate_prior, stated_shares
from tests.selection.mixtures import SHARES, mixture, posterior

EVEN = np.full(4, 0.25)


def outputs(source, target, shift=0.0, family=None, weight=1.0):
    """A trial that looks at points `shift` beside where they are in the target."""
    return TrialOutputs(posterior(source.points), posterior(target.points + np.asarray(shift)), weight, family)


def certain(shares, num, weight=1.0, family=None):
    """A trial that is right of every example, of a hold-out of 25 of each class and of a target with these shares."""
    rows = np.repeat(np.arange(4), np.round(np.asarray(shares) * num).astype(int))
    return TrialOutputs(np.eye(4)[BALANCED], np.eye(4)[rows], weight, family)


BALANCED = np.repeat(np.arange(4), 25)


def of_certain(*trials):
    return estimate_prior(trials, BALANCED, EVEN, num_resamples=10)


def test_shares_and_intervals_of_trials_that_agree():
    source, target = mixture(EVEN, 1000, 0), mixture(SHARES, 1000, 1)
    found = estimate_prior([outputs(source, target)] * 3, source.labels, EVEN)
    np.testing.assert_allclose(found.shares, SHARES, atol=0.07)  # 0.015 of 20,000 examples, times the root of 20
    assert found.shares.sum() == pytest.approx(1)
    assert (found.low <= found.shares).all()
    assert (found.shares <= found.high).all()
    assert found.is_beyond_chance
    assert found.num_trials == 3


def test_shift_is_the_total_variation_distance_to_the_source():
    found = of_certain(certain([0.7, 0.1, 0.1, 0.1], 500))
    assert found.shift == pytest.approx(0.45, abs=0.01)
    assert found.shift_interval[0] <= found.shift <= found.shift_interval[1]


@pytest.mark.parametrize(("num_holdout", "num_target"), [(400, 100), (400, 1000), (60, 1000)])
def test_intervals_hold_the_true_shares_as_often_as_they_say(num_holdout, num_target):
    # Of 60 seeds 90 % would be 54; that 48 or fewer happens by chance is once in a hundred (binomial).
    held = []
    for seed in range(15):
        source, target = mixture(EVEN, num_holdout, 2 * seed), mixture(SHARES, num_target, 2 * seed + 1)
        found = estimate_prior([outputs(source, target)], source.labels, EVEN)
        held += ((found.low <= SHARES) & (found.high >= SHARES)).tolist()
    assert sum(held) >= 48


def test_fewer_rows_of_the_target_or_the_holdout_widen_intervals():
    width = {}
    for num_holdout, num_target in [(2000, 2000), (60, 2000), (2000, 60)]:
        source, target = mixture(EVEN, num_holdout, 0), mixture(SHARES, num_target, 1)
        found = estimate_prior([outputs(source, target)], source.labels, EVEN)
        width[num_holdout, num_target] = (found.high - found.low).mean()
    assert width[60, 2000] > 1.5 * width[2000, 2000]
    assert width[2000, 60] > 1.5 * width[2000, 2000]


def test_trials_that_disagree_are_told_as_a_wide_interval_and_no_shift():
    # The shares that five trials found for one class of a real pair of texts, where 0.69 was true.
    labels, shares = np.repeat([0, 1], 100), np.array([0.5, 0.5])
    trials = [
        TrialOutputs(np.eye(2)[labels], np.eye(2)[(np.arange(400) >= 400 * share).astype(int)])
        for share in (0.34, 0.42, 0.5, 0.6, 0.7)
    ]
    found = estimate_prior(trials, labels, shares)
    assert found.low[0] < 0.36
    assert found.high[0] > 0.69
    assert not found.is_beyond_chance


def test_three_sure_trials_that_agree_see_missing_classes():
    found = of_certain(*[certain([0.5, 0.5, 0, 0], 400)] * 3)
    assert found.is_beyond_chance
    assert found.absent.tolist() == [False, False, True, True]
    assert found.low.tolist()[2:] == [0, 0]
    assert found.shift == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("num_trials", [1, 2])
def test_too_few_trials_see_no_shift_beyond_chance(num_trials):
    assert not of_certain(*[certain([0.5, 0.5, 0, 0], 400)] * num_trials).is_beyond_chance


def test_near_copies_have_one_vote_between_them():
    right = [certain([0.25] * 4, 400, family=name) for name in ("a", "b", "c")]
    copies = [certain([1, 0, 0, 0], 400, family="d")] * 10
    found = of_certain(*right, *copies)
    np.testing.assert_allclose(found.shares, 0.25, atol=0.02)
    assert (found.num_trials, found.num_families) == (13, 4)
    assert not found.is_beyond_chance


def test_copies_of_a_trial_in_its_family_change_nothing_in_the_estimate():
    trials = [
        certain(shares, 400, family=str(shares[0])) for shares in ([0.1, 0.3, 0.3, 0.3], [0.4, 0.2, 0.2, 0.2], SHARES)
    ]
    np.testing.assert_allclose(of_certain(*trials).shares, of_certain(*trials, trials[0], trials[0]).shares)


def test_one_trial_of_three_does_not_move_the_estimate_far():
    astray = certain([0, 0, 0, 1], 400)
    found = of_certain(certain(EVEN, 400), certain(EVEN, 400), astray)
    np.testing.assert_allclose(found.shares, EVEN, atol=0.01)


def test_weights_decide_between_two_trials_and_none_is_left_out():
    heavy, light = certain([0.7, 0.1, 0.1, 0.1], 400, weight=3), certain(EVEN, 400, weight=1)
    assert of_certain(heavy, light).shares[0] == pytest.approx(0.7, abs=0.02)
    assert of_certain(replace(heavy, weight=0.0), light).shares[0] == pytest.approx(0.25, abs=0.02)
    assert of_certain(replace(heavy, weight=0.0), light).num_trials == 1


@pytest.mark.parametrize("seed", range(5))
def test_balanced_target_that_trials_see_displaced_has_no_shift_beyond_chance(seed):
    random = np.random.default_rng(seed)
    source, target = mixture(EVEN, 400, seed), mixture(EVEN, 400, seed + 100)
    trials = [outputs(source, target, random.normal(size=2)) for _ in range(5)]
    assert not estimate_prior(trials, source.labels, EVEN, num_resamples=20).is_beyond_chance


def test_estimators_that_contradict_each_other_see_no_shift_beyond_chance():
    # Every example is predicted rightly as one of a balanced target, but so faintly for one class that the likelihood
    # gives its share to another: not what a change of shares alone could do.
    sure = np.eye(4)[BALANCED] * 0.96 + 0.01
    faint = sure.copy()
    faint[BALANCED == 0] = [0.34, 0.33, 0.165, 0.165]
    found = estimate_prior([TrialOutputs(sure, faint)] * 3, BALANCED, EVEN, num_resamples=10)
    assert found.shift > 0.1
    assert found.shift_interval[0] > 0.1
    assert not found.is_beyond_chance


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_estimate_follows_a_permutation_of_the_classes(seed):
    random = np.random.default_rng(seed)
    order = random.permutation(4)
    source, target = mixture(EVEN, 100, seed), mixture(SHARES, 50, seed + 1)
    trials = [outputs(source, target, random.normal(size=2)) for _ in range(3)]
    permuted = [TrialOutputs(each.holdout_probs[:, order], each.target_probs[:, order]) for each in trials]
    plain = estimate_prior(trials, source.labels, EVEN, num_resamples=5)
    other = estimate_prior(permuted, np.argsort(order)[source.labels], EVEN, num_resamples=5)
    for field in ("shares", "low", "high"):
        np.testing.assert_allclose(getattr(other, field), getattr(plain, field)[order], atol=2e-3)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_target_of_one_row_is_known_to_be_unknown(num_classes):
    labels = np.repeat(np.arange(num_classes), 20)
    even = np.full(num_classes, 1 / num_classes)
    trial = TrialOutputs(np.eye(num_classes)[labels] * 0.5 + even * 0.5, even[None])
    found = estimate_prior([trial] * 3, labels, even, num_resamples=20, prior_rows=10)
    np.testing.assert_allclose(found.shares, even, atol=0.05)
    assert not found.is_beyond_chance


def test_same_seed_gives_the_same_estimate():
    source, target = mixture(EVEN, 100, 0), mixture(SHARES, 50, 1)
    first, second = (estimate_prior([outputs(source, target)], source.labels, EVEN, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.low, second.low)


def test_large_target_has_an_interval_as_wide_as_one_of_2000_rows():
    # The standard error of a share of 0.55 among 2000 rows is 0.0111, the interval at 90 % 3.29 times as wide; classes
    # overlap here, which adds to it.
    source, target = mixture(EVEN, 20000, 0), mixture(SHARES, 8000, 1)
    found = estimate_prior([outputs(source, target)], source.labels, EVEN, num_resamples=200)
    assert 3.29 * 0.0111 < found.high[0] - found.low[0] < 2 * 3.29 * 0.0111
    assert found.low[0] < SHARES[0] < found.high[0]


CLASSES = ("cat", "dog", "cow", "owl")
SURE = PriorEstimate(
    shares=np.array([0.03, 0.62, 0.35, 0.0]),
    low=np.array([0.01, 0.5, 0.2, 0.0]),
    high=np.array([0.06, 0.7, 0.5, 0.01]),
    source_shares=np.array([0.11, 0.3, 0.34, 0.25]),
    shift=0.33,
    shift_interval=(0.2, 0.41),
    is_beyond_chance=True,
    level=0.9,
    num_trials=5,
    num_families=3,
    method="likelihood",
)


def test_shift_in_words_names_what_is_absent_and_what_has_changed_for_sure():
    assert SURE.in_words(CLASSES) == [
        "The class shares of the target differ from the source's by 33% of the examples, between 20% and 41%.",
        "The target seems to hold no owl.",
        "The target seems to hold more dog (62%, source 30%) and fewer cat (3%, source 11%).",
    ]


def test_no_shift_in_words_claims_nothing_of_any_class():
    (line,) = replace(SURE, is_beyond_chance=False).in_words(CLASSES)
    assert line == "No shift of the class shares that is beyond chance (estimate: 33% of the examples)."


def test_many_absent_classes_are_counted_in_words():
    num = 9
    shares, source = np.eye(num)[0], np.full(num, 1 / num)
    found = replace(SURE, shares=shares, low=shares, high=shares, source_shares=source)
    assert found.in_words("abcdefghi")[1] == "The target seems to hold no b, c, d, e, f or 3 others."


def test_stated_shares_are_in_the_order_of_the_classes_with_0_for_those_left_out():
    np.testing.assert_allclose(stated_shares({"dog": 0.3, "cat": 0.7}, CLASSES, EVEN), [0.7, 0.3, 0, 0])
    np.testing.assert_allclose(stated_shares("same", CLASSES, SHARES), SHARES)
    np.testing.assert_allclose(stated_shares({"cat": 0.333, "dog": 0.666}, CLASSES, EVEN), [1 / 3, 2 / 3, 0, 0])


@pytest.mark.parametrize("word", ["subset", "unknown"])
def test_nothing_is_stated_where_shares_are_to_be_estimated(word):
    assert stated_shares(word, CLASSES, EVEN) is None


def test_stated_classes_that_the_source_lacks_are_refused():
    with pytest.raises(InvalidInput, match="'dgo' is no class of the source; did you mean 'dog'"):
        stated_shares({"dgo": 1.0}, CLASSES, EVEN)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "trials: none of 0 has a weight above 0"),
        ([certain(EVEN, 8, weight=0.0)], "trials: none of 1 has a weight above 0"),
        ([certain(EVEN, 8, weight=-1.0)], r"weight=-1.0 of a trial is no weight"),
        ([certain(EVEN, 8, weight=np.nan)], r"weight=nan of a trial is no weight"),
        ([certain(EVEN, 8), certain(EVEN, 12)], "trials have outputs of the shapes"),
    ],
)
def test_trials_that_can_not_be_pooled_are_refused(trials, said):
    with pytest.raises(InvalidInput, match=said):
        of_certain(*trials)


@pytest.mark.parametrize(("field", "value"), [("level", 0.0), ("level", 1.0), ("num_resamples", 0)])
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidInput, match=f"{field}={value}"):
        estimate_prior([certain(EVEN, 8)], BALANCED, EVEN, **{field: value})
