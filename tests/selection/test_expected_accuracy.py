"""What the agreements of a pool let expect of its champion, and when nothing is said."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ray_tl.errors import Unavailable
from ray_tl.selection import TrialEvidence
from ray_tl.selection.expected_accuracy import combined, expected_accuracy
from tests.selection.test_by_agreement import FAMILIES, ROWS, TRUE, final, sure, wrong_in

ERRORS = (0.3, 0.1, 0.15, 0.2, 0.25)


def pool(errors=ERRORS, noise=0.05, holdout=TRUE):
    """Source-only first."""
    return {
        number: TrialEvidence(sure(holdout), sure(wrong_in(share, number)), final(noise, number))
        for number, share in enumerate(errors)
    }


def expected(outputs, champion=1, families=FAMILIES, baseline=0):
    return expected_accuracy(champion, outputs, families, baseline, 3)


def test_the_estimate_is_source_accuracy_times_the_mean_agreement():
    found = combined(0.9, 0.8, 0.6, 1000)
    assert found.accuracy == pytest.approx(0.63)


def test_the_interval_is_as_wide_as_past_errors_and_the_noise_of_the_examples():
    found = combined(1.0, 0.5, 0.5, 100)  # a standard deviation of 0.5 for one example: 0.05 for a hundred
    assert found.high - found.accuracy == pytest.approx(math.sqrt((0.31 * 0.5) ** 2 + (1.645 * 0.05) ** 2))
    assert found.accuracy - found.low == pytest.approx(found.high - found.accuracy)


def test_the_interval_stays_among_shares_and_does_not_close_at_the_end():
    found = combined(1.0, 1.0, 1.0, 10**9)
    assert found.high == 1
    assert found.low == pytest.approx(1 - 0.31 * 0.3)  # as at 0.9


def test_trials_that_all_agree_are_as_good_as_on_the_source():
    held_out = np.where(np.arange(ROWS) < 12, (TRUE + 1) % 3, TRUE)  # 90 % right
    found = expected(pool([0.0] * 5, holdout=held_out))
    assert (found.source_accuracy, found.ensemble, found.neighbours) == (0.9, 1.0, 1.0)
    assert found.accuracy == 0.9


def test_the_ensemble_is_that_of_the_other_trials():
    rows = np.arange(ROWS)
    errors = np.where(rows < 30, (TRUE + 1) % 3, TRUE)
    outputs = pool([0.0] * 5)
    outputs[1] = replace(outputs[1], target=sure(errors))
    assert expected(outputs).ensemble == 0.75


def test_predictions_that_have_nothing_to_do_with_neighbours_agree_as_chance_has_it():
    outputs = pool([0.0] * 5)
    outputs[1] = replace(outputs[1], target=sure(np.random.default_rng(0).integers(3, size=ROWS)))
    found = expected(outputs)
    assert found.neighbours == pytest.approx(1 / 3, abs=0.1)  # twice the deviation of a third of 120 is 0.09


def test_a_worse_champion_is_expected_to_be_worse():
    outputs = pool()
    assert expected(outputs, 1).accuracy > expected(outputs, 4).accuracy


def test_a_pool_of_a_single_trial_is_told_in_the_singular():
    with pytest.raises(Unavailable, match=r"^1 trial at full fidelity passes the guards, and it takes 5"):
        expected(pool(ERRORS[:1]), 0)


@pytest.mark.parametrize(
    ("outputs", "families", "baseline", "why"),
    [
        (pool(ERRORS[:4]), FAMILIES, 0, "4 trials at full fidelity pass the guards, and it takes 5"),
        (pool(), dict.fromkeys(FAMILIES, "im"), 0, "one family"),
        (pool(noise=9.0), FAMILIES, 0, "no features in which neighbours can be trusted"),
        (pool(), FAMILIES, None, "no features in which neighbours can be trusted"),
        ({number: replace(each, final=None) for number, each in pool().items()}, FAMILIES, 0, "no final evidence"),
    ],
)
def test_nothing_is_said_where_the_pool_says_too_little(outputs, families, baseline, why):
    with pytest.raises(Unavailable, match=why):
        expected(outputs, families=families, baseline=baseline)


def test_nothing_is_said_of_a_champion_that_the_guards_reject():
    with pytest.raises(Unavailable, match="guards reject"):
        expected(pool(), champion=7)


def test_words_give_the_interval_and_say_that_no_label_was_read():
    words = combined(0.9, 0.8, 0.6, 10**6).in_words()
    assert words.startswith("expected accuracy on the target: 63% (90% interval 48% to 78%)")  # 0.31 sqrt(.63 .37)
    assert "no label of the target was read" in words
