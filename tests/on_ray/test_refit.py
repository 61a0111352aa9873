"""What is remembered of a refit, and which of several is kept; no Ray runs here."""

from dataclasses import replace

import pytest

from ray_tl.on_ray.refit import Refit, epoch_of_refit, in_order, reason_of, stand_in
from ray_tl.selection import ByAgreement, Candidate, Choice
from ray_tl.study.records import TrialState
from ray_tl.training.files import TrialFiles
from ray_tl.training.report import EpochReport
from tests.examples import store
from tests.selection.test_by_agreement import CONTEXT, TRUE, final, of_method, sure, wrong_in
from tests.selection.test_refit import member
from tests.training.tiny import RULE

ERRORS = {0: 0.5, 1: 0.3, 2: 0.2, 3: 0.25, 4: 0.4}


def report(source_accuracy):
    scores = {"source_accuracy": source_accuracy, "im": 0.3, "bnm": 0.2}
    recalls = [1.0, None]
    return EpochReport(9, scores, [0.5, 0.5], {}, {}, 0, 0.1, 1.0, source_recalls=recalls)


def test_a_refit_is_remembered_without_what_was_measured_on_examples_that_trained_it():
    found = epoch_of_refit(report(1.0), member(2), RULE)
    assert found.scores == {"im": 0.3, "bnm": 0.2}
    assert found.source_recalls == []


@pytest.mark.parametrize("trained_on", [0.5, 1.0])
def test_the_objective_of_a_refit_takes_the_source_accuracy_of_its_trial(trained_on):
    found = epoch_of_refit(report(trained_on), member(2, source_accuracy=0.8), RULE)
    assert found.objective == RULE.objective(report(0.8).scores, [0.5, 0.5])


def test_in_the_place_of_its_trial_a_network_has_the_accuracy_that_was_held_out():
    network = replace(member(9, refit_of=0), is_baseline=False)
    network = replace(network, epochs=[network.last.model_copy(update={"scores": {"im": 0.3}})])
    found = stand_in(member(0, source_accuracy=0.8), network)
    assert (found.number, found.refit_of, found.is_baseline) == (9, None, True)
    assert found.last.scores == {"im": 0.3, "source_accuracy": 0.8}


@pytest.mark.parametrize(("errors", "first"), [((0.2, 0.0), 6), ((0.0, 0.2), 5)])
def test_of_several_networks_the_one_that_the_rule_prefers_in_the_place_of_their_trials_is_first(
    errors, first, tmp_path
):
    configs = [of_method(member(number).config, number).model_copy(update={"epochs": 1}) for number in ERRORS]
    opened = store(tmp_path, first=configs, num_trials=5)
    for number in ERRORS:
        opened.ask()
        opened.add_epoch(number, member(number).last, 1)
        opened.finish(number, TrialState.COMPLETE)
    for of in (2, 3):
        opened.begin_refit(of, configs[of])
    for number, share in {**ERRORS, 5: errors[0], 6: errors[1]}.items():
        files = TrialFiles(opened.folder, number)
        files.save_evidence({"source_holdout": sure(TRUE), "target": sure(wrong_in(share, number))})
        files.save_final_evidence(final(seed=number))
    trials = opened.trials()
    networks = [replace(member(5 + place, refit_of=of), config=configs[of]) for place, of in enumerate((2, 3))]
    found = [
        Refit(trials[of], (network.number,), "nearest", network, True, "", {})
        for of, network in zip((2, 3), networks, strict=True)
    ]
    assert in_order(opened, ByAgreement(CONTEXT), found)[0].stands.number == first


def kept(of, network, is_kept=True):
    return Refit(member(of), (network,), "nearest", member(network, refit_of=of), is_kept, f"Trial {of} again.", {})


@pytest.mark.parametrize(("second_is_kept", "behind"), [(True, 6), (False, 3)])
def test_of_several_that_were_trained_again_it_is_said_which_is_the_champion(second_is_kept, behind):
    choice = Choice((Candidate(member(2), 0.5, 0.5, None),), "Trial 2 is best.")
    found = reason_of(choice, [kept(2, 5), kept(3, 6, second_is_kept)])
    said = "Trial 2 is best. Trial 2 again. Trial 3 again. Of these the rule of choice takes trial 5, before trial"
    assert found == f"{said} {behind}."
    assert reason_of(choice, [kept(2, 5)]) == "Trial 2 is best. Trial 2 again."
