"""What holds for every choice of how to fine-tune: it trains, also on cached activations, and resumes exactly."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.run import TrialRun
from tests.conformance.choices import CHOICES
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data, tiny_pair

EXACT = {"rtol": 0, "atol": 0}
every_choice = pytest.mark.parametrize("choice", CHOICES)


@pytest.fixture(scope="module")
def data():
    return tiny_data(tiny_pair(num_labelled=7))


@every_choice
def test_a_trial_trains_all_that_it_says_and_nothing_else(choice, data):
    run = TrialRun(tiny_config(**CHOICES[choice]), data, RULE)
    before = {name: value.detach().clone() for name, value in run.task.model.named_parameters()}
    report = run.epoch(0)
    assert all(math.isfinite(value) for value in [*report.losses.values(), *report.health.values()])
    trained = {name for name, value in run.task.model.named_parameters() if value.requires_grad}
    assert {
        name for name, value in run.task.model.named_parameters() if not torch.equal(value, before[name])
    } == trained


@every_choice
def test_it_works_on_cached_activations(choice, data):
    run = TrialRun(tiny_config(freeze_depth=1, **CHOICES[choice]), data, RULE)
    report = run.epoch(0)
    assert report.cached_stages == 1
    assert all(math.isfinite(value) for value in report.losses.values())


@every_choice
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(choice, data, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = finished(choice, data, whole)
    before, after = finished(choice, data, parts, stop_at=1), finished(choice, data, parts)
    assert [*before, *after[1:]] == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)


def finished(choice, data, files, stop_at=None):
    reports = Reports(stop_at)
    config = tiny_config(augmentation="affine", epochs=2, **CHOICES[choice])
    train_trial(config, data, reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]
