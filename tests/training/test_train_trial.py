"""A whole trial, in one process and without Ray."""

import pytest
import torch
from torch import nn

from ray_tl.adaptation import METHODS
from ray_tl.errors import TrialFailed
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, evaluate_checkpoint, train_trial
from tests.training.tiny import NUM_CLASSES, RULE, VALIDATOR_NAMES, Reports, tiny_config, tiny_data, tiny_pair

LEARNS = {"epochs": 12, "optimizer": {"adamw": {"lr": 0.02}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished trial: its configuration, its files and what it reported."""
    config, files, reports = tiny_config(method="mcc", **LEARNS), TrialFiles(tmp_path_factory.mktemp("study"), 7), []
    assert train_trial(config, tiny_data(), lambda report: reports.append(report) or False, files, RULE)
    return config, files, reports


def test_source_accuracy_rises_from_chance_to_all(finished):
    accuracies = [report.scores["source_accuracy"] for report in finished[2]]
    assert accuracies[0] < 0.7
    assert accuracies[-1] == 1.0


def test_every_epoch_is_reported_once_and_in_order(finished):
    assert [report.epoch for report in finished[2]] == list(range(1, 13))


def test_every_report_holds_all_scores_losses_and_weights(finished):
    for report in finished[2]:
        assert set(report.scores) == set(VALIDATOR_NAMES)
        assert set(report.losses) == set(report.weights) == {"task", "domain"}


def test_histogram_holds_the_share_of_each_class_among_the_predictions(finished):
    _, files, reports = finished
    predictions = torch.from_numpy(files.load_evidence()["target"]).argmax(dim=1)
    expected = torch.bincount(predictions, minlength=NUM_CLASSES) / len(predictions)
    assert reports[-1].histogram == pytest.approx(expected.tolist())


def test_evidence_holds_probabilities_of_every_domain_but_the_training_one(finished):
    evidence = finished[1].load_evidence()
    assert {name: array.shape for name, array in evidence.items()} == {
        "source_holdout": (12, 3), "target": (30, 3), "target_test": (6, 3),
    }  # fmt: skip
    assert all(array.sum(axis=1) == pytest.approx(1, abs=1e-6) for array in evidence.values())


def test_checkpoint_gives_the_recorded_evidence_again(finished):
    config, files, reports = finished
    evaluation = evaluate_checkpoint(config, tiny_data(), files, RULE)
    assert evaluation.agreement == 1.0
    assert evaluation.scores == pytest.approx(reports[-1].scores, abs=1e-6)
    assert evaluation.histogram == reports[-1].histogram


def test_evidence_of_other_weights_does_not_agree(finished, tmp_path):
    config, files, _ = finished
    other = TrialFiles(tmp_path, 0)
    shuffled = {name: array[:, [1, 2, 0]] for name, array in files.load_evidence().items()}
    other.save_evidence(shuffled)
    other.save_checkpoint(files.load_checkpoint())
    assert evaluate_checkpoint(config, tiny_data(), other, RULE).agreement == 0.0


def test_a_trial_without_checkpoint_can_not_be_evaluated(tmp_path):
    with pytest.raises(TrialFailed, match=r"trial 5 left no checkpoint in .*0005\.pt"):
        evaluate_checkpoint(tiny_config(), tiny_data(), TrialFiles(tmp_path, 5), RULE)


def test_told_to_stop_it_stops_and_leaves_what_it_reported(tmp_path):
    files, reports = TrialFiles(tmp_path, 0), Reports(stop_at=2)
    assert not train_trial(tiny_config(), tiny_data(), reports, files, RULE)
    assert [report.epoch for report in reports] == [1, 2]
    assert files.load_checkpoint()["report"]["epoch"] == 2
    assert evaluate_checkpoint(tiny_config(), tiny_data(), files, RULE).agreement == 1.0


def test_told_to_stop_after_the_last_epoch_it_has_still_finished(tmp_path):
    assert train_trial(tiny_config(), tiny_data(), Reports(stop_at=4), TrialFiles(tmp_path, 0), RULE)


def test_files_are_on_disk_before_the_report_is_made(tmp_path):
    files, seen = TrialFiles(tmp_path, 0), []

    def report(epoch):
        seen.append((epoch.epoch, files.load_checkpoint()["report"]["epoch"], files.evidence.is_file()))
        return False

    train_trial(tiny_config(), tiny_data(), report, files, RULE)
    assert seen == [(epoch, epoch, True) for epoch in (1, 2, 3, 4)]


def test_equal_seeds_give_equal_networks_and_other_seeds_others():
    first, again, other = (trained(tiny_config(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_leaves_the_generator_of_the_initial_weights_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    TrialRun(tiny_config(method="dann"), tiny_data(), RULE)
    assert torch.equal(torch.rand(1), expected)


def trained(config, data=None):
    """All weights and buffers after one epoch, in a row."""
    run = TrialRun(config, data or tiny_data(), RULE)
    run.epoch(0)
    return torch.cat([value.flatten().double() for value in run.task.state_dict().values()])


@pytest.mark.parametrize("method", METHODS.names())
def test_a_loss_that_is_not_finite_ends_the_trial_and_is_named(method):
    config = tiny_config(method=method, optimizer={"sgd": {"lr": 1e38}})
    with pytest.raises(TrialFailed, match=r"loss '(task|domain)' is (nan|inf|-inf); a lower learning rate"):
        TrialRun(config, tiny_data(tiny_pair(num_labelled=5)), RULE).epoch(0)


def test_labelled_target_examples_join_the_task_by_their_weight():
    data = tiny_data(tiny_pair(num_labelled=5))
    task = {weight: first_losses(data, target_label_weight=weight)["task"] for weight in (0.0, 0.25, 1.0)}
    assert task[0.25] == pytest.approx(0.75 * task[0.0] + 0.25 * task[1.0], rel=1e-5)
    assert task[0.0] == pytest.approx(first_losses(tiny_data())["task"], rel=1e-6)
    assert task[0.0] != pytest.approx(task[1.0], rel=1e-2)


def first_losses(data, **changes):
    """Of one step, from the network as it is built; without batch statistics, which see all views."""
    run = TrialRun(tiny_config(method="mcc", freeze_depth=3, **changes), data, RULE)
    run.task.eval()
    run._enter_phase(0.0)
    losses = run.task(*run._step_inputs(next(run._batches.epoch(0)), 0.0, 0, 0)).named
    return {name: loss.item() for name, loss in losses.items()}


def test_the_baseline_does_not_see_labelled_target_examples():
    config = tiny_config(method="source_only")
    assert torch.equal(trained(config), trained(config, tiny_data(tiny_pair(num_labelled=5))))


def test_source_only_runs_source_rows_alone():
    assert training_batch_sizes("source_only") == {8}
    assert training_batch_sizes("coral") == {16}


def training_batch_sizes(method):
    run, sizes = TrialRun(tiny_config(method=method), tiny_data(), RULE), set()

    def remember(model: nn.Module, inputs: tuple) -> None:
        sizes.update({len(inputs[0])} if model.training else {})

    run.task.model.register_forward_pre_hook(remember)
    run.epoch(0)
    return sizes


def test_source_only_is_the_same_whatever_the_target_is():
    one, other = (tiny_data(tiny_pair(target_seed=seed)) for seed in (2, 20))
    assert torch.equal(trained(tiny_config(), one), trained(tiny_config(), other))
    assert not torch.equal(trained(tiny_config(method="mcc"), one), trained(tiny_config(method="mcc"), other))
