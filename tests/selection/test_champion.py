import numpy as np
import pytest

from ray_tl.neighbours import LabelledSpace, nearest_neighbours
from ray_tl.selection.champion import TrialEvidence, choose
from ray_tl.selection.cross_examination import cross_agreements
from ray_tl.study.records import TrialState
from tests.examples import BASELINE, epoch, trial

EVEN = [0.5, 0.5]
ONE_CLASS = epoch(1, 0.9).model_copy(update={"histogram": [1.0, 0.0]})
FORGETFUL = epoch(1, 0.8, source_accuracy=0.7)


def no_space(number):
    """TrialEvidence of a trial of which nothing but its outputs is known."""
    return TrialEvidence(np.full((4, 2), 0.5), np.full((4, 2), 0.5))


def test_best_objective_wins_and_the_rest_follow_in_order():
    choice = choose(
        [trial(0, objectives=[0.4], is_baseline=True), trial(1), trial(2, objectives=[0.7])], EVEN, no_space
    )
    assert [candidate.trial.number for candidate in choice.candidates] == [2, 1, 0]
    assert choice.champion.number == 2
    assert choice.reason == (
        "best objective, 0.700, of 3 trials at full fidelity, source-only's 0.400; guards rejected 0."
    )


def test_source_only_wins_when_all_others_are_rejected():
    others = [trial(1, objectives=[0.9], epochs=[ONE_CLASS]), trial(2, objectives=[0.8], epochs=[FORGETFUL])]
    choice = choose([trial(0, objectives=[0.1], is_baseline=True), *others], EVEN, no_space)
    assert choice.champion.is_baseline
    assert [candidate.rejected is None for candidate in choice.candidates] == [True, False, False]
    assert choice.reason == "source-only: no trial that passes the guards has more merit; guards rejected 2."


def test_source_only_is_not_rejected_even_if_it_has_collapsed():
    choice = choose([trial(0, epochs=[ONE_CLASS], is_baseline=True)], EVEN, no_space)
    assert choice.candidates[0].rejected is None


def test_last_epoch_counts_not_the_best():
    choice = choose(
        [trial(0, objectives=[0.9, 0.2], is_baseline=True), trial(1, objectives=[0.1, 0.3])], EVEN, no_space
    )
    assert choice.champion.number == 1


@pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.COMPLETE])
def test_trial_that_is_not_complete_never_wins(state):
    choice = choose([trial(0, objectives=[0.1], is_baseline=True), trial(1, state, objectives=[0.9])], EVEN, no_space)
    assert [candidate.trial.number for candidate in choice.candidates] == [0]


def test_trial_below_full_fidelity_never_wins():
    short = trial(1, objectives=[0.9], config=BASELINE.model_copy(update={"epochs": 2}))
    assert choose([short], EVEN, no_space) is None
    assert choose([trial(0, objectives=[0.1], is_baseline=True), short], EVEN, no_space).champion.is_baseline


def test_equal_objectives_go_to_the_earlier_trial():
    trials = [trial(2), trial(0, is_baseline=True), trial(1)]
    assert [candidate.trial.number for candidate in choose(trials, EVEN, no_space).candidates] == [0, 1, 2]


def test_without_source_only_nothing_is_held_against_its_accuracy():
    choice = choose([trial(1, epochs=[FORGETFUL])], EVEN, no_space)
    assert choice.candidates[0].rejected is None


def test_champion_that_a_guard_rejects_is_said_to_be_so():
    choice = choose([trial(1, epochs=[ONE_CLASS])], EVEN, no_space)
    assert choice.candidates[0].rejected is not None
    assert choice.reason.endswith("the guards reject every trial.")


def test_study_without_a_finished_trial_has_no_champion():
    assert choose([], EVEN, no_space) is None
    assert choose([trial(0, TrialState.FAILED, [])], EVEN, no_space) is None


def outputs(*classes, sure=0.9):
    """Softmax of two classes."""
    return np.where(np.eye(2)[list(classes)] > 0, sure, 1 - sure)


TRUE = np.arange(40) % 2
SURE_OF_SOURCE = outputs(*[0] * 20, sure=0.99)  # no target below is predicted as surely: a large shift


def wrong_in(count):
    """Softmax on the target, wrong in the first `count` examples."""
    return outputs(*np.where(np.arange(40) < count, 1 - TRUE, TRUE))


def space(seed, trust=0.8):
    """Features in which the two classes lie apart."""
    random = np.random.default_rng(seed)
    return LabelledSpace(
        nearest_neighbours(np.eye(2)[TRUE] + random.normal(scale=0.3, size=(40, 2)), np.arange(40)), trust
    )


def evidence(errors, holdout=SURE_OF_SOURCE, trust=0.8):
    """By number of the trial, wrong in so many target examples."""
    return {
        number: TrialEvidence(holdout, wrong_in(count), space(number, trust)) for number, count in errors.items()
    }.__getitem__


def of_accuracy(*accuracies):
    """Trials of these source accuracies, source-only first; the later, the better by objective."""
    return [
        trial(number, epochs=[epoch(1, 0.1 * (1 + number), source_accuracy=accuracy)], is_baseline=number == 0)
        for number, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize("has_judge", [True, False])
def test_merit_is_the_mean_of_source_accuracy_and_of_agreement_in_the_features_of_others(has_judge):
    found = evidence({0: 8, 1: 4, 2: 0, 3: 12})
    choice = choose(of_accuracy(0.9, 0.9, 0.8, 0.9), EVEN, found, has_judge=has_judge)
    agreed = cross_agreements(
        {number: found(number).target.argmax(axis=1) for number in range(4)},
        {number: found(number).space for number in range(4)},
        2,
    )
    expected = {0: 0.9 + agreed[0], 1: 0.9 + agreed[1], 2: 0.8 + agreed[2], 3: 0.9 + agreed[3]}
    assert [item.trial.number for item in choice.candidates] == [2, 1, 0, 3]  # 3 has the best objective
    assert [item.merit for item in choice.candidates] == pytest.approx(
        [expected[number] / 2 for number in (2, 1, 0, 3)]
    )
    assert choice.reason == (
        "best mean of source accuracy and of agreement between neighbours in the features of other trials, "
        f"{expected[2] / 2:.3f}, of 4 trials at full fidelity, source-only's {expected[0] / 2:.3f}; guards rejected 0."
    )


def test_a_better_source_accuracy_counts_as_much():
    assert choose(of_accuracy(0.9, 0.92, 0.85), EVEN, evidence({0: 8, 1: 2, 2: 2})).champion.number == 1


def test_where_the_features_of_trials_tell_little_of_the_source_the_objective_decides():
    choice = choose(of_accuracy(0.9, 0.9, 0.9), EVEN, evidence({0: 8, 1: 0, 2: 12}, trust=0.1))
    assert [(item.trial.number, item.merit) for item in choice.candidates] == [
        (2, pytest.approx(0.3)), (1, pytest.approx(0.2)), (0, pytest.approx(0.1))
    ]  # fmt: skip


def test_who_is_rejected_is_not_asked_and_says_nothing_of_others():
    found = evidence({0: 8, 2: 4, 3: 0})  # none is asked of trial 1
    mad = trial(1, objectives=[0.9], epochs=[ONE_CLASS])
    trials = of_accuracy(0.9, 0.9, 0.9, 0.9)
    choice = choose([trials[0], mad, *trials[2:]], EVEN, found)
    assert [item.trial.number for item in choice.candidates] == [3, 2, 0, 1]
    assert choice.candidates[-1].rejected is not None


def small_shift(*accuracies, num_examples=400, errors=None):
    """Trials of these source accuracies, source-only first, as sure of the target as of the source."""
    holdout = np.linspace([0.5, 0.5], [1, 0], num_examples)
    found = evidence(errors or dict.fromkeys(range(len(accuracies)), 0), holdout)
    source_only = TrialEvidence(holdout, holdout, found(0).space if errors else None)
    return choose(
        of_accuracy(*accuracies), EVEN, lambda number: found(number) if number else source_only, has_judge=False
    )


def test_where_little_can_be_won_source_only_stays_unless_the_source_says_more_beyond_chance():
    # One-sided 5 %: the difference must pass 1.645 sqrt((0.8 0.2 + a (1 - a)) / 400), 0.0430 at a = 0.843.
    choice = small_shift(0.8, 0.842, 0.79)
    assert choice.champion.is_baseline
    assert [item.rejected is None for item in choice.candidates] == [True, False, False]
    rejected = {item.trial.number: item.rejected for item in choice.candidates}
    assert "source accuracy 84.2% is not above source-only's 80.0% beyond chance" in rejected[1]
    assert choice.reason == "source-only: no trial that passes the guards has more merit; guards rejected 2."


def test_where_little_can_be_won_the_most_merit_wins_among_those_that_are_better_on_the_source_beyond_chance():
    choice = small_shift(0.8, 0.86, 0.85, 0.79, errors={0: 0, 1: 12, 2: 2, 3: 0})
    # Source-only, here, gives one class to all of the target.
    assert [item.trial.number for item in choice.candidates] == [2, 1, 0, 3]
    assert [item.rejected is None for item in choice.candidates] == [True, True, True, False]


def test_the_only_trial_that_is_better_on_the_source_beyond_chance_wins():
    assert small_shift(0.8, 0.85, 0.79).champion.number == 1
    assert small_shift(0.8, 0.85, num_examples=100).champion.is_baseline


def test_with_a_judge_or_a_large_shift_or_without_source_only_the_source_need_not_say_more():
    errors = {0: 12, 1: 4, 2: 0}
    assert choose(of_accuracy(0.9, 0.9, 0.88), EVEN, evidence(errors), has_judge=False).champion.number == 2
    near = np.linspace([0.5, 0.5], [1, 0], 400)
    alike = evidence(errors, near)
    assert choose(of_accuracy(0.9, 0.9, 0.88), EVEN, alike, has_judge=True).champion.number == 2
    without = [trial(number, epochs=[epoch(1, 0.5, source_accuracy=0.9)]) for number in range(3)]
    assert choose(without, EVEN, alike, has_judge=False).champion.number == 2
