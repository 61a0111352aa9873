import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation.adversarial import Dann, domain_classification_loss, reverse_gradient
from ray_tl.adaptation.method import MethodContext, Outputs, StepOutputs
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient


def cross_entropy_reference(source, target):
    of_source = np.mean([-math.log(1 / (1 + math.exp(-logit))) for logit in source])
    of_target = np.mean([-math.log(1 - 1 / (1 + math.exp(-logit))) for logit in target])
    return (of_source + of_target) / 2


def discriminator_logits(dann, features):
    weights = [parameter.detach().numpy() for parameter in dann.discriminator.parameters()]
    for matrix, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        features = np.maximum(features @ matrix.T + bias, 0)
    return (features @ weights[4].T + weights[5])[:, 0]


def domain_loss(dann, source, target, progress):
    labels = torch.zeros(len(source), dtype=torch.int64)
    views = {name: Outputs(rows, torch.zeros(len(rows), 2)) for name, rows in (("source", source), ("target", target))}
    return dann.losses(StepOutputs(views, labels, progress))["domain"]


@pytest.fixture
def dann():
    torch.manual_seed(0)
    return Dann(MethodContext(feature_dim=3, num_classes=2), hidden_width=5, gamma=10.0).double()


@pytest.fixture
def source():
    return torch.tensor(np.random.default_rng(1).normal(size=(4, 3)), requires_grad=True)


@pytest.fixture
def target():
    return torch.tensor(np.random.default_rng(2).normal(size=(6, 3)), requires_grad=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_domain_loss_and_gradient_are_those_of_binary_cross_entropy(seed, num_source, num_target):
    random = np.random.default_rng(seed)
    source, target = random.normal(0, 2, num_source), random.normal(0, 2, num_target)
    leaf = torch.tensor(source, requires_grad=True)
    loss = domain_classification_loss(leaf, torch.tensor(target))
    loss.backward()
    np.testing.assert_allclose(loss.item(), cross_entropy_reference(source, target), rtol=1e-9)
    slope = numeric_gradient(lambda x: cross_entropy_reference(x, target), source)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


def test_reversal_keeps_values_and_turns_gradients_round():
    features = torch.tensor([1.0, -2.0], requires_grad=True)
    reversed_features = reverse_gradient(features, 0.25)
    (reversed_features * torch.tensor([4.0, 8.0])).sum().backward()
    assert_close(reversed_features, features, rtol=0, atol=0)
    assert_close(features.grad, torch.tensor([-1.0, -2.0]), rtol=0, atol=0)


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.3, 1.0])
def test_features_feel_the_reversed_slope_at_the_strength_of_the_progress(dann, source, target, progress):
    def reference(features):
        logits = discriminator_logits(dann, features)
        return cross_entropy_reference(logits[:4], logits[4:])

    domain_loss(dann, source, target, progress).backward()
    slope = numeric_gradient(reference, torch.cat([source, target]).detach().numpy())
    strength = 2 / (1 + math.exp(-10 * progress)) - 1
    found = torch.cat([source.grad, target.grad]).numpy()
    np.testing.assert_allclose(found, -strength * slope, rtol=1e-5, atol=1e-9)


def test_discriminator_learns_at_full_strength_while_features_feel_nothing(dann, source, target):
    def reference(bias):
        shifted = discriminator_logits(dann, features) - dann.discriminator[4].bias.item() + bias[0]
        return cross_entropy_reference(shifted[:4], shifted[4:])

    features = torch.cat([source, target]).detach().numpy()
    domain_loss(dann, source, target, progress=0.0).backward()
    slope = numeric_gradient(reference, dann.discriminator[4].bias.detach().numpy())
    np.testing.assert_allclose(dann.discriminator[4].bias.grad.numpy(), slope, rtol=1e-5, atol=1e-9)
    assert abs(slope[0]) > 1e-3
    assert not source.grad.any()


def test_an_undecided_discriminator_loses_log_two_whatever_the_batch_sizes():
    loss = domain_classification_loss(torch.zeros(3), torch.zeros(11))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_a_sure_and_wrong_discriminator_in_half_precision_loses_a_finite_number():
    logits = torch.full((2,), -torch.finfo(torch.bfloat16).max / 4, dtype=torch.bfloat16, requires_grad=True)
    loss = domain_classification_loss(logits, -logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("field", "value"), [("gamma", 0.0), ("gamma", math.nan), ("hidden_width", 0)])
def test_a_parameter_out_of_range_is_named_with_rule_and_remedy(field, value):
    with pytest.raises(InvalidInput, match=rf"dann.{field}={value} must be a finite number above 0; .* is usual"):
        Dann(MethodContext(3, 2), **{field: value})
