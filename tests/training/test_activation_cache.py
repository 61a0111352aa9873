"""What a frozen prefix gives is computed once, and never taken for that of another prefix."""

import pytest
import torch
from torch.testing import assert_close

from ray_tl.training.data import ActivationCache
from ray_tl.training.loop import TrialRun
from ray_tl.training.network import build_model
from tests.training.tiny import RULE, UNFREEZE_ONE_STAGE_AN_EPOCH, tiny_config, tiny_data

ROWS = 24 + 12 + 30 + 6  # of all domains
CPU = torch.device("cpu")


@pytest.fixture
def data():
    return tiny_data()


def counted(model):
    """The model, and a list that grows by the rows of every batch that its first stage computes."""
    rows = []
    model.backbone.stages[0].register_forward_hook(lambda stage, inputs, output: rows.append(len(output)))
    return model, rows


def model_and_rows(data, **changes):
    return counted(build_model(tiny_config(**changes), data))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_activations_are_those_of_the_frozen_stages(data, depth):
    model, _ = model_and_rows(data)
    inputs = data.inputs(model, depth)
    assert inputs.start == depth
    expected = model.eval().backbone(model.backbone.entry(data.rows["target"]), stop=depth)
    assert_close(inputs.rows["target"], expected, rtol=1e-6, atol=1e-6)


def test_at_depth_0_images_are_the_inputs_and_nothing_is_computed(data):
    model, rows = model_and_rows(data)
    inputs = data.inputs(model, 0)
    assert inputs.start == 0
    assert inputs.rows["source"] is data.rows["source"]
    assert rows == []


def test_a_second_model_with_the_same_prefix_computes_nothing(data):
    (first, computed), (second, computed_again) = model_and_rows(data), model_and_rows(data, method="dann")
    data.inputs(first, 2)
    data.inputs(second, 2)
    assert sum(computed) >= ROWS
    assert computed_again == []


def test_other_weights_are_computed_anew(data):
    first, (second, computed) = build_model(tiny_config(), data), model_and_rows(data, seed=4)
    assert not torch.equal(data.inputs(first, 2).rows["target"], data.inputs(second, 2).rows["target"])
    assert sum(computed) >= ROWS


def test_another_depth_is_computed_anew(data):
    (model, computed) = model_and_rows(data)
    data.inputs(model, 1)
    del computed[:]
    assert data.inputs(model, 2).start == 2
    assert sum(computed) >= ROWS


def test_other_normalisation_statistics_are_other_weights(data):
    first, (second, computed) = build_model(tiny_config(), data), model_and_rows(data)
    second.backbone.stages[0][1].running_mean += 0.5
    assert not torch.equal(data.inputs(first, 1).rows["target"], data.inputs(second, 1).rows["target"])
    assert sum(computed) >= ROWS


def test_weights_behind_the_cut_do_not_matter(data):
    first, (second, computed) = build_model(tiny_config(), data), model_and_rows(data)
    second.backbone.stages[1][0].weight.data.zero_()
    assert data.inputs(first, 1).rows["target"] is data.inputs(second, 1).rows["target"]
    assert computed == []


def test_filling_the_cache_leaves_the_model_in_its_mode(data):
    model, _ = model_and_rows(data)
    data.inputs(model.train(), 2)
    assert model.training
    assert model.backbone.stages[2].training


# Room for some prefixes and not for others. At depth 1 of tiny_cnn a row takes 4 x 4 x 4 floats, at depth 2 it takes
# 8 x 2 x 2, at depth 3 it takes 8.

BYTES = {1: ROWS * 64 * 4, 2: ROWS * 32 * 4, 3: ROWS * 8 * 4}


def start_of(cache, model, depth, data):
    return cache.inputs(model, depth, data.rows, CPU).start


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_fits_exactly_is_cached_and_a_byte_less_falls_back_to_images(data, depth):
    model, _ = model_and_rows(data)
    assert start_of(ActivationCache(BYTES[depth]), model, depth, data) == depth
    fallback = ActivationCache(BYTES[depth] - 1).inputs(model, depth, data.rows, CPU)
    assert fallback.start == 0
    assert fallback.rows["target"] is data.rows["target"]


def test_the_least_recently_used_prefix_makes_room(data):
    cache, (model, computed) = ActivationCache(BYTES[1] + BYTES[2]), model_and_rows(data)
    for depth in (1, 2, 1, 3):  # the third makes room by throwing out depth 2, which was used before depth 1
        start_of(cache, model, depth, data)
    del computed[:]
    start_of(cache, model, 1, data)
    start_of(cache, model, 3, data)
    assert computed == []
    start_of(cache, model, 2, data)
    assert sum(computed) >= ROWS


def test_a_prefix_that_can_not_fit_throws_nothing_out(data):
    cache, (model, computed) = ActivationCache(BYTES[2]), model_and_rows(data)
    start_of(cache, model, 2, data)
    assert start_of(cache, model, 1, data) == 0
    del computed[:]
    assert start_of(cache, model, 2, data) == 2
    assert computed == []


# The same trial with and without the cache.


@pytest.mark.parametrize("method", ["source_only", "mcc", "dann"])
def test_training_on_cached_activations_gives_the_losses_of_training_on_images(method):
    config = tiny_config(method=method, unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH, optimizer="sgd")
    without = tiny_data()
    without.cache = ActivationCache(0)
    cached, computed = (reports(config, data) for data in (tiny_data(), without))
    assert [report.cached_stages for report in cached] == [3, 2, 1, 0]
    assert [report.cached_stages for report in computed] == [0, 0, 0, 0]
    assert_close(losses(cached), losses(computed), rtol=1e-5, atol=1e-6)  # float32: other batches, other rounding


def reports(config, data):
    run = TrialRun(config, data, RULE)
    return [run.epoch(epoch) for epoch in range(config.epochs)]


def losses(reports):
    return torch.tensor([list(report.losses.values()) for report in reports])


def test_training_on_cached_activations_runs_no_frozen_stage(data):
    reports(tiny_config(freeze_depth=2), data)
    second = TrialRun(tiny_config(freeze_depth=2, optimizer="sgd", method="coral"), data, RULE)
    _, computed = counted(second.task.model)
    second.epoch(0)
    assert computed == []


def test_random_augmentation_is_not_cached(data):
    run = TrialRun(tiny_config(freeze_depth=2, augmentation="affine"), data, RULE)
    assert run.epoch(0).cached_stages == 0
