"""What holds for every method in a trial: it trains with every weighting, needs what it says, and resumes exactly."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import LOSS_WEIGHTS, METHODS, MethodContext
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from tests.training.tiny import VALIDATORS, Reports, tiny_config, tiny_data

EXACT = {"rtol": 0, "atol": 0}
every_method = pytest.mark.parametrize("method", METHODS.names())


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@every_method
@pytest.mark.parametrize("weighting", LOSS_WEIGHTS.names())
def test_method_trains_three_steps_with_every_weighting(method, weighting, data):
    run = TrialRun(tiny_config(method=method, loss_weighting=weighting, augmentation="affine"), data, VALIDATORS)
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    report = run.epoch(0)
    assert list(report.losses) == list(report.weights) == list(run.task.method.loss_names)
    assert all(math.isfinite(value) for value in [*report.losses.values(), *report.weights.values()])
    assert all(not torch.equal(value, before[name]) for name, value in run.task.model.named_parameters())


@every_method
def test_every_trained_parameter_has_a_gradient_after_each_step(method, data):
    run = TrialRun(tiny_config(method=method), data, VALIDATORS)
    run.epoch(0)
    assert [name for name, part in run.task.named_parameters() if part.requires_grad and part.grad is None] == []


@every_method
def test_method_works_on_cached_activations(method, data):
    run = TrialRun(tiny_config(method=method, freeze_depth=3), data, VALIDATORS)
    report = run.epoch(0)
    assert report.cached_stages == 3
    assert all(math.isfinite(value) for value in report.losses.values())


@every_method
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(method, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = finished(method, whole)
    before, after = finished(method, parts, stop_at=2), finished(method, parts)
    assert [*before, *after[1:]] == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)
    assert_close(left["optimizer"]["state"], right["optimizer"]["state"], **EXACT)


@every_method
def test_building_a_method_needs_no_data(method):
    built = METHODS.create(method, {}, MethodContext(feature_dim=2, num_classes=2))
    assert all(isinstance(value, torch.Tensor) for value in built.state_dict().values())


def finished(method: str, files: TrialFiles, stop_at: int | None = None) -> list:
    reports = Reports(stop_at)
    config = tiny_config(method=method, optimizer="adamw", augmentation="affine")
    train_trial(config, tiny_data(), reports, files, VALIDATORS)
    return [replace(report, seconds=0.0) for report in reports]
