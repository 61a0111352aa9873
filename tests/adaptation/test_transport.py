import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.transport import joint_transport_cost
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

LARGEST_BF16 = torch.finfo(torch.bfloat16).max

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
weights = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))


def draw(seed, num_source, num_target, num_classes, width=3):
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (num_source, width)), random.normal(0.5, 1, (num_target, width))
    return *features, random.normal(0, 2, (num_target, num_classes)), random.integers(num_classes, size=num_source)


def log_softmax(row):
    return [logit - math.log(sum(math.exp(other) for other in row)) for logit in row]


def pair_costs(source, target, logits, labels, feature_weight, label_weight):
    def cost(x, label, y, row):
        return feature_weight * np.sum((x - y) ** 2) - label_weight * log_softmax(row)[label]

    theirs = list(zip(target, logits, strict=True))
    return np.array([[cost(x, label, y, row) for y, row in theirs] for x, label in zip(source, labels, strict=True)])


def least_cost(costs):
    """Transport between uniform weights is an assignment once every row and column is split into equal parts."""
    num_source, num_target = costs.shape
    split = costs.repeat(num_target, axis=0).repeat(num_source, axis=1)
    return split[linear_sum_assignment(split)].mean()


def transport_cost(source, target, logits, labels, feature_weight, label_weight):
    return joint_transport_cost(
        source, target, logits, labels=labels, feature_weight=feature_weight, label_weight=label_weight
    )


@settings(max_examples=20, deadline=None)
@given(batches, weights)
def test_cost_is_that_of_the_best_assignment(batch, both_weights):
    arrays = draw(*batch)
    found = transport_cost(*map(torch.tensor, arrays), *both_weights).item()
    np.testing.assert_allclose(found, least_cost(pair_costs(*arrays, *both_weights)), rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(batches, weights, st.integers(0, 2))
def test_gradient_is_the_slope_of_the_least_cost(batch, both_weights, position):
    *arrays, labels = draw(*batch)
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    transport_cost(*tensors, torch.tensor(labels), *both_weights).backward()

    def at(value):
        changed = *arrays[:position], value, *arrays[position + 1 :]
        return least_cost(pair_costs(*changed, labels, *both_weights))

    expected = numeric_gradient(at, arrays[position])
    np.testing.assert_allclose(tensors[position].grad.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_a_shuffled_copy_with_sure_predictions_costs_nothing():
    random = np.random.default_rng(0)
    source, labels, order = random.normal(size=(7, 3)), random.integers(4, size=7), random.permutation(7)
    logits = torch.nn.functional.one_hot(torch.tensor(labels[order]), 4) * 1e3
    cost = transport_cost(*map(torch.tensor, (source, source[order])), logits, torch.tensor(labels), 0.1, 0.1)
    assert cost.item() == 0


@pytest.mark.parametrize(("label_weight", "partner"), [(0.01, 0), (100.0, 1)])
def test_labels_that_weigh_enough_are_followed_across_a_distance(label_weight, partner):
    target = torch.tensor([[0.0], [1.0]], requires_grad=True)
    logits, labels = torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([0, 1])
    source = torch.tensor([[0.1], [1.2]])
    transport_cost(source, target, logits, labels, 1.0, label_weight).backward()
    expected = target.detach() - source[[partner, 1 - partner]]
    assert_close(target.grad, expected)


@pytest.mark.parametrize("unit", [1e-18, 1e-6, 1e9])
def test_the_plan_does_not_depend_on_the_unit_of_the_cost(unit):
    arrays = draw(0, 8, 8, 3)
    expected = least_cost(pair_costs(*arrays, 1.0, 0.5)) * unit
    found = transport_cost(*map(torch.tensor, arrays), unit, 0.5 * unit).item()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_constant_features_and_predictions_cost_the_entropy_of_a_uniform_prediction():
    source, target = torch.ones(3, 2, requires_grad=True), torch.ones(5, 2)
    cost = transport_cost(source, target, torch.zeros(5, 4), torch.tensor([0, 3, 3]), 1.0, 1.0)
    cost.backward()
    assert cost.item() == pytest.approx(math.log(4), rel=1e-6)
    assert_close(source.grad, torch.zeros(3, 2), rtol=0, atol=0)


@pytest.mark.parametrize("largest", [1e4, LARGEST_BF16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_at_both_ends_of_the_range_give_a_finite_cost_and_gradient(largest, dtype):
    logits = torch.tensor([[largest, -largest], [-largest, largest]], dtype=dtype, requires_grad=True)
    features = torch.tensor([[0.0], [1.0]], dtype=dtype)
    cost = transport_cost(features, features, logits, torch.tensor([0, 0]), 0.001, 0.0001)
    cost.backward()
    assert cost.isfinite()
    assert logits.grad.isfinite().all()


def test_features_that_are_not_finite_give_a_cost_that_is_not_finite_instead_of_a_plan():
    source = torch.tensor([[math.nan], [1.0]])
    cost = transport_cost(source, torch.zeros(2, 1), torch.zeros(2, 2), torch.tensor([0, 1]), 0.1, 0.1)
    assert not cost.isfinite()


def test_half_precision_under_autocast_is_compared_in_float32():
    source, target, logits = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8) % 4
    with torch.autocast("cpu", torch.bfloat16):
        found = transport_cost(source, target, logits, labels, 0.1, 0.1)
    expected = transport_cost(source.double(), target.double(), logits.double(), labels, 0.1, 0.1)
    assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("field", "usual"), [("feature_weight", 0.001), ("label_weight", 0.0001)])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_weight_that_is_not_above_zero_is_refused(field, usual, value):
    with pytest.raises(InvalidInput, match=rf"deepjdot.{field}={value} must be a finite number above 0; {usual} is"):
        METHODS.create("deepjdot", {field: value}, MethodContext(3, 2))
