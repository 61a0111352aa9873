"""Regularisers against NumPy and naive loops; that trials with them resume and spread over ranks is in conformance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.training.filter_attention import attention_of_stages
from ray_tl.training.regularisers import (
    REGULARISERS,
    Pass,
    distance_to_start,
    feature_map_distance,
    recorded,
    spectral_shrinkage,
    squared_length,
)
from ray_tl.training.run import TrialRun
from tests.numeric import numeric_gradient
from tests.training.tiny import RULE, tiny_config, tiny_data

seeds = st.integers(0, 2**32 - 1)


def network(freeze_depth=0):
    torch.manual_seed(0)
    component = Component(name="tiny_cnn", params={"width": 4})
    model = build_transfer_model(component, 3, BackboneContext(1, load_weights=False)).double()
    model.backbone.freeze(freeze_depth)
    return model.eval()


def moved(model, seed=1):
    """The network after something like training: all that trains has moved at random."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value += value.requires_grad * 0.3 * torch.randn(value.shape, generator=random, dtype=value.dtype)
    return model


def passed(model, seed=2):
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with recorded(model.backbone) as stages:
        return images, Pass(model(images)[0], stages)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 5))
def test_distance_to_the_start_and_its_gradient_are_those_of_a_loop(seed, width):
    now, then = np.random.default_rng(seed).normal(size=(2, 3, width))
    leaf = torch.tensor(now, requires_grad=True)
    loss = distance_to_start([leaf[0], leaf[1:]], [torch.tensor(then[0]), torch.tensor(then[1:])])
    loss.backward()
    expected = sum((a - b) ** 2 / 2 for a, b in zip(now.ravel(), then.ravel(), strict=True))
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), now - then, rtol=1e-12)
    np.testing.assert_allclose(squared_length([leaf]).item(), (now**2).sum() / 2, rtol=1e-12)


def maps_reference(now, then):
    """[N, C, H, W]: each filter's squared distance over its number of positions, halved; mean over rows."""
    total = 0.0
    for row_now, row_then in zip(now, then, strict=True):
        for filter_now, filter_then in zip(row_now, row_then, strict=True):
            total += np.linalg.norm(filter_now - filter_then) ** 2 / filter_now.size / 2
    return total / len(now)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_feature_map_distance_and_its_gradient_are_those_of_a_loop_over_filters(seed, rows, filters, side):
    now, then = np.random.default_rng(seed).normal(size=(2, rows, filters, side, side + 1))
    leaf = torch.tensor(now, requires_grad=True)
    loss = feature_map_distance(leaf, torch.tensor(then))
    loss.backward()
    slope = numeric_gradient(lambda maps: maps_reference(maps, then), now)
    np.testing.assert_allclose(loss.item(), maps_reference(now, then), rtol=1e-10)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


def test_rows_have_one_position_and_tokens_as_many_as_there_are():
    rows, tokens = torch.ones(2, 4), torch.ones(2, 7, 4)
    assert feature_map_distance(rows, 2 * rows) == feature_map_distance(tokens, 2 * tokens) == 4 / 2


def test_padding_of_texts_is_no_position():
    now = torch.ones(2, 4, 3)
    now[1, 2:] = 0  # a text of two tokens
    reference = 2 * now
    assert feature_map_distance(now, reference) == 3 / 2
    assert feature_map_distance(now[:, :3], reference[:, :3]) == 3 / 2


def weakest_reference(features, num_values):
    """By the eigenvalues of the smaller Gram matrix, which are the squares of the singular values."""
    small = features.T if len(features) > features.shape[1] else features
    return np.linalg.eigvalsh(small @ small.T)[:num_values].sum()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 6), st.integers(2, 6), st.integers(1, 2))
def test_spectral_shrinkage_and_its_gradient_are_those_of_the_smallest_eigenvalues(seed, rows, width, num_values):
    features = np.random.default_rng(seed).normal(size=(rows, width))
    leaf = torch.tensor(features, requires_grad=True)
    loss = spectral_shrinkage(leaf, num_values=num_values)
    loss.backward()
    slope = numeric_gradient(lambda at: weakest_reference(at, num_values), features)
    np.testing.assert_allclose(loss.item(), weakest_reference(features, num_values), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-4, atol=1e-6)


def test_features_with_an_empty_direction_have_no_gradient():
    features = torch.eye(4)[:, :3].clone().requires_grad_()
    loss = spectral_shrinkage(features * torch.tensor([1.0, 1.0, 0.0]), num_values=1)
    loss.backward()
    assert loss.item() == 0
    assert_close(features.grad, torch.zeros(4, 3))


def test_more_singular_values_than_the_batch_has_are_refused():
    with pytest.raises(InvalidInput, match=r"bss.num_values=4 does not fit a batch of 3 rows .* choose 1..3"):
        spectral_shrinkage(torch.eye(3, 5), num_values=4)


def test_l2_sp_pulls_the_stages_that_train_to_their_start_and_the_head_to_zero():
    model = network(freeze_depth=1)
    start = {name: value.clone() for name, value in model.backbone.named_parameters()}
    regulariser = REGULARISERS.create("l2_sp", {"alpha": 0.3, "beta": 0.07})
    regulariser.attach(model)
    regulariser.loss(moved(model), passed(model)[1]).backward()
    for name, value in model.backbone.named_parameters():
        expected = None if name.startswith("stages.0") else 0.3 * (value.detach() - start[name])
        assert_close(value.grad, expected)
    assert_close(model.head.weight.grad, 0.07 * model.head.weight.detach())


def test_delta_compares_every_stage_that_trains_with_the_network_of_the_start():
    model, before = network(freeze_depth=1), network()
    regulariser = REGULARISERS.create("delta", {"alpha": 0.3, "beta": 0.07})
    regulariser.attach(model)
    images, now = passed(moved(model))
    found = regulariser.loss(model, now)
    expected, was, x = 0.0, before.backbone.entry(images), model.backbone.entry(images)
    for stage_before, stage in zip(before.backbone.stages, model.backbone.stages, strict=True):
        was, x = stage_before(was), stage(x)
        maps = [part.detach().numpy().reshape(*part.shape[:2], -1) for part in (x, was)]
        expected += 0.3 * maps_reference(*maps)
    head = sum((value**2).sum().item() / 2 for value in model.head.parameters())
    np.testing.assert_allclose(found.item(), expected + 0.07 * head, rtol=1e-10)


def test_delta_with_attention_weighs_each_filter():
    model, before = network(freeze_depth=1), network()
    regulariser = REGULARISERS.create("delta", {"alpha": 0.3, "beta": 0.0})
    regulariser.attach(model)
    labels = torch.arange(30) % 3
    rows = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    regulariser.examine(model, rows, labels, torch.device("cpu"))
    weights = attention_of_stages(before.backbone, rows, labels, torch.device("cpu"))
    images, now = passed(moved(model))
    expected, was, x = 0.0, before.backbone.entry(images), model.backbone.entry(images)
    for number, weight in enumerate(weights):
        was, x = before.backbone.stages[number](was), model.backbone.stages[number](x)
        for filter_, share in enumerate(weight.tolist()):  # mean over rows and positions of one filter
            expected += 0.3 * share * (x[:, filter_] - was[:, filter_]).square().mean().item() / 2
    assert regulariser.loss(model, now).item() == pytest.approx(expected, rel=1e-10)
    assert all(weight.std() > 0 for weight in weights[1:])


def test_trials_with_delta_examine_their_source_unless_told_otherwise():
    losses = {}
    for attention in (True, False):
        config = tiny_config(regulariser={"delta": {"alpha": 10.0, "attention": attention}}, epochs=1)
        losses[attention] = TrialRun(config, tiny_data(), RULE).epoch(0).losses["regulariser"]
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.5)


def test_where_no_stage_ever_trains_delta_examines_nothing():
    found = {
        depth: TrialRun(tiny_config(regulariser="delta", freeze_depth=depth), tiny_data(), RULE).task.regulariser
        for depth in (1, "head_only")
    }
    assert (len(found[1]._attention), len(found["head_only"]._attention)) == (3, 0)


def test_delta_leaves_running_statistics_and_the_mode_of_the_network_as_they_are():
    model = network(freeze_depth=1)
    regulariser = REGULARISERS.create("delta", {})
    regulariser.attach(model)
    _, now = passed(model.train())
    before = {name: value.clone() for name, value in model.named_buffers()}
    regulariser.loss(model, now)
    assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    assert [stage.training for stage in model.backbone.stages] == [False, True, True]


@pytest.mark.parametrize(("both", "first"), [("l2_sp_bss", "l2_sp"), ("delta_bss", "delta")])
def test_a_combination_is_the_sum_of_its_parts(both, first):
    model = network()
    losses = {}
    for name, params in {both: {"eta": 0.5}, first: {}, "bss": {"eta": 0.5}}.items():
        regulariser = REGULARISERS.create(name, params)
        regulariser.attach(model)
        losses[name] = regulariser.loss(model, passed(model)[1]).item()
    assert losses[both] == pytest.approx(losses[first] + losses["bss"])


@pytest.mark.parametrize("name", ["l2_sp", "delta"])
def test_the_start_is_in_no_checkpoint(name):
    plain, held = (TrialRun(tiny_config(regulariser=name), tiny_data(), RULE).task for name in ("none", name))
    assert held.state_dict().keys() == plain.state_dict().keys()


def test_the_regularisers_loss_counts_fully_and_is_not_taken_for_adaptation():
    run = TrialRun(tiny_config(regulariser={"l2_sp": {"beta": 1.0}}, epochs=1), tiny_data(), RULE)
    report = run.epoch(0)
    assert report.losses["regulariser"] > 0
    assert report.weights["regulariser"] == 1
    assert report.health["gradient_regulariser"] > 0
    assert "gradient_ratio" not in report.health


def test_a_strong_pull_keeps_the_network_where_it_was():
    run = TrialRun(tiny_config(regulariser={"l2_sp": {"alpha": 1e4}}, optimizer="sgd"), tiny_data(), RULE)
    free = TrialRun(tiny_config(optimizer="sgd"), tiny_data(), RULE)
    name = "model.backbone.stages.0.0.weight"
    start = run.task.get_parameter(name).detach().clone()
    for trial in (run, free):
        trial.epoch(0)
    distances = [(trial.task.get_parameter(name) - start).norm() for trial in (run, free)]
    assert distances[0] < distances[1]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("l2_sp", {"alpha": -1.0}, r"l2_sp.alpha=-1.0 must be a finite number of at least 0"),
        ("delta", {"beta": float("inf")}, r"delta.beta=inf must be a finite number"),
        ("bss", {"eta": -0.1}, r"bss.eta=-0.1 must be"),
        ("bss", {"num_values": 0}, r"bss.num_values=0 suppresses nothing; choose 1 or more"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(name, params, message):
    with pytest.raises(InvalidInput, match=message):
        REGULARISERS.create(name, params)


def test_l2_sp_has_nothing_to_hold_where_weights_are_kept():
    config = tiny_config(regulariser="l2_sp_bss", parameter_efficient="lora")
    with pytest.raises(
        InvalidInput, match="where parameter_efficient=lora keeps them anyway; choose bss, delta or none"
    ):
        TrialRun(config, tiny_data(), RULE)


def test_more_singular_values_than_features_are_refused_before_the_first_step():
    with pytest.raises(InvalidInput, match=r"bss.num_values=9 is more than the 8 features have directions"):
        TrialRun(tiny_config(regulariser={"bss": {"num_values": 9}}), tiny_data(), RULE)
