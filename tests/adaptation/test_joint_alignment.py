import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.alignment import joint_mmd_distance, mmd_distance
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

LARGEST_BF16 = torch.finfo(torch.bfloat16).max

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 5), st.integers(1, 3))


def draw(seed, num_source, num_target, num_classes, width=3):
    """Features and logits of both domains, in the order in which the distance takes them."""
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (num_source, width)), random.normal(0.5, 1, (num_target, width))
    return *features, random.normal(0, 2, (num_source, num_classes)), random.normal(0, 2, (num_target, num_classes))


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return np.array([value / sum(exponentials) for value in exponentials])


def variance_of(source, target):
    rows = [*source, *target]
    pairs = [(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    return np.mean([np.sum((x - y) ** 2) for x, y in pairs])


def reference(source, target, source_logits, target_logits, variance):
    def kernel(left, right):
        (x, p), (y, q) = left, right
        of_features = sum(np.exp(-np.sum((x - y) ** 2) / (2 * variance * 2.0**power)) for power in range(-3, 2))
        return of_features * np.exp(-np.sum((softmax(p) - softmax(q)) ** 2) / 1.68)

    def within(domain):
        return np.mean([kernel(x, y) for i, x in enumerate(domain) for j, y in enumerate(domain) if i != j])

    ours, theirs = list(zip(source, source_logits, strict=True)), list(zip(target, target_logits, strict=True))
    return within(ours) + within(theirs) - 2 * np.mean([kernel(x, y) for x in ours for y in theirs])


@settings(max_examples=20, deadline=None)
@given(batches, st.floats(0.25, 4))
def test_jan_is_the_mean_over_different_rows_of_products_of_kernels(batch, bandwidth):
    arrays = draw(*batch)
    found = joint_mmd_distance(*map(torch.tensor, arrays), bandwidth=bandwidth).item()
    expected = reference(*arrays, bandwidth * variance_of(*arrays[:2]))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(batches, st.integers(0, 3))
def test_jan_gradient_is_the_slope_of_the_reference_at_fixed_bandwidth(batch, position):
    arrays = draw(*batch)
    variance = variance_of(*arrays[:2])
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    joint_mmd_distance(*tensors).backward()

    def at(value):
        return reference(*arrays[:position], value, *arrays[position + 1 :], variance)

    expected = numeric_gradient(at, arrays[position])
    np.testing.assert_allclose(tensors[position].grad.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_jan_tells_domains_apart_that_pair_the_same_features_with_other_predictions():
    features, predictions = torch.tensor([[0.0], [1.0]] * 8), torch.tensor([[0.0, 5.0], [5.0, 0.0]] * 8)
    matched = joint_mmd_distance(features, features, predictions, predictions)
    swapped = joint_mmd_distance(features, features, predictions, predictions.flip(0))
    assert swapped > matched + 1
    assert_close(mmd_distance(predictions, predictions.flip(0)), mmd_distance(predictions, predictions))


def test_jan_with_one_class_is_the_distance_of_the_features():
    source, target, *logits = map(torch.tensor, draw(0, 5, 4, num_classes=1))
    expected = mmd_distance(source, target)
    assert_close(joint_mmd_distance(source, target, *logits), expected, rtol=1e-12, atol=0)


def test_jan_of_one_joint_distribution_is_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    draws = [joint_mmd_distance(*torch.randn(4, 8, 3, generator=generator)) for _ in range(400)]
    standard_error = torch.stack(draws).std() / 20
    assert abs(torch.stack(draws).mean()) < 4 * standard_error
    assert min(draws) < 0


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_coinciding_features_and_predictions_are_at_distance_zero_with_gradient_zero(offset):
    shapes = [(4, 3), (5, 3), (4, 2), (5, 2)]
    tensors = [torch.full(shape, offset, requires_grad=True) for shape in shapes]
    value = joint_mmd_distance(*tensors)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert not any(tensor.grad.any() for tensor in tensors)


@pytest.mark.parametrize("largest", [1e4, LARGEST_BF16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_at_both_ends_of_the_range_give_a_finite_distance_and_gradient(largest, dtype):
    logits = torch.tensor([[largest, -largest, 0.0], [-largest, largest, 0.0], [0.0, 1.0, 2.0]], dtype=dtype)
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    leaf = logits.requires_grad_()
    value = joint_mmd_distance(features, features + 1, leaf, leaf.flip(0))
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()


def test_half_precision_under_autocast_is_compared_in_float32():
    tensors = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = joint_mmd_distance(*tensors)
    assert_close(found.double(), joint_mmd_distance(*tensors.double()), rtol=1e-5, atol=1e-6)


def test_jan_in_float32_does_not_depend_on_where_the_features_lie():
    tensors = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0)) + 1000
    expected = joint_mmd_distance(*tensors.double()).item()
    np.testing.assert_allclose(joint_mmd_distance(*tensors).item(), expected, rtol=1e-3)


@pytest.mark.parametrize(("num_source", "num_target", "domain"), [(1, 4, "source"), (4, 1, "target")])
def test_a_domain_of_one_row_is_refused(num_source, num_target, domain):
    tensors = [torch.zeros(rows, 3) for rows in (num_source, num_target, num_source, num_target)]
    with pytest.raises(InvalidInput, match=rf"JAN: a {domain} batch of 1 rows is too small; choose 2 or more"):
        joint_mmd_distance(*tensors)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_bandwidth_that_is_not_above_zero_is_refused(value):
    with pytest.raises(InvalidInput, match=rf"jan.bandwidth={value} must be a finite number above 0; 1.0 is usual"):
        METHODS.create("jan", {"bandwidth": value}, MethodContext(3, 2))
