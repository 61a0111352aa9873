"""Which trials may win at all, and in which order they follow one another."""

import pytest

from ray_tl.selection.pool import baseline_of, guarded, in_order
from ray_tl.study.records import TrialState
from tests.examples import BASELINE, epoch, trial

EVEN = [0.5, 0.5]
ONE_CLASS = epoch(1, 0.9).model_copy(update={"histogram": [1.0, 0.0]})
FORGETFUL = epoch(1, 0.8, source_accuracy=0.7)
SOURCE_ONLY = trial(0, objectives=[0.1], is_baseline=True)


def numbers(pool):
    return [candidate.trial.number for candidate in pool]


def test_merit_of_a_candidate_is_its_objective_at_the_last_epoch_not_the_best():
    (candidate,) = guarded([trial(1, objectives=[0.9, 0.2])], None)
    assert (candidate.objective, candidate.merit) == (0.2, 0.2)


@pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.COMPLETE])
def test_trial_that_is_not_complete_is_no_candidate(state):
    assert numbers(guarded([SOURCE_ONLY, trial(1, state, objectives=[0.9])], None)) == [0]


def test_trial_below_full_fidelity_is_no_candidate():
    short = trial(1, objectives=[0.9], config=BASELINE.model_copy(update={"epochs": 2}))
    assert numbers(guarded([SOURCE_ONLY, short], None)) == [0]


def test_baseline_below_full_fidelity_is_none():
    unfinished = trial(0, objectives=[0.1], is_baseline=True, config=BASELINE.model_copy(update={"epochs": 2}))
    assert baseline_of([unfinished, trial(1)]) is None
    assert baseline_of([trial(1), SOURCE_ONLY]) == SOURCE_ONLY


def test_guards_say_why_a_trial_is_rejected():
    rejected = {each.trial.number: each.rejected for each in guarded(
        [SOURCE_ONLY, trial(1, epochs=[ONE_CLASS]), trial(2, epochs=[FORGETFUL]), trial(3)], None
    )}  # fmt: skip
    assert rejected == {
        0: None,
        1: "predictions are of a single class",
        2: "source accuracy 70.0% is more than 10% below source-only's 90.0%",
        3: None,
    }


@pytest.mark.parametrize("shares", [None, EVEN])
def test_source_only_is_not_rejected_even_if_it_has_collapsed(shares):
    assert guarded([trial(0, epochs=[ONE_CLASS], is_baseline=True)], shares)[0].rejected is None


def test_few_classes_are_held_against_the_shares_that_are_stated():
    narrow = trial(1, epochs=[epoch(1).model_copy(update={"histogram": [0.99, 0.01]})])
    assert guarded([narrow], None)[0].rejected is None
    assert guarded([narrow], [0.99, 0.01])[0].rejected is None
    said = "predictions spread over 1.1 effective classes where the target has 2.0"  # exp(0.0560) = 1.06
    assert guarded([narrow], EVEN)[0].rejected == said


def test_without_source_only_nothing_is_held_against_its_accuracy():
    assert guarded([trial(1, epochs=[FORGETFUL])], None)[0].rejected is None


def test_sound_ones_come_first_then_the_best_and_of_equal_ones_the_earlier():
    mad = trial(4, epochs=[ONE_CLASS])
    pool = guarded([mad, trial(3), trial(1), trial(2, objectives=[0.7]), SOURCE_ONLY], None)
    assert numbers(in_order(pool)) == [2, 1, 3, 0, 4]
