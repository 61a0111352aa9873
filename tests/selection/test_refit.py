"""Which settings a refit has, which of its networks stands, and when the rule finds it worse than its trial."""

import re
from dataclasses import replace

import numpy as np
import pytest

from ray_tl.config import Component, TrialConfig
from ray_tl.search_space import SearchOptions
from ray_tl.selection import ByAgreement, ByValidators, Candidate, Choice, TrialEvidence
from ray_tl.selection.refit import nearest_to_mean, refit_configs, to_refit
from tests.examples import BASELINE, epoch, trial
from tests.selection.test_by_agreement import CONTEXT, FAMILIES, SHARES, TRUE, final, of_method, sure, wrong_in

ERRORS = {0: 0.5, 1: 0.3, 2: 0.1, 3: 0.2, 4: 0.4}
REFIT = 9
STATED = replace(CONTEXT, target_shares=(1 / 3, 1 / 3, 1 / 3))


def member(number, source_accuracy=0.9, **fields):
    last = epoch(1, 0.5, source_accuracy).model_copy(update={"histogram": SHARES})
    found = trial(number, epochs=[last], is_baseline=number == 0, **fields)
    return replace(found, config=of_method(found.config, number)) if number in FAMILIES else found


def pool():
    """Trials that are wrong in so many of the target examples, source-only first, and their evidence."""
    evidence = {
        number: TrialEvidence(sure(TRUE), sure(wrong_in(share, number)), final(seed=number))
        for number, share in ERRORS.items()
    }
    return [member(number) for number in ERRORS], evidence


def verdict(share, rule=None, histogram=SHARES, noise=0.05):
    """What is said of a refit of trial 2 that is wrong in such a share."""
    trials, evidence = pool()
    evidence |= {number: replace(each, final=final(noise, number)) for number, each in evidence.items()}
    new = replace(member(REFIT, refit_of=2), config=trials[2].config)
    new = replace(new, epochs=[new.last.model_copy(update={"histogram": histogram, "objective": 0.4})])
    evidence[REFIT] = TrialEvidence(sure(TRUE), sure(wrong_in(share, 7)), final(seed=7))
    return (rule or ByAgreement(CONTEXT)).compare([*trials, new], evidence.__getitem__, trials[2], new)


def test_refits_have_other_seeds_and_all_else_of_their_trial():
    configs = refit_configs(TrialConfig(backbone="tiny_cnn", seed=5), 2, "nearest")
    assert configs == [TrialConfig(backbone="tiny_cnn", seed=seed) for seed in (6, 7)]


def test_networks_of_a_soup_begin_with_the_weights_of_their_trial():
    configs = refit_configs(TrialConfig(backbone="tiny_cnn", seed=5), 2, "soup")
    assert [config.initial_seed for config in configs] == [5, 5]


def test_the_nearest_network_predicts_what_the_mean_of_all_does():
    one, other = [0.9, 0.1], [0.1, 0.9]
    target = {4: [one, one, one], 5: [one, other, other], 6: [one, one, other]}
    assert nearest_to_mean({number: np.array(rows) for number, rows in target.items()}) == 6


def test_the_champion_is_refitted_and_the_best_of_other_families_that_come_before_source_only():
    order = [(2, "im"), (1, "im"), (3, "coral"), (0, "source_only"), (4, "dann")]
    configs = {number: BASELINE.model_copy(update={"method": Component(name=name)}) for number, name in order}
    trials = [replace(trial(number, is_baseline=number == 0), config=configs[number]) for number, _ in order]
    choice = Choice(tuple(Candidate(each, 0.5, 0.5, None) for each in trials), "")
    assert [item.trial.number for item in to_refit(choice, top=1)] == [2]
    assert [item.trial.number for item in to_refit(choice, top=9)] == [2, 3]


def test_a_source_only_champion_is_refitted_alone():
    trials = [replace(member(number), is_baseline=number == 0) for number in (0, 1, 2)]
    choice = Choice(tuple(Candidate(each, 0.5, 0.5, None) for each in trials), "")
    assert [item.trial.number for item in to_refit(choice, top=3)] == [0]


@pytest.mark.parametrize("rule", [ByAgreement(CONTEXT), ByValidators(CONTEXT, names=["source_accuracy"])])
def test_a_refit_is_no_member_of_the_pool(rule):
    trials, evidence = pool()
    refit = member(REFIT, source_accuracy=1.0, refit_of=2)
    found = rule.choose([*trials, refit], evidence.__getitem__)
    assert REFIT not in [item.trial.number for item in found.candidates]
    assert found == rule.choose(trials, evidence.__getitem__)


def test_a_refit_that_errs_as_rarely_is_not_worse_and_one_that_errs_far_more_often_is():
    assert not verdict(0.1).is_worse
    assert not verdict(0.0).is_worse
    assert verdict(0.5).is_worse
    assert re.match(r"neighbours agree by 0\.\d+ less \(.* -0\.\d+ to -0\.\d+\) than on trial", verdict(0.5).reason)


def test_it_does_not_tell_against_a_refit_that_the_others_err_as_its_trial_does():
    trials, evidence = pool()
    shared = TrialEvidence(sure(TRUE), sure(wrong_in(0.3, 5)), final())
    evidence |= dict.fromkeys((1, 2, 3, 4), shared)
    new = replace(member(REFIT, refit_of=2), config=trials[2].config)
    evidence[REFIT] = TrialEvidence(sure(TRUE), sure(wrong_in(0.2, 6)), final())
    assert not ByAgreement(CONTEXT).compare(trials, evidence.__getitem__, trials[2], new).is_worse


def test_a_refit_that_predicts_fewer_classes_than_its_trial_has_collapsed():
    found = verdict(0.0, ByAgreement(STATED), histogram=[0.0, 0.0, 1.0])
    assert found.is_worse
    assert found.reason.startswith("predictions spread over 1.0 effective classes")


def test_where_no_space_can_be_trusted_a_refit_of_lower_objective_is_worse():
    found = verdict(0.0, noise=100.0)
    assert found.is_worse
    assert found.reason == "objective 0.400, that of trial 2 0.500"


@pytest.mark.parametrize(("new", "is_worse"), [(0.2, True), (0.3, False)])
def test_validators_judge_a_refit_by_the_target_alone(new, is_worse):
    trials, evidence = pool()
    refit = replace(member(REFIT, refit_of=2), config=trials[2].config)
    refit = replace(refit, epochs=[refit.last.model_copy(update={"scores": {"source_accuracy": 1.0, "im": new}})])
    evidence[REFIT] = evidence[2]
    rule = ByValidators(CONTEXT, names=["source_accuracy", "im"])
    found = rule.compare(trials, evidence.__getitem__, trials[2], refit)
    assert found.is_worse == is_worse
    assert found.reason == f"merit by im {new:.3f}, that of trial 2 0.250"


def test_validators_that_look_at_the_source_alone_let_a_refit_pass():
    found = verdict(0.9, ByValidators(CONTEXT, names=["source_accuracy"]))
    assert not found.is_worse
    assert found.reason == "source_accuracy can't judge it without held-out examples"


@pytest.mark.parametrize("stated", [None, False])
def test_a_search_without_a_refit_says_so(stated):
    assert SearchOptions.model_validate({"refit": stated}).refit is None
