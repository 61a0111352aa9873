"""What is kept of a pool once the choice is made."""

from dataclasses import replace

import pytest

from ray_tl.config import Component
from ray_tl.selection import Candidate, Choice
from ray_tl.selection.families import family_of
from ray_tl.selection.findings import findings_of
from tests.examples import spec, trial
from tests.selection.test_by_agreement import FAMILIES
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
    return findings_of(SPEC, Choice(candidates, "best"), trials, pool(errors).__getitem__)


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
