"""What every registered validator promises, whichever it is."""

import inspect
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from ray_tl.errors import InvalidInput, TrialFailed, Unavailable
from ray_tl.validation import VALIDATORS, score_all
from tests.validation.world import whole_evidence

NAMES = VALIDATORS.names()
KNOWS_LABELS = "nearest_labels"  # of the source, by the space in which it looks at the target


def score(name, evidence):
    return score_all([name], **evidence)[name]


def needs_of(name):
    return list(inspect.signature(VALIDATORS.create(name, {}).score).parameters)


def knows_labels(name):
    return needs_of(name) != ["target"] or name == KNOWS_LABELS


def of_an_epoch(evidence):
    """What a trial knows before it has ended."""
    source = replace(evidence["source"], features=None, training=None, training_labels=None)
    return {"source": source, "target": replace(evidence["target"], features=None, mixes=None, head=None), "pool": None}


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


@pytest.mark.parametrize("name", NAMES)
def test_score_is_a_plain_finite_float_and_the_same_every_time(name):
    first, second = score(name, whole_evidence()), score(name, whole_evidence())
    assert type(first) is float
    assert np.isfinite(first)
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_argument_names_state_the_data_that_is_needed(name):
    needs = needs_of(name)
    assert set(needs) <= {"source", "target", "pool"}
    assert needs
    only = {need: value for need, value in whole_evidence().items() if need in needs}
    assert np.isfinite(VALIDATORS.create(name, {}).score(**only))


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_the_end_exactly_if_an_epoch_does_not_give_it(name):
    found = score_all([name], **of_an_epoch(whole_evidence()), skip_unavailable=True)
    assert VALIDATORS.create(name, {}).needs_end is (found == {})


@pytest.mark.parametrize("name", [name for name in NAMES if VALIDATORS.create(name, {}).needs_end])
def test_what_an_epoch_lacks_is_named_with_the_validator(name):
    with pytest.raises(Unavailable, match=f"validator '{name}' needs .*; leave it out"):
        score(name, of_an_epoch(whole_evidence()))


@pytest.mark.parametrize("name", NAMES)
def test_it_says_which_end_is_good_and_what_it_measures(name):
    assert type(VALIDATORS.create(name, {}).higher_is_better) is bool
    assert VALIDATORS.summary(name).endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_evidence_is_left_as_it_was(name):
    evidence = whole_evidence()
    for array in arrays_in(evidence["source"]), arrays_in(evidence["target"]), arrays_in(evidence["pool"]):
        for each in array:
            each.flags.writeable = False
    assert np.isfinite(score(name, evidence))


def right_and_wrong():
    """Evidence of a network that tells the classes, and of one that takes each for the next; both in one pool."""
    right = whole_evidence()
    return right, {**whole_evidence(head=np.roll(right["target"].head, 1, axis=0)), "pool": right["pool"]}


@pytest.mark.parametrize("name", [name for name in NAMES if knows_labels(name)])
def test_the_good_end_is_that_of_a_network_that_tells_the_classes(name):
    sign = 1 if VALIDATORS.create(name, {}).higher_is_better else -1
    right, wrong = right_and_wrong()
    assert sign * score(name, right) > sign * score(name, wrong) + 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if not knows_labels(name)])
def test_the_target_alone_does_not_tell_which_class_is_which(name):
    right, wrong = right_and_wrong()
    assert score(name, right) == pytest.approx(score(name, wrong), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_that_are_not_finite_fail_the_trial(name):
    evidence = whole_evidence()
    for each in ("source", "target", "pool"):
        evidence[each].probabilities[:] = np.nan
    for array in arrays_in(evidence["target"].logits), arrays_in(evidence["target"].mixes.probabilities):
        next(array)[:] = np.nan
    with pytest.raises(TrialFailed, match="not finite"):
        score(name, evidence)


@pytest.mark.parametrize("name", NAMES)
def test_no_predictions_are_refused(name):
    evidence = whole_evidence()
    none = np.zeros((0, 3), np.float32)
    target = replace(evidence["target"], probabilities=none, logits=none)
    source = replace(evidence["source"], probabilities=none, labels=np.zeros(0, np.int64))
    with pytest.raises(InvalidInput):
        score(name, {**evidence, "source": source, "target": target})
