"""Which trials have a say in the shares of the target."""

from dataclasses import replace

import numpy as np
import pytest

from ray_tl.selection import TrialEvidence
from ray_tl.selection.prior.of_pool import prior_of_pool
from ray_tl.validation.evidence import Features, FinalEvidence
from tests.selection.test_by_agreement import sure

HELD_OUT = np.repeat([0, 1, 2], 40)
HALF, THIRD = np.repeat([0, 1], 60), np.repeat([0, 1, 2], 40)


def outputs(*targets):
    features = {name: Features(np.arange(120), np.eye(3)[HELD_OUT]) for name in ("source", "source_holdout", "target")}
    left = FinalEvidence(features, training_labels=HELD_OUT, holdout_labels=HELD_OUT, head=np.eye(3))
    return {number: TrialEvidence(sure(HELD_OUT), sure(target), left) for number, target in enumerate(targets)}


def shares(merits, *targets):
    families = {number: f"family {number}" for number in range(len(targets))}
    return prior_of_pool(outputs(*targets), families, dict(enumerate(merits)), np.full(3, 1 / 3)).shares


def test_trials_below_the_average_have_no_say():
    assert shares([2.0, 1.5, -3.0, -2.0], HALF, HALF, THIRD, THIRD) == pytest.approx([0.5, 0.5, 0.0], abs=0.02)


def test_where_all_are_alike_all_have_a_say():
    among_all = shares([1.0, 1.0, 1.0], HALF, THIRD, THIRD)
    assert among_all == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.02)


def test_trials_that_left_no_labels_of_the_hold_out_can_not_say():
    without = {number: replace(each, final=None) for number, each in outputs(HALF, HALF).items()}
    assert prior_of_pool(without, {0: "a", 1: "b"}, {0: 1.0, 1: 0.0}, np.full(3, 1 / 3)) is None
