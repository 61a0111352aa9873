import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from ray_tl.adaptation.method import MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.reconstruction import Drcn, pooled_inputs, reconstruction_loss, token_counts
from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from tests.gloo import run_on_ranks
from tests.numeric import numeric_gradient

ROWS, FEATURES = 8, 3
FLOOR = 1e-5
seeds = st.integers(0, 2**32 - 1)


def window(index, size, parts):
    """Rows of adaptive pooling: from the floor to the ceiling of an even division."""
    return range(math.floor(index * size / parts), math.ceil((index + 1) * size / parts))


def pooled_map(example):
    _, height, width = example.shape
    grey = example.mean(axis=0)
    return [
        np.mean([grey[row, column] for row in window(i, height, 8) for column in window(j, width, 8)])
        for i in range(8)
        for j in range(8)
    ]


def pooled_row(example):
    numbers = example.ravel()
    return [np.mean([numbers[place] for place in window(i, len(numbers), 64)]) for i in range(64)]


def standardised(pooled):
    pooled = np.array(pooled)
    return (pooled - pooled.mean()) / np.sqrt(pooled.var() + FLOOR)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_images_and_maps_are_pooled_to_eight_by_eight(seed, rows, channels, height, width):
    inputs = np.random.default_rng(seed).normal(2, 3, (rows, channels, height, width))
    expected = standardised([pooled_map(example) for example in inputs])
    np.testing.assert_allclose(pooled_inputs(torch.tensor(inputs)).numpy(), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4), st.sampled_from([(1,), (5,), (64,), (200,), (7, 12)]))
def test_vectors_and_tokens_are_pooled_to_sixty_four(seed, rows, shape):
    inputs = np.random.default_rng(seed).normal(2, 3, (rows, *shape))
    expected = standardised([pooled_row(example) for example in inputs])
    np.testing.assert_allclose(pooled_inputs(torch.tensor(inputs)).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_inputs_that_do_not_vary_give_zero(value):
    wanted = pooled_inputs(torch.full((3, 2, 10, 10), value))
    assert_close(wanted, torch.zeros(3, 64), rtol=0, atol=1e-6)


def test_the_scale_of_the_inputs_does_not_matter():
    inputs = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(pooled_inputs(100 * inputs + 7), pooled_inputs(10 * inputs), rtol=1e-3, atol=1e-6)


def test_half_precision_inputs_are_pooled_in_float32():
    inputs = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled_inputs(inputs)
    assert_close(found.double(), pooled_inputs(inputs.double()), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 3))
def test_loss_and_gradient_are_those_of_the_mean_squared_error(seed, rows):
    restored, wanted = np.random.default_rng(seed).normal(size=(2, rows, 64))

    def reference(at):
        return sum((a - b) ** 2 for a, b in zip(at.flat, wanted.flat, strict=True)) / wanted.size

    leaf = torch.tensor(restored, requires_grad=True)
    loss = reconstruction_loss(leaf, torch.tensor(wanted))
    loss.backward()
    assert loss.item() == pytest.approx(reference(restored), rel=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric_gradient(reference, restored), rtol=1e-5, atol=1e-9)


def step_of(source, target, inputs):
    views = {"source": Outputs(source, source), "target": Outputs(target, target, inputs)}
    return StepOutputs(views, torch.arange(len(source)) % FEATURES, 0.5)


def test_the_loss_reaches_the_targets_features_and_the_decoder_but_not_the_source():
    torch.manual_seed(0)
    drcn = Drcn(MethodContext(FEATURES, 3), hidden_width=5)
    source, target = (torch.randn(ROWS, FEATURES, requires_grad=True) for _ in range(2))
    drcn.losses(step_of(source, target, torch.randn(ROWS, 1, 8, 8)))["reconstruction"].backward()
    assert (target.grad.abs().amax(dim=1) > 0).all()
    assert source.grad is None
    assert all(parameter.grad.abs().max() > 0 for parameter in drcn.decoder.parameters())


def test_the_decoder_learns_to_restore_inputs_that_the_features_tell():
    torch.manual_seed(0)
    drcn, features = Drcn(MethodContext(FEATURES, 3)), torch.randn(ROWS, FEATURES)
    step = step_of(features, features, features @ torch.randn(FEATURES, 100))
    optimizer = torch.optim.Adam(drcn.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = drcn.losses(step)["reconstruction"]
        loss.backward()
        optimizer.step()
    assert loss < 0.05  # predicting the mean gives 1


class Task(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(16, FEATURES)
        self.method = Drcn(MethodContext(FEATURES, 3), hidden_width=5)

    def forward(self, source, target):
        losses = self.method.losses(step_of(self.backbone(source.flatten(1)), self.backbone(target.flatten(1)), target))
        return losses["reconstruction"] + 0 * losses["task"]


def gradients():
    torch.manual_seed(0)
    task = Task().double()
    source, target = torch.randn(2, ROWS, 1, 4, 4, dtype=torch.float64).cumsum(dim=1)
    wrapped = DistributedDataParallel(task) if world_size() > 1 else task
    wrapped(*(part.chunk(world_size())[rank()] for part in (source, target))).backward()
    return {name: parameter.grad for name, parameter in task.named_parameters()}


def test_gradients_on_two_ranks_are_those_of_the_joined_batch():
    expected = gradients()
    for found in run_on_ranks(gradients, 2):
        assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_a_hidden_width_below_one_is_refused():
    with pytest.raises(InvalidInput, match=r"drcn.hidden_width=0 must be a finite number above 0; 256 is usual"):
        Drcn(MethodContext(FEATURES, 3), hidden_width=0)


def test_tokens_of_a_text_are_counted_in_64_bins():
    tokens = torch.tensor([[2, 66, 70, 3, -1, -1], [5, 5, -1 - 7, 64, 128, -1]], dtype=torch.int32)
    expected = np.zeros((2, 64), int)
    for row, number in [(0, 2), (0, 66), (0, 70), (0, 3), (1, 5), (1, 5), (1, 64), (1, 128)]:
        expected[row, number % 64] += 1
    np.testing.assert_array_equal(token_counts(tokens), expected)
