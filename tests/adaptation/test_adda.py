"""ADDA: encoder against discriminator, each from its own loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.adda import inverted_label_loss, joint_accuracy
from ray_tl.errors import InvalidInput
from ray_tl.training.loop import TrialRun
from tests.numeric import numeric_gradient
from tests.training.tiny import RULE, tiny_config, tiny_data


def inverted_reference(logits):
    return float(np.mean([-math.log(1 / (1 + math.exp(-logit))) for logit in logits]))


def test_inverted_labels_cost_the_negative_log_of_being_taken_for_the_source():
    logits = np.random.default_rng(0).normal(0, 3, 9)
    leaf = torch.tensor(logits, requires_grad=True)
    inverted_label_loss(leaf).backward()
    assert inverted_label_loss(leaf).item() == pytest.approx(inverted_reference(logits), rel=1e-9)
    np.testing.assert_allclose(leaf.grad, numeric_gradient(inverted_reference, logits), rtol=1e-5, atol=1e-9)


def adapting(epochs=2):
    trial = TrialRun(
        tiny_config(method={"adda": {"start": 0.5, "rate": 1.0}}, augmentation="affine"), tiny_data(), RULE
    )
    for epoch in range(epochs):
        trial.epoch(epoch)
    return trial


def weights(trial, prefix):
    return {name: value.clone() for name, value in trial.task.state_dict().items() if name.startswith(prefix)}


def test_up_to_its_start_the_source_encoder_is_the_network():
    trial = adapting()
    assert_close(
        list(weights(trial, "method.source_encoder").values()), list(weights(trial, "model.").values()), rtol=0, atol=0
    )


def test_after_its_start_head_and_source_encoder_stay_and_the_encoder_moves():
    trial = adapting()
    fixed = {**weights(trial, "model.head"), **weights(trial, "method.source_encoder")}
    before = weights(trial, "model.backbone.stages.0.0")
    trial.epoch(2)
    assert_close({**weights(trial, "model.head"), **weights(trial, "method.source_encoder")}, fixed, rtol=0, atol=0)
    assert not torch.equal(
        weights(trial, "model.backbone.stages.0.0")["model.backbone.stages.0.0.weight"], *before.values()
    )


def test_encoder_and_discriminator_get_the_gradients_of_their_own_losses():
    trial = adapting()
    step = next(trial._batches.epoch(2))
    inputs = trial._step_inputs(step, 0.5, 2, 0)
    trial.task.eval()
    task = trial.task
    losses = task(*inputs).named
    discriminator = task.method.discriminator
    mine = torch.autograd.grad(losses["domain"], list(discriminator.parameters()), retain_graph=True)
    views = inputs[0]
    source = task.method.source_encoder.network(views["source"], inputs[3])[0]
    target, _ = task.model(views["target"], inputs[3])
    told = torch.cat([discriminator(source), discriminator(target.detach())]).squeeze(1)
    is_source = torch.cat([torch.ones(len(source)), torch.zeros(len(target))])
    expected = torch.autograd.grad(
        F.binary_cross_entropy_with_logits(told, is_source), list(discriminator.parameters())
    )
    assert_close(mine, expected)
    encoder = [value for value in task.model.backbone.parameters()]
    mine = torch.autograd.grad(losses["domain"], encoder)
    inverted = F.binary_cross_entropy_with_logits(discriminator(target).squeeze(1), torch.ones(len(target)))
    assert_close(mine, torch.autograd.grad(inverted, encoder))


def test_accuracy_of_the_discriminator_weighs_both_domains_alike():
    source, target = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 0.5])
    assert joint_accuracy(source, target).item() == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_a_discriminator_that_knows_nothing_does_not_move_the_encoder():
    trial = adapting()
    for value in trial.task.method.discriminator[-1].parameters():
        nn.init.zeros_(value)
    before = [value.clone() for value in trial.task.model.parameters()]
    trial._step(next(trial._batches.steps(2)), 0.5, 2, 0)
    assert_close(list(trial.task.model.parameters()), before, rtol=0, atol=0)
    assert trial.task.method.discriminator[-1].weight.any()


def test_at_its_start_the_optimiser_forgets_what_it_learned_of_the_source():
    trial = TrialRun(tiny_config(method={"adda": {"start": 0.5}}, optimizer="adamw"), tiny_data(), RULE)
    for epoch in range(4):
        trial.epoch(epoch)
    judge = trial.task.method.discriminator.parameters()
    assert {int(trial._optimizer.state[value]["step"]) for value in judge} == {2 * trial._batches.steps_per_epoch}


def test_from_its_start_on_everything_learns_more_slowly():
    fields = {"optimizer": {"sgd": {"lr": 0.1}}, "lr_schedule": "constant"}
    trial = TrialRun(tiny_config(method={"adda": {"start": 0.5, "rate": 0.2}}, **fields), tiny_data(), RULE)
    reports = [trial.epoch(epoch) for epoch in range(4)]
    assert [report.lr for report in reports] == [0.1, 0.1, pytest.approx(0.02), pytest.approx(0.02)]
    assert [group["lr"] for group in trial._optimizer.param_groups] == pytest.approx(
        [0.02] * len(trial._optimizer.param_groups)
    )


def test_parameters_out_of_range_are_refused():
    with pytest.raises(InvalidInput, match=r"adda.rate=0.0 must be a finite number above 0; 0.1 is usual"):
        METHODS.create("adda", {"rate": 0.0}, MethodContext(4, 3))
    with pytest.raises(InvalidInput, match=r"adda.start=1.0 must be at least 0 and below 1"):
        METHODS.create("adda", {"start": 1.0}, MethodContext(4, 3))
    with pytest.raises(InvalidInput, match=r"adda.hidden_width=0 must be"):
        METHODS.create("adda", {"hidden_width": 0}, MethodContext(4, 3))
