"""The default rule: who wins, when source-only stays, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from ray_tl.config import Component
from ray_tl.selection import ByAgreement, SelectionContext, TrialEvidence
from ray_tl.validation.evidence import Features, FinalEvidence
from tests.examples import epoch, trial

ROWS = 120
TRUE = np.arange(ROWS) % 3
CONTEXT = SelectionContext(("a", "b", "c"), (1 / 3, 1 / 3, 1 / 3), num_target=ROWS)
FAMILIES = {0: "source_only", 1: "im", 2: "coral", 3: "dann", 4: "mcc"}
SHARES = [0.3, 0.3, 0.4]


def sure(classes, confidence=0.98):
    return (1 - confidence) / 3 + confidence * np.eye(3)[classes]


def wrong_in(share, seed):
    """The true classes, but for exactly such a share of the rows."""
    found = TRUE.copy()
    rows = np.random.default_rng(seed).permutation(ROWS)[: round(share * ROWS)]
    found[rows] = (TRUE[rows] + 1) % 3
    return found


def final(noise=0.05, seed=0):
    """Features in which the classes lie apart, in both domains, if the noise is small."""
    features = np.eye(3)[TRUE] + np.random.default_rng(seed).normal(scale=noise, size=(ROWS, 3))
    same = {name: Features(np.arange(ROWS), features) for name in ("source", "source_holdout", "target")}
    return FinalEvidence(same, training_labels=TRUE, holdout_labels=TRUE)


def choose(errors, noise=0.05, context=CONTEXT, holdout=0.98, accuracies=None):
    """What is chosen among trials that are wrong in such shares of the target, source-only first."""
    evidence = {
        number: TrialEvidence(sure(TRUE, holdout), sure(wrong_in(share, number)), final(noise, number))
        for number, share in errors.items()
    }
    trials = [
        trial(
            number,
            epochs=[
                epoch(1, 0.5 + number / 100, (accuracies or {}).get(number, 0.9)).model_copy(
                    update={"histogram": SHARES}
                )
            ],
            is_baseline=number == 0,
        )
        for number in errors
    ]
    trials = [replace(each, config=of_method(each.config, each.number)) for each in trials]
    return ByAgreement(context).choose(trials, evidence.__getitem__)


def of_method(config, number):
    return config.model_copy(update={"method": Component(name=FAMILIES[number])})


def test_the_most_accurate_trial_wins_and_the_reason_says_by_how_much():
    choice = choose({0: 0.5, 1: 0.3, 2: 0.0, 3: 0.2, 4: 0.4})
    assert choice.champion.number == 2
    assert "standard deviations above their average, source-only" in choice.reason
    assert "90 % interval" in choice.reason
    assert list(choice.merits)[:2] == [2, 3]


def test_source_only_stays_where_nothing_is_ahead_beyond_chance():
    choice = choose(dict.fromkeys(range(5), 0.1))
    assert choice.champion.is_baseline
    assert choice.reason.startswith("source-only stays: no trial agrees better")


def test_what_is_not_ahead_of_source_only_comes_behind_it():
    choice = choose({0: 0.1, 1: 0.6, 2: 0.0, 3: 0.5, 4: 0.7})
    order = [candidate.trial.number for candidate in choice.candidates]
    assert order.index(0) < min(order.index(number) for number in (1, 3, 4))


def test_a_trial_that_forgot_the_source_is_not_even_measured():
    choice = choose({0: 0.5, 1: 0.3, 2: 0.0, 3: 0.2, 4: 0.4}, accuracies={2: 0.5})
    assert choice.champion.number == 3
    assert choice.candidates[-1].trial.number == 2
    assert "forgot" not in choice.reason
    assert "guards rejected 1" in choice.reason


def test_where_no_space_can_be_trusted_the_objective_decides():
    choice = choose({0: 0.5, 1: 0.3, 2: 0.0, 3: 0.2, 4: 0.4}, noise=100.0)
    assert choice.champion.number == 4  # of the highest objective
    assert choice.reason.startswith("best objective, 0.540")


WITHOUT_JUDGE = SelectionContext(CONTEXT.classes, CONTEXT.source_shares, num_target=ROWS, has_judge=False)


@pytest.mark.parametrize("confidence", [0.98, 0.999])  # on the hold-out: the target seems near, and far away
def test_where_nothing_tells_what_is_better_source_only_stays(confidence):
    choice = choose({0: 0.5, 1: 0.3, 2: 0.0}, noise=100.0, context=WITHOUT_JUDGE, holdout=confidence)
    assert choice.champion.is_baseline
    assert choice.reason.startswith("source-only stays: neighbours hardly share their label even in the source")


@pytest.mark.parametrize(("confidence", "champion"), [(0.98, 2), (0.999, 0)])
def test_what_is_better_on_the_source_replaces_source_only_on_a_target_nearby_alone(confidence, champion):
    accuracies = {0: 0.7, 1: 0.7, 2: 0.95}
    given = {"noise": 100.0, "context": WITHOUT_JUDGE, "holdout": confidence, "accuracies": accuracies}
    assert choose({0: 0.5, 1: 0.3, 2: 0.0}, **given).champion.number == champion


def test_without_source_only_the_one_that_agrees_best_wins():
    choice = choose({1: 0.3, 2: 0.0, 3: 0.2, 4: 0.4})
    assert choice.champion.number == 2
    assert choice.reason.endswith("no source-only ended.")
