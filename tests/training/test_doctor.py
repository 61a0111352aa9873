"""What the doctor measures and says; each finding is provoked by the illness that it names."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ray_tl.adaptation.alignment import coral_distance, mmd_distance
from ray_tl.training.doctor import domain_accuracy, domain_gap, drift, findings, gradient_norms
from ray_tl.training.loop import TrialRun
from ray_tl.training.report import EpochReport
from tests.training.tiny import RULE, tiny_config, tiny_data


def normal(rows, shift=0.0, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(rows, 8)) + shift)


def report(weights=None, **health):
    measured = {"domain_accuracy": 0.6, "domain_accuracy_before": 0.9, "histogram_drift": 0.1, **health}
    weights = weights or {"task": 1.0, "domain": 1.0}
    return EpochReport(
        epoch=1,
        scores={},
        histogram=[0.5, 0.5],
        losses=dict.fromkeys(weights, 1.0),
        weights=weights,
        freeze_depth=0,
        lr=0.1,
        seconds=1.0,
        health=measured,
    )


def test_equal_domains_are_told_apart_by_chance():
    assert domain_accuracy(normal(512), normal(512, seed=1)) == pytest.approx(0.5, abs=0.06)


def test_domains_far_apart_are_always_told_apart():
    assert domain_accuracy(normal(100), normal(100, shift=5.0, seed=1)) == 1.0


def test_accuracy_is_near_that_of_a_logistic_classifier():
    source, target = normal(400), normal(400, shift=0.5, seed=1)
    rows, domains = torch.cat([source[::2], target[::2]]), [0] * 200 + [1] * 200
    classifier = LogisticRegression().fit(rows, domains)
    expected = classifier.score(torch.cat([source[1::2], target[1::2]]), domains)
    assert domain_accuracy(source, target) == pytest.approx(expected, abs=0.03)


def test_constant_features_are_chance():
    assert domain_accuracy(torch.ones(20, 3), torch.ones(20, 3)) == 0.5


def test_wide_features_of_few_rows_give_a_number():
    assert 0 <= domain_accuracy(normal(6), normal(4, seed=1)) <= 1


def test_the_gap_is_what_methods_train_on_of_features_in_units_of_their_spread():
    source, target = normal(40), 2 * normal(30, shift=1.0, seed=1)
    spread = np.sqrt(np.concatenate([source[:30], target]).var(axis=0, ddof=1).mean())
    found = domain_gap(source, target)
    assert found["mmd"] == pytest.approx(float(mmd_distance(source[:30], target)))  # of any unit
    assert found["coral"] == pytest.approx(float(coral_distance(source[:30] / spread, target / spread)))
    assert found["domain_accuracy"] == domain_accuracy(source, target)


def test_the_gap_does_not_depend_on_the_length_of_the_features():
    source, target = normal(40), normal(40, shift=1.0, seed=1)
    assert domain_gap(7 * source, 7 * target) == pytest.approx(domain_gap(source, target))


def test_the_gap_of_one_domain_with_itself_is_about_zero():
    found = domain_gap(normal(512), normal(512, seed=1))
    assert abs(found["mmd"]) < 0.01
    assert found["coral"] < 0.001


def test_drift_is_the_total_variation_distance():
    assert drift([0.5, 0.5, 0.0], [0.2, 0.3, 0.5]) == pytest.approx(0.5)


def test_gradient_norm_is_that_of_the_weighted_loss():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    norms = gradient_norms({"task": parameter.square().sum(), "domain": parameter.detach().sum() + 0 * parameter[0]},
                           {"task": 0.5, "domain": 2.0}, [parameter])  # fmt: skip
    assert norms == {"task": pytest.approx(5.0), "domain": 0.0}


def test_a_healthy_epoch_has_no_finding():
    assert findings(report(gradient_ratio=1.0, gradient_domain=0.3), progress=1.0, aligns_features=True) == []


@pytest.mark.parametrize(
    ("health", "says"),
    [
        ({"gradient_domain": 0.0}, "loss 'domain' has zero gradient"),
        ({"gradient_ratio": 100.0}, "adaptation pulls 100 times as hard as the task"),
        ({"gradient_ratio": 1e-5}, "next to nothing"),
        ({"gradient_removed": 0.75}, "masking took away 75% of its gradient"),
        ({"domain_accuracy": 0.99}, "still told apart (99% by a linear classifier, 90% before training)"),
        ({"histogram_drift": 0.7}, "differ from the source's classes by 70%"),
    ],
)
def test_each_illness_is_named(health, says):
    (finding,) = findings(report(**health), progress=1.0, aligns_features=True)
    assert says in finding


def test_a_loss_that_is_switched_off_is_not_ill():
    assert findings(report({"task": 1.0, "domain": 0.0}, gradient_domain=0.0), progress=0.1, aligns_features=True) == []


def test_early_epochs_may_be_told_apart():
    assert findings(report(domain_accuracy=0.99), progress=0.25, aligns_features=True) == []


def test_a_method_that_does_not_align_features_may_leave_them_apart():
    assert findings(report(domain_accuracy=0.99), progress=1.0, aligns_features=False) == []


def test_a_trial_is_examined_after_every_epoch():
    run = TrialRun(tiny_config(method="coral"), tiny_data(), RULE)
    first, second = run.epoch(0), run.epoch(1)
    for name in ("domain_accuracy", "mmd", "coral"):
        assert first.health[f"{name}_before"] == second.health[f"{name}_before"]
    assert second.health["gradient_ratio"] == pytest.approx(
        second.health["gradient_domain"] / second.health["gradient_task"]
    )


def test_a_method_whose_loss_reaches_nothing_that_trains_is_found():
    config = tiny_config(method="coral", freeze_depth=3)  # features are frozen, CORAL moves nothing
    found = TrialRun(config, tiny_data(), RULE).epoch(3).findings
    assert any("loss 'domain' has zero gradient" in text for text in found)


def test_a_loss_that_does_not_count_now_is_no_finding():
    at_rest = report({"task": 1.0, "domain": 1.0}, gradient_task=0.0, gradient_domain=0.3)
    assert findings(at_rest, progress=1.0, aligns_features=True, idle_losses=("task",)) == []


@pytest.mark.parametrize("method", ["adda", "tent"])
def test_phases_of_a_method_are_no_finding(method):
    run = TrialRun(tiny_config(method={method: {"start": 0.5}}), tiny_data(), RULE)
    found = [run.epoch(epoch).findings for epoch in range(4)]
    assert not [line for lines in found for line in lines if "zero gradient" in line]


def test_a_batch_size_that_was_cut_is_told():
    run = TrialRun(tiny_config(batch_size=50), tiny_data(), RULE)
    assert run.epoch(0).findings[0].startswith("batch_size=50 became 24, the most that 1 workers share evenly")
