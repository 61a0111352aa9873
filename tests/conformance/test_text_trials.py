"""What holds for every method in a trial on texts: it trains, cached or not, and resumes exactly."""

import math

import pytest
import torch

from ray_tl.adaptation import METHODS
from ray_tl.training.run import TrialRun
from tests.conformance.test_on_ranks import trained
from tests.training.tiny import VALIDATORS
from tests.training.tiny_text import tiny_text_config, tiny_text_data, tiny_text_pair

every_method = pytest.mark.parametrize("method", METHODS.names())


@pytest.fixture(scope="module")
def data():
    return tiny_text_data(tiny_text_pair(num_labelled=6))


@every_method
def test_method_trains_on_texts_and_moves_every_parameter(method, data):
    run = TrialRun(tiny_text_config(method=method, augmentation="word_dropout"), data, VALIDATORS)
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    losses, _ = trained(run, 0)
    assert all(math.isfinite(value) for value in losses.values())
    assert [name for name, value in run.task.model.named_parameters() if value.grad is None] == []
    assert [name for name, value in run.task.model.named_parameters() if torch.equal(value, before[name])] == []


@every_method
@pytest.mark.parametrize("depth", [2, 4])
def test_method_works_on_cached_activations_of_texts(method, depth, data):
    run = TrialRun(tiny_text_config(method=method, freeze_depth=depth), data, VALIDATORS)
    report = run.epoch(0)
    assert report.cached_stages == depth
    assert all(math.isfinite(value) for value in report.losses.values())
