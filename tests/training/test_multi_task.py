"""Another task on shared layers: its loss, what it moves, and what is left of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from ray_tl.training.multi_task import MULTI_TASKS, MultiTaskContext
from ray_tl.training.network import load_model
from tests.training.tiny import RULE, Reports, further, tiny_config, tiny_data, tiny_pair

TASK = {"auxiliary": {"weight": 0.25}}


def run_of(pair=None, **changes):
    config = tiny_config(**{"multi_task": TASK, **changes})
    return TrialRun(config, tiny_data(pair or further(tiny_pair())), RULE)


def step_of(run: TrialRun):
    run._enter_phase(0.0)
    run.task.eval()
    step = next(run._batches.epoch(0))
    return step, run.task(*run._step_inputs(step, 0.0, 0, 0))


def test_the_loss_of_the_other_task_is_its_cross_entropy_times_its_weight():
    pair = further(tiny_pair())
    run = run_of(pair)
    step, (total, losses, weights, _) = step_of(run)
    rows = step.auxiliary_rows
    with torch.no_grad():
        features = run.task.model(torch.from_numpy(pair.auxiliary.inputs)[rows], 0, ("source",))[0]
        scores = run.task.auxiliary.head(features).double().numpy()
    right = scores[np.arange(8), pair.auxiliary.labels[rows]]
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - right)
    assert losses["auxiliary"].item() == pytest.approx(expected, abs=1e-5)
    assert weights == {"task": 1.0, "auxiliary": 0.25}
    assert total.item() == pytest.approx(losses["task"].item() + 0.25 * expected, abs=1e-5)


def test_shared_layers_learn_from_it_and_the_other_head_does_not():
    run = run_of()
    losses = step_of(run)[1].named
    losses["auxiliary"].backward()
    assert run.task.model.backbone.stages[0][0].weight.grad.abs().sum() > 0
    assert run.task.model.head.weight.grad is None or run.task.model.head.weight.grad.abs().sum() == 0


def test_other_losses_are_as_without_it():
    losses, alone = (step_of(run_of(method="dann", multi_task=task))[1].named for task in (TASK, "none"))
    assert_close({name: losses[name] for name in alone}, alone, rtol=0, atol=1e-6)


def test_its_head_is_trained_and_left_behind(tmp_path):
    config, files, data = (
        tiny_config(multi_task=TASK, epochs=1),
        TrialFiles(tmp_path, 0),
        tiny_data(further(tiny_pair())),
    )
    before = run_of(epochs=1).task.auxiliary.head.weight.clone()
    train_trial(config, data, Reports(), files, RULE)
    assert not torch.equal(files.load_checkpoint()["task"]["auxiliary.head.weight"], before)
    assert [name for name in load_model(config, data, files).state_dict() if "auxiliary" in name] == []


def test_its_labels_decide():
    pair = further(tiny_pair())
    other = replace(pair.auxiliary, labels=1 - pair.auxiliary.labels)
    assert run_of(pair).epoch(0).losses["task"] != run_of(replace(pair, auxiliary=other)).epoch(0).losses["task"]


def test_it_learns_from_cached_activations():
    report = run_of(freeze_depth=3).epoch(0)
    assert report.cached_stages == 3
    assert report.losses["auxiliary"] > 0


def test_separate_statistics_of_the_target_do_not_see_it():
    bottleneck, pair = {"bottleneck": {"width": 4}}, further(tiny_pair())
    fields = {"method": "coral", "domain_norm": "separate", "adaptor": bottleneck, "optimizer": {"sgd": {"lr": 1e-12}}}
    with_it, without = (run_of(pair, multi_task=task, **fields) for task in (TASK, "none"))
    states = []
    for run in (with_it, without):
        run._enter_phase(0.0)
        run._train(0)
        states.append({name: value for name, value in run.task.model.state_dict().items() if "target.running" in name})
    assert len(states[0]) > 0
    assert_close(states[0], states[1], rtol=0, atol=1e-5)


def test_a_task_that_was_not_given_is_asked_for():
    with pytest.raises(InvalidInput, match="needs another labelled domain; give its folder with --auxiliary"):
        MULTI_TASKS.create("auxiliary", {}, MultiTaskContext(4))


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(InvalidInput, match=r"auxiliary.weight=0.0 must be a finite number above 0"):
        MULTI_TASKS.create("auxiliary", {"weight": 0.0}, MultiTaskContext(4, 2))
