"""What every rule of choice promises, whichever it is, and what that of validators does."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_tl.errors import InvalidInput, TrialFailed, UnknownName
from ray_tl.search_space.file import NEEDED_VALIDATORS
from ray_tl.selection import (
    SELECTION_RULES,
    ByAgreement,
    ByValidators,
    SelectionContext,
    TrialEvidence,
    rule_of,
)
from ray_tl.selection.objective import objective
from ray_tl.study.records import TrialState
from ray_tl.validation import VALIDATORS, SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.evidence import FinalEvidence
from tests.examples import epoch, spec, trial
from tests.validation.world import CENTRES, NUM_CLASSES, ROWS, WIDTH, whole_evidence

CONTEXT = SelectionContext(("a", "b", "c"), (1 / 3, 1 / 3, 1 / 3), num_target=ROWS)
RULES = {
    "agreement": {},
    "agreement on stated shares": {},
    "validators": {"names": ["im"]},
    "validators at the end": {"names": ["class_ami", "entropy"], "weights": [2.0, 0.5]},
    "validators of all trials": {"names": ["ensv"]},
}


def rule(name, **fields):
    """One of `RULES`."""
    shares = (0.2, 0.3, 0.5) if "stated" in name else None
    context = replace(CONTEXT, **{"target_shares": shares, **fields})
    return SELECTION_RULES.create(name.split(" ")[0], RULES[name], context)


def left_by(number, noise=0.0):
    """What a trial leaves whose head is off by so much."""
    head = CENTRES + np.random.default_rng(number).normal(scale=noise, size=(NUM_CLASSES, WIDTH))
    found = whole_evidence(seed=number, head=head)
    source, target = found["source"], found["target"]
    final = FinalEvidence(
        {"source_holdout": source.features, "source": source.training, "target": target.features},
        training_labels=source.training_labels,
        holdout_labels=source.labels,
        mixes=target.mixes,
        head=target.head,
    )
    return TrialEvidence(source.probabilities, target.probabilities, final)


POOL = {0: left_by(0, 1.5), 1: left_by(1, 1.0), 2: left_by(2), 3: left_by(3), 4: left_by(4, 0.5)}


def record(number, histogram=(0.3, 0.3, 0.4), source_accuracy=0.9, value=0.5, **fields):
    """A trial at full fidelity with the scores of what it left."""
    last = epoch(1, value, source_accuracy)
    scores = {**last.scores, "entropy": 0.1 * number}
    last = last.model_copy(update={"histogram": list(histogram), "scores": scores})
    return trial(number, epochs=[last], is_baseline=number == 0, **fields)


ONE_CLASS = (1.0, 0.0, 0.0)


def test_rules_are_found_by_name():
    assert SELECTION_RULES.names() == ["agreement", "validators"]
    assert {name.split(" ")[0] for name in RULES} == set(SELECTION_RULES.names())


@pytest.mark.parametrize("name", RULES)
def test_what_it_observes_holds_what_is_asked_for_and_gives_a_finite_objective(name):
    evidence = whole_evidence()
    found = rule(name, validators=("corr_c",))
    scores = found.observe(evidence["source"], evidence["target"])
    assert {*NEEDED_VALIDATORS, "corr_c"} <= set(scores)
    assert {type(value) for value in scores.values()} == {float}
    assert np.isfinite(found.objective(scores, evidence["target"].histogram().tolist()))


@pytest.mark.parametrize("name", RULES)
def test_predictions_that_are_not_finite_fail_the_trial(name):
    with pytest.raises(TrialFailed, match="not finite"):
        rule(name).observe(SourceEvidence(np.full((4, 3), np.nan), np.zeros(4, np.int64)), TargetEvidence(np.eye(3)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("trials", [[], [trial(0, TrialState.FAILED, [])], [trial(0, TrialState.RUNNING)]])
def test_without_a_finished_trial_there_is_no_choice(name, trials):
    assert rule(name).choose(trials, POOL.__getitem__) is None


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("has_judge", [True, False])
def test_every_trial_at_full_fidelity_is_a_candidate_once_and_the_first_is_the_champion(name, has_judge):
    trials = [*map(record, POOL), trial(7, TrialState.PRUNED), trial(8, TrialState.FAILED, [])]
    choice = rule(name, has_judge=has_judge).choose(trials, POOL.__getitem__)
    assert sorted(each.trial.number for each in choice.candidates) == list(POOL)
    assert choice.champion is choice.candidates[0].trial
    assert choice.reason.endswith(".")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rejected", [{1}, {0, 2}, {1, 2, 3}, {1, 2, 3, 4}])
def test_no_rejected_trial_comes_before_an_accepted_one_and_source_only_is_never_rejected(name, rejected):
    trials = [record(number, ONE_CLASS if number in rejected else (0.3, 0.3, 0.4), value=number) for number in POOL]
    candidates = rule(name).choose(trials, POOL.__getitem__).candidates
    assert {each.trial.number for each in candidates if each.rejected} == rejected - {0}
    are_rejected = [each.rejected is not None for each in candidates]
    assert are_rejected == sorted(are_rejected)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_records_is_of_no_account(name):
    trials = [record(number) for number in POOL]
    first, again = (rule(name).choose(each, POOL.__getitem__) for each in (trials, trials[::-1]))
    assert [each.trial.number for each in first.candidates] == [each.trial.number for each in again.candidates]
    assert first.reason == again.reason


@pytest.mark.parametrize("name", RULES)
def test_where_every_trial_is_rejected_one_wins_and_that_is_said(name):
    trials = [record(number, ONE_CLASS) for number in (1, 2)]
    choice = rule(name).choose(trials, POOL.__getitem__)
    assert choice.champion.number in (1, 2)
    assert choice.merits == {}


@pytest.mark.parametrize("name", RULES)
def test_trials_that_left_only_their_outputs_are_candidates_too(name):
    choice = rule(name).choose([record(number) for number in POOL], lambda number: replace(POOL[number], final=None))
    assert len(choice.candidates) == len(POOL)


WITHOUT_TORCH = """
import sys
from ray_tl.selection import SELECTION_RULES, SelectionContext
for name, params in {"agreement": {}, "validators": {"names": ["im", "mixval"]}}.items():
    rule = SELECTION_RULES.create(name, params, SelectionContext(("a", "b"), (0.5, 0.5)))
    rule.objective({"source_accuracy": 0.9, "im": 0.1, "bnm": 0.2}, [0.5, 0.5])
print(sorted({"torch", "ray", "torchvision"} & set(sys.modules)))
"""


def test_a_rule_gives_its_objective_without_torch():
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout == "[]\n"


def test_a_study_names_its_rule_and_what_that_may_know():
    assert isinstance(rule_of(spec()), ByAgreement)
    named = rule_of(spec(selection={"validators": {"names": ["im"]}}))
    assert isinstance(named, ByValidators)
    assert named.objective({"im": 0.25, "bnm": 0.5, "source_accuracy": 0.9}, [0.5, 0.5]) == 0.25


@pytest.mark.parametrize(
    ("target_classes", "is_collapse"), [("unknown", False), ("subset", False), ("same", True), ({"cat": 1.0}, False)]
)
def test_a_study_whose_target_classes_are_stated_holds_trials_against_them(target_classes, is_collapse):
    study = spec()
    options = study.data.options.model_copy(update={"target_classes": target_classes})
    study = study.model_copy(update={"data": study.data.model_copy(update={"options": options})})
    narrow = trial(1, epochs=[epoch(1).model_copy(update={"histogram": [0.99, 0.01]})])  # 1.06 of 2 effective classes
    nothing = TrialEvidence(np.full((4, 2), 0.5), np.full((4, 2), 0.5))
    (candidate,) = rule_of(study).choose([narrow], lambda _: nothing).candidates
    assert (candidate.rejected is not None) is is_collapse


def by(*names, **params):
    return ByValidators(CONTEXT, names=list(names), **params)


def test_validators_are_added_by_weight_and_so_that_higher_is_better():
    found = by("im", "entropy", weights=[2.0, 0.5])
    assert not VALIDATORS.create("entropy", {}).higher_is_better
    assert found.objective({"im": 0.3, "entropy": 0.4, "bnm": 9.0}, ONE_CLASS) == pytest.approx(2 * 0.3 - 0.5 * 0.4)


def test_weights_are_equal_unless_stated():
    assert by("im", "bnm").objective({"im": 0.3, "bnm": 0.1}, ONE_CLASS) == pytest.approx(0.4)


def test_where_validators_need_the_end_the_search_maximises_what_it_does_by_default():
    scores, histogram = {"source_accuracy": 0.9, "im": 0.3, "bnm": 0.2}, [0.3, 0.3, 0.4]
    expected = objective(scores, histogram, CONTEXT)
    assert by("class_ami").objective(scores, histogram) == expected
    assert by("class_ami", "im").objective(scores, histogram) == 0.3


def test_what_epochs_recorded_is_not_computed_again():
    trials = [record(number) for number in POOL]
    choice = by("entropy").choose(trials, POOL.__getitem__)
    assert [each.trial.number for each in choice.candidates] == [0, 1, 2, 3, 4]  # recorded is 0.1 of the number
    assert choice.merits == pytest.approx({number: -0.1 * number for number in POOL})
    assert (
        choice.reason
        == "source-only: no trial that passes the guards has a higher merit by entropy; guards rejected 0."
    )


@pytest.mark.parametrize("name", ["class_ami", "mixval", "dev", "transfer_score"])
def test_what_needs_the_end_is_computed_of_what_trials_left(name):
    sign = 1 if VALIDATORS.create(name, {}).higher_is_better else -1
    merits = by(name).choose([record(number) for number in POOL], POOL.__getitem__).merits
    for number, each in POOL.items():
        source, target = each.final.source(each.source_holdout), each.final.target(each.target)
        assert merits[number] == pytest.approx(sign * score_all([name], source, target)[name])


def test_ensemble_is_that_of_the_trials_that_no_guard_rejects():
    trials = [record(number, ONE_CLASS if number == 1 else (0.3, 0.3, 0.4)) for number in POOL]
    merits = by("ensv").choose(trials, POOL.__getitem__).merits
    mean = np.mean([POOL[number].target for number in (0, 2, 3, 4)], axis=0)
    expected = {number: (POOL[number].target.argmax(axis=1) == mean.argmax(axis=1)).mean() for number in (0, 2, 3, 4)}
    assert merits == pytest.approx(expected)


def test_a_trial_that_left_too_little_for_a_validator_is_rejected():
    evidence = {**POOL, 2: replace(POOL[2], final=None)}
    trials = [record(number) for number in POOL]
    candidates = by("class_ami").choose(trials, evidence.__getitem__).candidates
    assert (candidates[-1].trial.number, candidates[-1].rejected) == (2, "class_ami can't be computed of what it left")
    assert [each.rejected for each in candidates[:-1]] == [None] * 4


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "selection rule 'validators' needs 'names' (list of str)"),
        ({"names": "im"}, "validators.names='im' is not of type list of str"),
        ({"names": [1.0]}, "validators.names=[1.0] is not of type list of str"),
        ({"names": []}, "validators.names=[] must name at least one validator, and each once"),
        ({"names": ["im", "im"]}, "validators.names=['im', 'im'] must name at least one validator, and each once"),
        ({"names": ["im", "bnm"], "weights": [1.0]}, "validators.weights=[1.0] must be one number above 0 for each of"),
        ({"names": ["im"], "weights": [0.0]}, "validators.weights=[0.0] must be one number above 0 for each of"),
        ({"names": ["im"], "weights": ["1"]}, "validators.weights=['1'] is not of type list"),
    ],
)
def test_what_is_wrong_with_the_parameters_is_said(params, said):
    with pytest.raises(InvalidInput) as caught:
        SELECTION_RULES.create("validators", params, CONTEXT)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["neighbours", "nearest_labels"])
def test_what_looks_in_a_space_that_no_trial_trains_needs_one(name):
    evidence = whole_evidence()
    found = by(name).observe(evidence["source"], evidence["target"])
    assert found[name] == score_all([name], **evidence)[name]
    with pytest.raises(InvalidInput, match=f"holds '{name}', and this study has no neighbours that can be trusted"):
        ByValidators(replace(CONTEXT, has_judge=False), names=["im", name])


def test_unknown_validators_and_rules_are_named():
    with pytest.raises(UnknownName, match="validator 'mixvall' is not known; did you mean 'mixval'"):
        by("mixvall")
    with pytest.raises(UnknownName, match="selection rule 'agreements' is not known; did you mean 'agreement'"):
        SELECTION_RULES.create("agreements", {}, CONTEXT)


def test_source_only_that_left_too_little_for_a_validator_is_behind_the_others_and_not_out():
    evidence = {**POOL, 0: replace(POOL[0], final=None)}
    trials = [record(number, ONE_CLASS if number == 1 else (0.3, 0.3, 0.4)) for number in POOL]
    candidates = by("class_ami").choose(trials, evidence.__getitem__).candidates
    assert candidates[-2].trial.is_baseline
    assert candidates[-2].rejected is None
    assert candidates[-1].trial.number == 1
