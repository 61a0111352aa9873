"""Distances that every kernel and transport cost is made of."""

import pytest
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from ray_tl.adaptation.numerics import squared_distances


def rows_at(offset, shape=(2, 6, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_are_those_of_scipy_wherever_the_rows_lie(offset):
    rows, others = rows_at(offset).float()
    expected = torch.from_numpy(cdist(rows.double(), others[:4].double(), "sqeuclidean")).float()
    assert_close(squared_distances(rows, others[:4]), expected, rtol=1e-5, atol=1e-5)


def test_equal_rows_are_at_distance_zero_to_a_small_part_of_the_spread_and_never_below():
    rows, _ = rows_at(1e3, (2, 64, 256)).float()
    own = squared_distances(rows, rows).diagonal()
    assert (own >= 0).all()
    assert own.max() < 1e-5 * squared_distances(rows, rows).mean()


def test_gradients_are_those_of_the_differences():
    rows, others = rows_at(10.0).requires_grad_()
    weights = rows_at(0.0, (6, 6))
    (found,) = torch.autograd.grad((weights * squared_distances(rows, others)).sum(), rows)
    (expected,) = torch.autograd.grad((weights * (rows[:, None] - others).square().sum(dim=2)).sum(), rows)
    assert_close(found, expected)
