import numpy as np
import pytest

from ray_tl.selection.champion import choose
from ray_tl.selection.ensemble import agreements
from ray_tl.study.records import TrialState
from tests.examples import BASELINE, epoch, trial

EVEN = [0.5, 0.5]
ONE_CLASS = epoch(1, 0.9).model_copy(update={"histogram": [1.0, 0.0]})
FORGETFUL = epoch(1, 0.8, source_accuracy=0.7)


def test_best_objective_wins_and_the_rest_follow_in_order():
    choice = choose([trial(0, objectives=[0.4], is_baseline=True), trial(1), trial(2, objectives=[0.7])], EVEN)
    assert [candidate.trial.number for candidate in choice.candidates] == [2, 1, 0]
    assert choice.champion.number == 2
    assert choice.reason == ("best objective 0.700 of 3 trials at full fidelity, source-only 0.400; guards rejected 0.")


def test_source_only_wins_when_all_others_are_rejected():
    others = [trial(1, objectives=[0.9], epochs=[ONE_CLASS]), trial(2, objectives=[0.8], epochs=[FORGETFUL])]
    choice = choose([trial(0, objectives=[0.1], is_baseline=True), *others], EVEN)
    assert choice.champion.is_baseline
    assert [candidate.rejected is None for candidate in choice.candidates] == [True, False, False]
    assert choice.reason == "no trial that passes the guards scores above source-only."


def test_source_only_is_not_rejected_even_if_it_has_collapsed():
    choice = choose([trial(0, epochs=[ONE_CLASS], is_baseline=True)], EVEN)
    assert choice.candidates[0].rejected is None


def test_last_epoch_counts_not_the_best():
    choice = choose([trial(0, objectives=[0.9, 0.2], is_baseline=True), trial(1, objectives=[0.1, 0.3])], EVEN)
    assert choice.champion.number == 1


@pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.COMPLETE])
def test_trial_that_is_not_complete_never_wins(state):
    choice = choose([trial(0, objectives=[0.1], is_baseline=True), trial(1, state, objectives=[0.9])], EVEN)
    assert [candidate.trial.number for candidate in choice.candidates] == [0]


def test_trial_below_full_fidelity_never_wins():
    short = trial(1, objectives=[0.9], config=BASELINE.model_copy(update={"epochs": 2}))
    assert choose([short], EVEN) is None
    assert choose([trial(0, objectives=[0.1], is_baseline=True), short], EVEN).champion.is_baseline


def test_equal_objectives_go_to_the_earlier_trial():
    trials = [trial(2), trial(0, is_baseline=True), trial(1)]
    assert [candidate.trial.number for candidate in choose(trials, EVEN).candidates] == [0, 1, 2]


def test_without_source_only_nothing_is_held_against_its_accuracy():
    choice = choose([trial(1, epochs=[FORGETFUL])], EVEN)
    assert choice.candidates[0].rejected is None


def test_champion_that_a_guard_rejects_is_said_to_be_so():
    choice = choose([trial(1, epochs=[ONE_CLASS])], EVEN)
    assert choice.candidates[0].rejected is not None
    assert choice.reason.endswith("the guards reject every trial.")


def test_study_without_a_finished_trial_has_no_champion():
    assert choose([], EVEN) is None
    assert choose([trial(0, TrialState.FAILED, [])], EVEN) is None


def outputs(*classes, sure=0.9):
    """Softmax of two classes."""
    return np.where(np.eye(2)[list(classes)] > 0, sure, 1 - sure)


def test_where_confidence_alone_decides_the_trials_vote():
    trials = [trial(0, objectives=[0.1], is_baseline=True), trial(1, objectives=[0.9]), trial(2, objectives=[0.3])]
    predictions = {0: outputs(0, 0, 1, 1, sure=0.6), 1: outputs(1, 1, 0, 1, sure=1.0), 2: outputs(0, 1, 1, 1)}
    choice = choose(trials, EVEN, predictions.__getitem__)
    # By majority 0, 1, 1, 1: trial 2 wholly, 0 in three of four, 1, the surest and of the best objective, in two.
    assert [(item.trial.number, item.agreement) for item in choice.candidates] == [(2, 1.0), (0, 0.75), (1, 0.5)]
    assert choice.reason.startswith("agrees most (100.0%) with the vote of 3 trials at full fidelity")


def test_who_is_rejected_has_no_vote():
    mad = trial(1, objectives=[0.9], epochs=[ONE_CLASS])
    trials = [trial(0, objectives=[0.1], is_baseline=True), mad, trial(2, objectives=[0.3])]
    predictions = {0: outputs(0, 0, 1), 2: outputs(0, 1, 1, sure=0.8)}  # none are asked of trial 1
    choice = choose(trials, EVEN, predictions.__getitem__)
    assert [item.trial.number for item in choice.candidates] == [0, 2, 1]  # votes are equal: the surer one, here


def test_agreement_is_that_of_a_double_loop():
    given = {number: np.random.default_rng(number).dirichlet(np.ones(4), 25) for number in range(5)}
    found = agreements(given)
    for number, own in given.items():
        same = 0
        for row in range(25):
            votes = [sum(other[row].argmax() == each for other in given.values()) for each in range(4)]
            most = [each for each in range(4) if votes[each] == max(votes)]
            winner = max(most, key=lambda each: sum(other[row][each] for other in given.values()))
            same += own[row].argmax() == winner
        assert found[number] == pytest.approx(same / 25)
