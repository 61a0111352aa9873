"""That the checks of a soak can fail, on studies that are broken by hand."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from ray_tl.study.failures import FailureKind
from ray_tl.study.records import TrialRecord, TrialState
from tests.examples import epoch, trial
from tests.soak.checks import problems_of, problems_of_rows
from tests.soak.kills import KINDS, kinds_of_kills

PRUNED = trial(1, TrialState.PRUNED, [0.5, 0.6])
PRUNED = replace(PRUNED, config=PRUNED.config.model_copy(update={"epochs": 3}))
WHOLE = [trial(0, TrialState.COMPLETE, [0.5, 0.6, 0.7]), PRUNED]


def with_second(**changes: object) -> list[TrialRecord]:
    return [WHOLE[0], replace(PRUNED, **changes)]


def test_whole_study_has_no_problem():
    assert problems_of(WHOLE, 2, 0, {}) == []


@pytest.mark.parametrize(
    ("trials", "problem"),
    [
        (WHOLE[:1], "trial 1 is missing"),
        ([*WHOLE, PRUNED], "trial 1 is there more than once"),
        ([*WHOLE, replace(PRUNED, number=2)], "trial 2 was not asked for"),
        (with_second(state=TrialState.RUNNING), "trial 1 is running: without an error"),
        (with_second(epochs=[epoch(1), epoch(1)]), "trial 1 has the epochs [1, 1]"),
        (with_second(epochs=[epoch(2), epoch(1)]), "trial 1 has the epochs [2, 1]"),
        (with_second(epochs=[epoch(1), epoch(3)]), "trial 1 has the epochs [1, 3]"),
        (with_second(state=TrialState.COMPLETE), "trial 1 is complete after 2 of 3 epochs"),
        (with_second(epochs=WHOLE[0].epochs), "trial 1 is pruned after 3 of 3 epochs"),
    ],
)
def test_broken_study_is_found_out(trials, problem):
    assert problems_of(trials, 2, 0, {}) == [problem]


@pytest.mark.parametrize("champion", [None, 1, 7])
def test_champion_is_a_trial_at_full_fidelity(champion):
    assert problems_of(WHOLE, 2, champion, {}) == [f"champion {champion} is no trial at full fidelity"]


def test_trial_may_fail_only_when_enough_kills_have_used_up_a_budget():
    died = with_second(state=TrialState.FAILED, failure=FailureKind.WORKER_DIED, error="died")
    assert problems_of(died, 2, 0, {"worker": 3, "node": 1}) == []
    assert problems_of(died, 2, 0, {"worker": 2, "node": 1, "queue": 9}) == ["trial 1 is failed: died"]
    lost = with_second(state=TrialState.FAILED, error="its Tune client was lost 11 times.")
    assert problems_of(lost, 2, 0, {"client": 11}) == []
    assert problems_of(lost, 2, 0, {"client": 10}) == ["trial 1 is failed: its Tune client was lost 11 times."]
    broke = with_second(state=TrialState.FAILED, failure=FailureKind.ERROR, error="broke")
    assert problems_of(broke, 2, 0, {"worker": 9}) == ["trial 1 is failed: broke"]


def test_rows_of_the_database_are_held_against_the_trials():
    rows = [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    assert problems_of_rows(rows, WHOLE) == []
    assert problems_of_rows([*rows, (1, 2)], WHOLE) == ["epoch 2 of trial 1 is there more than once"]
    assert problems_of_rows(rows[:-1], WHOLE) == ["these epochs are in one place only: [(1, 2)]"]


def test_fifty_kills_are_of_all_kinds_in_an_order_of_the_seed():
    kinds = kinds_of_kills(50, random.Random(3))
    assert Counter(kinds) == {"worker": 12, "client": 12, "queue": 9, "node": 9, "driver": 5, "head": 3}
    assert kinds == kinds_of_kills(50, random.Random(3)) != kinds_of_kills(50, random.Random(4))
    assert set(kinds_of_kills(6, random.Random(3))) == set(KINDS)
