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


SURE_OF_SOURCE = outputs(*[0] * 20, sure=0.99)  # no target below is predicted as surely: a large shift


def evidence(predictions, holdout=SURE_OF_SOURCE):
    return {number: {"target": found, "source_holdout": holdout} for number, found in predictions.items()}.__getitem__


def test_where_confidence_alone_decides_the_trials_vote():
    trials = [trial(0, objectives=[0.1], is_baseline=True), trial(1, objectives=[0.9]), trial(2, objectives=[0.3])]
    predictions = {0: outputs(0, 0, 1, 1, sure=0.6), 1: outputs(1, 1, 0, 1, sure=1.0), 2: outputs(0, 1, 1, 1)}
    choice = choose(trials, EVEN, evidence(predictions))
    # By majority 0, 1, 1, 1: trial 2 wholly, 0 in three of four, 1, the surest and of the best objective, in two.
    assert [(item.trial.number, item.merit) for item in choice.candidates] == [(2, 1.0), (0, 0.75), (1, 0.5)]
    assert choice.reason == (
        "agrees most (100.0%) with the vote of 3 trials at full fidelity, because confidence alone can't be trusted "
        "and source-only is expected to fall from 90.0% to 0.0%; guards rejected 0."
    )


def test_without_source_only_the_trials_vote():
    predictions = {1: outputs(0, 1, 1), 2: outputs(0, 1, 0), 3: outputs(0, 1, 1)}
    choice = choose([trial(2), trial(1), trial(3)], EVEN, evidence(predictions))
    assert [item.trial.number for item in choice.candidates] == [1, 3, 2]


def test_who_is_rejected_has_no_vote():
    mad = trial(1, objectives=[0.9], epochs=[ONE_CLASS])
    trials = [trial(0, objectives=[0.1], is_baseline=True), mad, trial(2, objectives=[0.3])]
    predictions = {0: outputs(0, 0, 1), 2: outputs(0, 1, 1, sure=0.8)}  # none are asked of trial 1
    choice = choose(trials, EVEN, evidence(predictions))
    assert [item.trial.number for item in choice.candidates] == [0, 2, 1]  # votes are equal: the surer one, here


def small_shift(*accuracies, num_examples=400, predictions=None):
    """Trials of these source accuracies, source-only first, as sure of the target as of the source."""
    trials = [
        trial(number, epochs=[epoch(1, 0.5 + number, source_accuracy=accuracy)], is_baseline=number == 0)
        for number, accuracy in enumerate(accuracies)
    ]
    holdout = np.linspace(0.5, 1, num_examples)[:, None] * [1, 0] + np.linspace(0.5, 0, num_examples)[:, None] * [0, 1]
    alike = dict.fromkeys(range(len(trials)), holdout)
    return choose(trials, EVEN, evidence(alike | (predictions or {}), holdout))


def test_where_little_can_be_won_source_only_stays_unless_the_source_says_more_beyond_chance():
    # One-sided 5 %: the difference must pass 1.645 sqrt((0.8 0.2 + a (1 - a)) / 400), 0.0430 at a = 0.843.
    choice = small_shift(0.8, 0.842, 0.79)
    assert choice.champion.is_baseline
    assert [item.rejected is None for item in choice.candidates] == [True, False, False]
    assert "source accuracy 84.2% is not above source-only's 80.0% beyond chance" in choice.candidates[1].rejected
    assert choice.reason == (
        "source-only is expected to keep 80.0% of its 80.0% on the target, confidence alone can't be trusted, and no "
        "trial is better on the source beyond chance."
    )


def test_where_little_can_be_won_those_vote_that_the_source_can_not_tell_from_the_best():
    # 0.86 and 0.88 can't be told from 0.89 (1.645 sqrt(0.2183 / 400) is 0.0384); 0.845 can, and 0.79 is no better
    # than source-only.
    predictions = {1: outputs(0, 1, 1, 0), 2: outputs(0, 0, 1, 1), 3: outputs(0, 1, 0, 0), 4: outputs(1, 1, 0, 0)}
    choice = small_shift(0.8, 0.86, 0.89, 0.88, 0.845, 0.79, predictions=predictions)
    # By majority of 1, 2 and 3: 0, 1, 1, 0. Trial 1 wholly, 3 in three of four, 2 in two; 4 has no vote.
    assert [item.trial.number for item in choice.candidates] == [1, 3, 2, 4, 0, 5]
    assert [item.merit for item in choice.candidates[:3]] == [1.0, 0.75, 0.5]
    assert [item.rejected is None for item in choice.candidates] == [True] * 5 + [False]
    assert choice.reason == (
        "agrees most (100.0%) with the vote of 3 that are better on the source than source-only beyond chance, up to "
        "89.0%, where source-only is expected to keep 80.0% of its 80.0% on the target."
    )


def test_the_only_trial_that_is_better_on_the_source_beyond_chance_wins():
    assert small_shift(0.8, 0.85, 0.79).champion.number == 1
    assert small_shift(0.8, 0.85, num_examples=100).champion.is_baseline


def test_who_forgot_the_source_or_has_collapsed_sets_no_bar_for_others():
    collapsed = epoch(1, 0.9, source_accuracy=0.95).model_copy(update={"histogram": [1.0, 0.0]})
    mad = trial(1, epochs=[collapsed])
    good = trial(2, epochs=[epoch(1, 0.6, source_accuracy=0.86)])
    source_only = trial(0, epochs=[epoch(1, 0.5, source_accuracy=0.8)], is_baseline=True)
    alike = np.linspace([0.5, 0.5], [1, 0], 400)
    choice = choose([source_only, mad, good], EVEN, evidence({0: alike, 2: alike}, alike))
    assert [item.trial.number for item in choice.candidates] == [2, 0, 1]


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
