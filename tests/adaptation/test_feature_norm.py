import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.feature_norm import hard_norm_loss, stepwise_norm_loss
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

LOSSES = [stepwise_norm_loss, hard_norm_loss]

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))


def draw(seed, num_source, num_target, width):
    random = np.random.default_rng(seed)
    return random.normal(0, 2, (num_source, width)), random.normal(1, 2, (num_target, width))


def norms_of(rows):
    return [math.sqrt(sum(entry**2 for entry in row)) for row in rows]


def stepwise_reference(rows, norms_before, step):
    return np.mean([(after - (before + step)) ** 2 for after, before in zip(norms_of(rows), norms_before, strict=True)])


def hard_reference(source, target, radius):
    return (np.mean(norms_of(source)) - radius) ** 2 + (np.mean(norms_of(target)) - radius) ** 2


@settings(max_examples=20, deadline=None)
@given(batches, st.floats(0.1, 3))
def test_stepwise_loss_is_the_squared_step_and_its_gradient_that_of_norms_held_back(batch, step):
    source, target = draw(*batch)
    joint = np.concatenate([source, target])
    leaf = torch.tensor(joint, requires_grad=True)
    loss = stepwise_norm_loss(leaf[: len(source)], leaf[len(source) :], step=step)
    loss.backward()
    slope = numeric_gradient(lambda rows: stepwise_reference(rows, norms_of(joint), step), joint)
    np.testing.assert_allclose(loss.item(), step**2, rtol=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(batches, st.floats(1, 30))
def test_hard_loss_and_gradient_are_those_of_mean_norms(batch, radius):
    source, target = draw(*batch)
    leaf = torch.tensor(source, requires_grad=True)
    loss = hard_norm_loss(leaf, torch.tensor(target), radius=radius)
    loss.backward()
    slope = numeric_gradient(lambda rows: hard_reference(rows, target, radius), source)
    np.testing.assert_allclose(loss.item(), hard_reference(source, target, radius), rtol=1e-9)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(batches)
def test_hard_loss_treats_both_domains_alike(batch):
    source, target = map(torch.tensor, draw(*batch))
    assert_close(hard_norm_loss(source, target), hard_norm_loss(target, source), rtol=1e-12, atol=0)


def test_a_small_descent_step_lengthens_every_feature_without_turning_it():
    source, target = (torch.tensor(rows, requires_grad=True) for rows in draw(0, 3, 5, 4))
    stepwise_norm_loss(source, target, step=1.0).backward()
    moved = target - target.grad
    assert_close(moved.norm(dim=1) - target.norm(dim=1), torch.full((5,), 2 / 8, dtype=torch.float64))
    assert_close(torch.cosine_similarity(moved, target), torch.ones(5, dtype=torch.float64))


def test_a_step_is_not_lost_beside_a_long_feature():
    source = torch.full((1, 4), 1e10, requires_grad=True)
    loss = stepwise_norm_loss(source, source.detach(), step=0.5)
    loss.backward()
    assert loss.item() == 0.25
    assert_close(source.grad, torch.full((1, 4), -0.25))


@pytest.mark.parametrize("loss", LOSSES)
def test_features_of_zeros_give_a_finite_loss_and_gradient_zero(loss):
    source, target = torch.zeros(3, 4, requires_grad=True), torch.ones(2, 4)
    value = loss(source, target)
    value.backward()
    assert value.isfinite()
    assert_close(source.grad, torch.zeros(3, 4), rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_one_tiny_or_huge_feature_a_domain_has_a_finite_loss_and_gradient(loss, size):
    source = torch.full((1, 4), size, requires_grad=True)
    value = loss(source, -source)
    value.backward()
    assert value.isfinite()
    assert source.grad.isfinite().all()


def test_half_precision_features_under_autocast_are_measured_in_float32():
    source, target = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = hard_norm_loss(source, target)
    assert_close(found.double(), hard_norm_loss(source.double(), target.double()), rtol=1e-5, atol=0)


def test_afn_by_default_pulls_as_the_paper_does_at_its_weight_of_one_twentieth():
    source, target = (torch.tensor(rows).requires_grad_() for rows in draw(0, 6, 6, 4))
    outputs = {"source": Outputs(source, source), "target": Outputs(target, target)}
    METHODS.create("afn", {}, None).losses(StepOutputs(outputs, torch.zeros(6).long(), 0.5))["domain"].backward()
    directions = source.detach() / source.detach().norm(dim=1, keepdim=True)
    assert_close(source.grad, 0.05 * -2 * directions / 6)


def test_hafn_pulls_as_strongly_as_is_asked_and_by_default_as_in_the_paper():
    source, target = (torch.tensor(rows) for rows in draw(0, 6, 5, 4))
    outputs = {"source": Outputs(source, source), "target": Outputs(target, target)}
    whole = hard_norm_loss(source, target, radius=7.0)
    for values, share in (({}, 0.05), ({"strength": 0.5}, 0.5)):
        method = METHODS.create("hafn", {"radius": 7.0, **values}, None)
        assert_close(method.losses(StepOutputs(outputs, torch.zeros(6).long(), 0.5))["domain"], share * whole)


@pytest.mark.parametrize(
    ("name", "field", "usual"), [("afn", "step", 0.1), ("hafn", "radius", 25.0), ("hafn", "strength", 0.05)]
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_a_length_that_is_not_above_zero_is_refused(name, field, usual, value):
    with pytest.raises(
        InvalidInput, match=rf"{name}.{field}={value} must be a finite number above 0; {usual} is usual"
    ):
        METHODS.create(name, {field: value}, MethodContext(3, 2))
