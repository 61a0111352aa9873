import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation.alignment import coral_distance, mean_distance, mmd_distance
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

DISTANCES = [coral_distance, mmd_distance]
seeds = st.integers(0, 2**32 - 1)
rows = st.integers(2, 6)
widths = st.integers(1, 4)


def features(seed, num_rows, width, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, (num_rows, width))


def coral_reference(source, target):
    difference = np.atleast_2d(np.cov(source.T)) - np.atleast_2d(np.cov(target.T))
    return sum(entry**2 for entry in difference.flat) / (4 * source.shape[1] ** 2)


def mean_squared_distance(joint):
    pairs = [(i, j) for i in range(len(joint)) for j in range(len(joint)) if i != j]
    return np.mean([np.sum((joint[i] - joint[j]) ** 2) for i, j in pairs])


def mmd_reference(source, target, variance):
    def kernel(x, y):
        return sum(np.exp(-np.sum((x - y) ** 2) / (2 * variance * 2.0**power)) for power in range(-3, 2))

    def within(domain):
        return np.mean([kernel(x, y) for i, x in enumerate(domain) for j, y in enumerate(domain) if i != j])

    return within(source) + within(target) - 2 * np.mean([kernel(x, y) for x in source for y in target])


def gradient(distance, source, target, **parameters):
    leaf = torch.tensor(source, requires_grad=True)
    distance(leaf, torch.tensor(target), **parameters).backward()
    return leaf.grad.numpy()


@settings(max_examples=25, deadline=None)
@given(seeds, rows, rows, widths)
def test_coral_is_the_distance_of_numpy_covariances(seed, num_source, num_target, width):
    source, target = features(seed, num_source, width), features(seed + 1, num_target, width, shift=0.5)
    found = coral_distance(torch.tensor(source), torch.tensor(target)).item()
    np.testing.assert_allclose(found, coral_reference(source, target), rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, rows, rows, widths)
def test_coral_gradient_is_the_slope_of_the_reference(seed, num_source, num_target, width):
    source, target = features(seed, num_source, width), features(seed + 1, num_target, width)
    expected = numeric_gradient(lambda x: coral_reference(x, target), source)
    np.testing.assert_allclose(gradient(coral_distance, source, target), expected, rtol=1e-5, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds, rows, rows, widths, st.floats(0.25, 4))
def test_mmd_is_the_mean_over_different_rows_of_summed_kernels(seed, num_source, num_target, width, bandwidth):
    source, target = features(seed, num_source, width), features(seed + 1, num_target, width, shift=0.5)
    variance = bandwidth * mean_squared_distance(np.concatenate([source, target]))
    found = mmd_distance(torch.tensor(source), torch.tensor(target), bandwidth=bandwidth).item()
    np.testing.assert_allclose(found, mmd_reference(source, target, variance), rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, rows, rows, widths)
def test_mmd_gradient_is_the_slope_of_the_reference_at_fixed_bandwidth(seed, num_source, num_target, width):
    source, target = features(seed, num_source, width), features(seed + 1, num_target, width)
    variance = mean_squared_distance(np.concatenate([source, target]))
    expected = numeric_gradient(lambda x: mmd_reference(x, target, variance), source)
    np.testing.assert_allclose(gradient(mmd_distance, source, target), expected, rtol=1e-5, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 6), widths)
def test_distance_of_means_and_its_gradient_are_those_of_the_linear_kernel(seed, num_source, num_target, width):
    source, target = features(seed, num_source, width), features(seed + 1, num_target, width, shift=0.5)

    def reference(rows):  # E k(x, x') + E k(y, y') - 2 E k(x, y) over all pairs, with k the inner product
        pairs = [(rows, rows, 1), (target, target, 1), (rows, target, -2)]
        return sum(sign * np.mean([x @ y for x in left for y in right]) for left, right, sign in pairs)

    found = mean_distance(torch.tensor(source), torch.tensor(target)).item()
    np.testing.assert_allclose(found, reference(source), rtol=1e-9, atol=1e-12)
    expected = numeric_gradient(reference, source)
    np.testing.assert_allclose(gradient(mean_distance, source, target), expected, rtol=1e-5, atol=1e-8)


def test_mmd_of_one_distribution_is_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    draws = [mmd_distance(*torch.randn(2, 8, 3, generator=generator)) for _ in range(400)]
    standard_error = torch.stack(draws).std() / 20
    assert abs(torch.stack(draws).mean()) < 4 * standard_error
    assert min(draws) < 0


@pytest.mark.parametrize("distance", [*DISTANCES, mean_distance])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_constant_features_are_at_distance_zero_with_gradient_zero(distance, offset):
    source = torch.full((4, 3), offset, requires_grad=True)
    value = distance(source, torch.full((5, 3), offset))
    value.backward()
    assert value.item() == 0
    assert_close(source.grad, torch.zeros(4, 3), rtol=0, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_coinciding_rows_among_others_have_a_finite_gradient(distance):
    source = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    distance(source, torch.tensor([[1.0, 2.0], [3.0, 1.0]])).backward()
    assert source.grad.isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("num_source", "num_target", "domain"), [(1, 4, "source"), (4, 1, "target")])
def test_a_domain_of_one_row_is_refused(distance, num_source, num_target, domain):
    with pytest.raises(InvalidInput, match=rf"{domain} batch of 1 rows is too small; choose 2 or more for batch_size"):
        distance(torch.zeros(num_source, 3), torch.zeros(num_target, 3))


@pytest.mark.parametrize("distance", DISTANCES)
def test_features_of_different_width_are_refused(distance):
    with pytest.raises(InvalidInput, match=r"source features of width 3 can't be compared .* width 4"):
        distance(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_features_under_autocast_are_compared_in_float32(distance):
    source, target = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = distance(source, target)
    assert_close(found.double(), distance(source.double(), target.double()), rtol=1e-5, atol=1e-6)


def test_coral_in_float32_survives_a_mean_far_from_zero():
    source = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) + 1000
    target = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)) - 1000
    expected = coral_reference(source.double().numpy(), target.double().numpy())
    np.testing.assert_allclose(coral_distance(source, target).item(), expected, rtol=1e-3)


def test_mmd_in_float32_does_not_depend_on_where_the_features_lie():
    source, target = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)) + 1000
    joint = torch.cat([source, target]).double().numpy()
    expected = mmd_reference(joint[:8], joint[8:], mean_squared_distance(joint))
    np.testing.assert_allclose(mmd_distance(source, target).item(), expected, rtol=1e-4, atol=1e-5)
