"""What is kept of a pool once the choice is made."""

from dataclasses import replace

import numpy as np
import pytest

from ray_tl.config import Component
from ray_tl.search_space import DataOptions
from ray_tl.selection import Candidate, Choice, TrialEvidence, rule_of
from ray_tl.selection.families import family_of
from ray_tl.selection.findings import Guided, findings_of, guided_choice
from ray_tl.validation.evidence import Features, FinalEvidence
from tests.examples import spec, trial
from tests.selection.test_by_agreement import FAMILIES, ROWS, TRUE, sure
from tests.selection.test_expected_accuracy import ERRORS, expected, pool

SPEC = spec().model_copy(update={"classes": ("a", "b", "c"), "source_histogram": (1 / 3, 1 / 3, 1 / 3)})


def trials_of(num):
    """Source-only first."""
    trials = [trial(number, is_baseline=number == 0) for number in range(num)]
    methods = [Component(name=(*FAMILIES.values(), "bnm")[number]) for number in range(num)]
    return [
        replace(each, config=each.config.model_copy(update={"method": method}))
        for each, method in zip(trials, methods, strict=True)
    ]


def families(num):
    return {each.number: family_of(each.config) for each in trials_of(num)}


def found(rejected=(), errors=ERRORS):
    """Of a choice of trial 1."""
    trials = trials_of(len(errors))
    order = [trials[1], trials[0], *trials[2:]]
    candidates = tuple(Candidate(each, 0.5, 0.5, "no" if each.number in rejected else None) for each in order)
    guided = Guided(Choice(candidates, "best"), rule_of(SPEC), None)
    return findings_of(SPEC, guided, trials, pool(errors).__getitem__)


def test_the_accuracy_is_that_expected_of_the_champion():
    assert found().content()["expected"]["accuracy"] == pytest.approx(expected(pool(), 1, families(5)).accuracy)


def test_rejected_trials_have_no_say():
    errors = (*ERRORS, 1.0)
    outputs = {number: each for number, each in pool(errors).items() if number != 5}
    with_a_rejected_one = found(rejected=(5,), errors=errors).content()["expected"]
    assert with_a_rejected_one["ensemble"] == expected(outputs, 1, families(6)).ensemble


def test_the_file_says_why_nothing_is_expected():
    content = found(rejected=(2, 3)).content()
    assert content["expected"] is None
    assert content["not_expected"].startswith("3 trials at full fidelity pass the guards")


# the prior


def spec_with(**options):
    stated = SPEC.data.model_copy(update={"options": DataOptions(**options)})
    return SPEC.model_copy(update={"data": stated, "source_histogram": tuple(SOURCE)})


SOURCE = (0.6, 0.3, 0.1)
EVEN = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}


def guided(spec, target):
    """Of five trials that are right on the source, and predict such classes on the target."""
    classes = np.repeat(np.arange(3), [round(share * ROWS) for share in SOURCE])
    features = {name: Features(np.arange(ROWS), np.eye(3)[classes]) for name in ("source", "source_holdout", "target")}
    left = FinalEvidence(features, training_labels=classes, holdout_labels=classes, head=np.eye(3))
    outputs = TrialEvidence(sure(classes), sure(target), left)
    trials = [
        replace(each, epochs=[each.epochs[-1].model_copy(update={"histogram": shares_of(target)})])
        for each in trials_of(5)
    ]
    found = guided_choice(spec, trials, lambda number: outputs)
    return found, findings_of(spec, found, trials, lambda number: outputs).content()["prior"]


def shares_of(classes):
    return (np.bincount(classes, minlength=3) / len(classes)).tolist()


def test_stated_shares_are_the_prior_and_not_estimated():
    found, prior = guided(spec_with(target_classes=EVEN), TRUE)
    assert (prior["method"], prior["shares"]) == ("stated", pytest.approx([1 / 3] * 3))
    assert prior["shift"] == pytest.approx(0.6 - 1 / 3)
    assert prior["words"][0] == "the class shares of the target are stated: 27% of the examples from the source's."
    assert prior["trial"] == found.choice.champion.number


def test_an_estimate_beyond_chance_is_what_the_guards_measure_against():
    few = np.repeat([0, 1], [12, 108])  # 1.4 effective classes: no collapse where so many are there
    found, prior = guided(spec_with(), few)
    assert prior["is_beyond_chance"]
    assert prior["shares"] == pytest.approx([0.1, 0.9, 0.0], abs=0.03)
    assert [item.rejected for item in found.choice.candidates] == [None] * 5
    assert "The class shares of the target differ" in prior["words"][0]


def test_an_estimate_that_may_be_chance_is_shown_and_corrects_nothing():
    as_source = np.repeat(np.arange(3), [72, 36, 12])
    _, prior = guided(spec_with(), as_source)
    assert not prior["is_beyond_chance"]
    assert prior["correction"] is None
    assert prior["words"][0].startswith("No shift of the class shares that is beyond chance")


def test_nothing_is_corrected_where_users_say_never():
    _, prior = guided(spec_with(target_classes=EVEN, correct_predictions="never"), TRUE)
    assert prior["correction"] is None
    assert prior["words"][1] == "predictions are not corrected: data.correct_predictions is never."
