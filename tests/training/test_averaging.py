"""Averages of weights against averages by hand, and against torch's own statistics."""

import copy

import pytest
import torch
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.averaging import (
    AVERAGING,
    KeptEpoch,
    best_epochs,
    greedy_soup,
    mean_weights,
    renew_statistics,
)
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, evaluate_checkpoint, train_trial
from ray_tl.training.network import PREFIX
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data

STOPS_AT_2 = {"patience": {"epochs": 1, "min_improvement": 5.0}}  # nothing improves that much
PLAIN = {"optimizer": {"sgd": {"lr": 0.05}}, "lr_schedule": "constant", "augmentation": "affine"}


def run_of(**changes):
    return TrialRun(tiny_config(**{**PLAIN, **changes}), tiny_data(), RULE)


def network(run, report):
    """What the checkpoint of this epoch holds of the network."""
    state = run.state(report)["task"]
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def weights_after_each_step(run, epoch):
    """Head weights after each step of an epoch, and its report."""
    seen = []
    run._optimizer.register_step_post_hook(lambda *_: seen.append(run.task.model.head.weight.detach().clone()))
    return seen, run.epoch(epoch)


def test_ema_is_the_recursion_over_steps():
    run = run_of(averaging={"ema": {"decay": 0.8}})
    seen, report = weights_after_each_step(run, 0)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.8 * expected + 0.2 * weight
    assert len(seen) == 3
    assert_close(network(run, report)["head.weight"], expected)


def test_training_goes_on_from_its_own_weights_not_from_the_average():
    plain, averaged = run_of(), run_of(averaging={"ema": {"decay": 0.8}})
    for epoch in range(2):
        plain.epoch(epoch)
        averaged.epoch(epoch)
    assert_close(averaged.task.state_dict(), plain.task.state_dict(), rtol=0, atol=0)


def test_swa_is_the_mean_of_the_epochs_from_its_start_on():
    plain, swa = run_of(), run_of(averaging={"swa": {"start": 0.5}})
    ends = []
    for epoch in range(4):
        plain.epoch(epoch)
        ends.append({name: value.detach().clone() for name, value in plain.task.model.named_parameters()})
        found = network(swa, swa.epoch(epoch))
    for name, value in ends[0].items():
        assert_close(found[name], (ends[2][name] + ends[3][name]) / 2)
        assert value.shape == found[name].shape


def test_before_its_start_swa_changes_nothing():
    plain, swa = run_of(), run_of(averaging={"swa": {"start": 0.5}})
    assert_close(network(swa, swa.epoch(0)), network(plain, plain.epoch(0)), rtol=0, atol=0)


PROBED = {"freeze_depth": 0, "unfreezing": {"probe_then_fine_tune": {"until": 0.5, "rate_after": 1.0}}}


def state_of(run):
    """Weights and running statistics."""
    return {name: value for name, value in run.task.model.state_dict().items() if value.is_floating_point()}


def test_wise_ft_lies_between_the_probe_and_the_fine_tuned_network():
    plain, wise = run_of(**PROBED), run_of(**PROBED, averaging={"wise_ft": {"alpha": 0.25}})
    for epoch in range(3):
        plain.epoch(epoch)
        report = wise.epoch(epoch)
        if epoch == 1:
            probe = {name: value.clone() for name, value in state_of(plain).items()}
    found = network(wise, report)
    for name, value in state_of(plain).items():
        assert_close(found[name], 0.75 * probe[name] + 0.25 * value)
    assert not torch.equal(found["head.weight"], probe["head.weight"])


def test_wise_ft_changes_nothing_while_the_head_is_probed():
    plain, wise = run_of(**PROBED), run_of(**PROBED, averaging="wise_ft")
    plain.epoch(0)
    wise.epoch(0)
    assert_close(wise.task.state_dict(), plain.task.state_dict(), rtol=0, atol=0)
    assert not wise._averaging.state_dict()


def test_where_the_head_alone_trains_wise_ft_is_as_none_and_says_so():
    plain, wise = run_of(freeze_depth="head_only"), run_of(freeze_depth="head_only", averaging="wise_ft")
    told, report = plain.epoch(0), wise.epoch(0)
    assert_close(wise.task.state_dict(), plain.task.state_dict(), rtol=0, atol=0)
    note = "averaging='wise_ft' is as none here: no stage of the backbone trains."
    assert note in report.findings
    assert note not in told.findings


def test_where_stages_train_wise_ft_says_nothing():
    assert not any("averaging" in line for line in run_of(**PROBED, averaging="wise_ft").epoch(0).findings)


def test_without_a_probe_wise_ft_leaves_the_head_as_it_was_trained():
    plain, wise = run_of(freeze_depth=0), run_of(freeze_depth=0, averaging="wise_ft")
    before = wise.task.model.backbone.state_dict(prefix="backbone.")
    before = {name: value.detach().clone() for name, value in before.items()}
    plain.epoch(0)
    found, tuned = network(wise, wise.epoch(0)), dict(plain.task.model.named_parameters())
    assert_close(found["head.weight"], tuned["head.weight"], rtol=0, atol=0)
    name = next(name for name in tuned if name.startswith("backbone."))
    assert_close(found[name], (before[name] + tuned[name]) / 2)


def test_renewed_statistics_are_those_of_torch():
    model = run_of().task.model
    batches = [torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    reference = copy.deepcopy(model)
    update_bn(batches, reference)
    renew_statistics(model, [(batch, ("source",)) for batch in batches], 0)
    assert_close(dict(model.named_buffers()), dict(reference.named_buffers()))


def test_frozen_stages_keep_their_statistics_when_others_are_renewed():
    model = run_of().task.model
    model.backbone.freeze(1)
    before = [buffer.clone() for buffer in model.backbone.stages[0].buffers()]
    renew_statistics(model, [(torch.rand(6, 1, 8, 8), ("source",))], 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.stages[0].buffers(), strict=True))
    assert not any(module.training for module in model.modules())


def kept(*objectives):
    """Networks of one weight, that of the epoch's number."""
    return [
        KeptEpoch(number, value, {"w": torch.tensor([float(number)])}) for number, value in enumerate(objectives, 1)
    ]


def test_the_best_epochs_are_kept_and_of_equal_ones_the_earlier():
    assert [each.epoch for each in best_epochs(kept(0.1, 0.5, 0.5, 0.9, 0.2), 3)] == [4, 2, 3]


def test_an_epoch_joins_the_soup_if_the_mean_is_no_worse():
    # Networks of one weight, the best first; the judge likes what is near 2.5, and the first is 0.5 away from that.
    ordered = [KeptEpoch(number, -0.5, {"w": torch.tensor([float(number)])}) for number in (3, 1, 2, 8, 5)]
    asked = []

    def judge(weights):
        asked.append(weights["w"].item())
        return -abs(asked[-1] - 2.5)

    assert [each.epoch for each in greedy_soup(ordered, judge)] == [3, 1, 2, 5]
    assert asked == [2.0, 2.0, 3.5, 2.75]


def test_the_mean_leaves_counters_alone():
    states = [
        KeptEpoch(number, 0.0, {"w": torch.tensor(weight), "n": torch.tensor(number)})
        for number, weight in ((7, 1.0), (9, 3.0))
    ]
    assert mean_weights(states) == {"w": torch.tensor(2.0), "n": torch.tensor(7)}


ENDS = {
    "ema": {"averaging": "ema"},
    "swa": {"averaging": {"swa": {"start": 0.3}}},
    "soup": {"averaging": {"greedy_soup": {"size": 3}}},
    "wise_ft": {**PROBED, "averaging": "wise_ft"},
    "patience": {"early_stopping": "patience"},
    "stopped": {"early_stopping": STOPS_AT_2},
    "stopped soup": {"averaging": "greedy_soup", "early_stopping": STOPS_AT_2, "domain_norm": "separate"},
    "swa of AdaBN": {"averaging": "swa", "method": "adabn"},
}


@pytest.mark.parametrize("case", ENDS)
def test_the_checkpoint_is_the_network_that_was_reported(case, tmp_path):
    config = tiny_config(**{**PLAIN, "method": "coral", **ENDS[case]})
    files, reports = TrialFiles(tmp_path, 0), Reports()
    assert train_trial(config, tiny_data(), reports, files, RULE)
    evaluation = evaluate_checkpoint(config, tiny_data(), files, RULE)
    assert reports[-1].epoch == config.epochs
    assert evaluation.agreement == 1.0
    assert evaluation.scores == pytest.approx(reports[-1].scores, abs=1e-6)


def test_a_trial_that_stops_early_is_complete_and_is_its_best_epoch(tmp_path):
    files, reports, plain = TrialFiles(tmp_path, 0), Reports(), run_of()
    assert train_trial(tiny_config(**PLAIN, early_stopping=STOPS_AT_2), tiny_data(), reports, files, RULE)
    epochs = [(report := plain.epoch(epoch), network(plain, report)["head.weight"].clone()) for epoch in range(2)]
    scores = [RULE.objective(report.scores, report.histogram) for report, _ in epochs]
    best = scores.index(max(scores))
    assert [report.epoch for report in reports] == [1, 4]
    assert (
        reports[-1].findings[0].startswith(f"it stopped early, after epoch 2 of 4; it is as epoch {best + 1} left it")
    )
    assert torch.equal(files.load_checkpoint()["task"]["model.head.weight"], epochs[best][1])
    assert reports[-1].scores == epochs[best][0].scores


def test_a_stopped_trial_that_is_taken_up_again_has_ended(tmp_path):
    config, files = tiny_config(**PLAIN, early_stopping=STOPS_AT_2), TrialFiles(tmp_path, 0)
    train_trial(config, tiny_data(), Reports(), files, RULE)
    again = Reports()
    assert train_trial(config, tiny_data(), again, files, RULE)
    assert [report.epoch for report in again] == [1, 4]


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("ema", {"decay": 1.0}, r"ema\.decay=1\.0 must be above 0 and below 1"),
        ("swa", {"start": 1.0}, r"swa\.start=1\.0 must be at least 0 and below 1"),
        ("greedy_soup", {"size": 1}, r"greedy_soup\.size=1 is no mixture"),
    ],
)
def test_an_average_that_makes_no_sense_is_refused(name, params, said):
    with pytest.raises(InvalidInput, match=said):
        AVERAGING.create(name, params)
