"""AdaBN and TENT."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.normalisation import set_statistics
from ray_tl.errors import InvalidInput
from ray_tl.training.loop import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data


class TwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.linear, self.second = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.3)

    def forward(self, x, start):
        return self.second(self.linear(self.first(x)))


def batches():
    return list(torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5)


def test_statistics_are_the_mean_over_the_batches_layer_by_layer():
    model = TwoNorms().double().train()
    set_statistics(model, batches(), 0)
    first, second = [], []
    for batch in batches():
        rows = batch.numpy()
        first.append((rows.mean(0), rows.var(0, ddof=1)))
        normal = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        after = normal @ model.linear.weight.detach().numpy().T + model.linear.bias.detach().numpy()
        second.append((after.mean(0), after.var(0, ddof=1)))
    for norm, found in ((model.first, first), (model.second, second)):
        np.testing.assert_allclose(norm.running_mean, np.mean([mean for mean, _ in found], axis=0), rtol=1e-9)
        np.testing.assert_allclose(norm.running_var, np.mean([var for _, var in found], axis=0), rtol=1e-9)
    assert not model.first.training
    assert (model.first.momentum, model.second.momentum) == (0.1, 0.3)


def test_no_batches_leave_the_statistics_as_they_are():
    model = TwoNorms()
    model.first.running_mean.fill_(7.0)
    set_statistics(model, [], 0)
    assert_close(model.first.running_mean, torch.full((3,), 7.0))


def run(method, epochs=4, **changes):
    trial = TrialRun(tiny_config(method=method, epochs=epochs, **changes), tiny_data(), RULE)
    return trial, [trial.epoch(epoch) for epoch in range(epochs)]


def test_adabn_trains_as_source_only_and_differs_in_the_statistics_alone():
    plain, _ = run("source_only")
    adapted, _ = run("adabn")
    left, right = (dict(trial.task.model.named_parameters()) for trial in (plain, adapted))
    assert_close(left, right, rtol=0, atol=0)
    norm = adapted.task.model.backbone.stages[0][1]
    assert (norm.running_mean - plain.task.model.backbone.stages[0][1].running_mean).abs().max() > 0.01


def test_frozen_stages_keep_their_statistics():
    trial, _ = run("adabn", freeze_depth=1, augmentation="affine")
    norms = [stage[1] for stage in trial.task.model.backbone.stages[:2]]
    assert_close(norms[0].running_mean, torch.zeros(4))
    assert norms[1].running_mean.abs().max() > 0.01


def parameters(trial):
    return {name: value.detach().clone() for name, value in trial.task.model.named_parameters()}


def test_tent_changes_scales_and_shifts_of_normalisation_alone_and_only_after_its_start():
    trial = TrialRun(tiny_config(method={"tent": {"start": 0.5}}, optimizer="adamw"), tiny_data(), RULE)
    trial.epoch(0)
    trial.epoch(1)
    before = parameters(trial)
    report = trial.epoch(2)
    changed = {name for name, value in parameters(trial).items() if not torch.equal(value, before[name])}
    assert changed == {f"backbone.stages.{stage}.1.{part}" for stage in (0, 1) for part in ("weight", "bias")}
    assert report.losses["task"] == 0
    assert report.losses["domain"] > 0


def test_tent_loads_no_source_row_after_its_start():
    tent = METHODS.create("tent", {"start": 0.5}, MethodContext(4, 3))
    assert (tent.needs_at(0.49), tent.needs_at(0.5)) == (("source",), ("target",))


def test_tent_minimises_the_entropy_on_the_target():
    _, reports = run({"tent": {"start": 0.25}}, epochs=12, optimizer={"adamw": {"lr": 0.01}})
    assert reports[-1].losses["domain"] < reports[3].losses["domain"]


@pytest.mark.parametrize("start", [-0.1, 1.0, float("nan")])
def test_a_start_out_of_range_is_refused(start):
    with pytest.raises(InvalidInput, match=r"tent.start=.* must be at least 0 and below 1"):
        METHODS.create("tent", {"start": start}, MethodContext(4, 3))
