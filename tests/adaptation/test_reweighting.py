import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.reweighting import (
    MAX_MATCHED_ROWS,
    EntropyWeighting,
    ImportanceWeighting,
    KernelMeanMatching,
    importance_weights,
    kernel_matching_weights,
    weighted_task_loss,
)
from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from tests.gloo import run_on_ranks
from tests.numeric import numeric_gradient

NAMES = ["entropy_weighting", "importance_weighting", "kernel_mean_matching"]
RIDGE = 1e-3
ROWS = 16
seeds = st.integers(0, 2**32 - 1)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(0, 2, shape)


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return [value / sum(exponentials) for value in exponentials]


def weighted_reference(logits, weights, labels):
    terms = [-w * math.log(softmax(row)[label]) for row, w, label in zip(logits, weights, labels, strict=True)]
    return sum(terms) / len(terms)


def entropy_reference(logits):
    raw = [1 + math.exp(sum(p * math.log(p) for p in softmax(row))) for row in logits]
    return [weight * len(raw) / sum(raw) for weight in raw]


def ratio_reference(domain_logits, largest):
    raw = [min(largest, max(1 / largest, math.exp(-logit))) for logit in domain_logits]
    return [weight * len(raw) / sum(raw) for weight in raw]


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_task_loss_and_gradient_are_those_of_weighted_cross_entropy(seed, rows, classes):
    logits, weights = draw(seed, rows, classes), np.abs(draw(seed + 1, rows))
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = weighted_task_loss(leaf, torch.tensor(weights), labels=torch.tensor(labels))
    loss.backward()
    np.testing.assert_allclose(loss.item(), weighted_reference(logits, weights, labels), rtol=1e-9, atol=1e-12)
    slope = numeric_gradient(lambda at: weighted_reference(at, weights, labels), logits)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 6), st.floats(1.5, 50))
def test_importance_weights_are_clipped_odds_over_their_mean(seed, rows, largest):
    logits = draw(seed, rows)
    found = importance_weights(torch.tensor(logits), largest_ratio=largest).numpy()
    np.testing.assert_allclose(found, ratio_reference(logits, largest), rtol=1e-9)


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_classifier_that_is_alike_about_all_rows_weighs_them_alike(logit, dtype):
    assert_close(importance_weights(torch.full((5,), logit, dtype=dtype)), torch.ones(5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_extreme_logits_are_finite_of_mean_one_and_without_gradient(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        weights = importance_weights(logits[:, 0])
    assert weights.isfinite().all()
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert not weights.requires_grad


def matching_problem(source, target, bandwidth):
    """Curvature and pull of the quadratic programme, by double loops."""
    joint = np.concatenate([source, target])
    pairs = [(i, j) for i in range(len(joint)) for j in range(len(joint)) if i != j]
    variance = bandwidth * np.mean([np.sum((joint[i] - joint[j]) ** 2) for i, j in pairs])

    def kernel(x, y):
        return 1 + math.exp(-np.sum((x - y) ** 2) / (2 * variance))

    curvature = np.array([[kernel(x, y) for y in source] for x in source]) + RIDGE * np.eye(len(source))
    pull = np.array([len(source) * np.mean([kernel(x, y) for y in target]) for x in source]) + RIDGE
    return curvature, pull


def solved(curvature, pull, largest):
    """By sequential quadratic programming, which has nothing in common with the solver under test."""
    found = minimize(
        lambda b: b @ curvature @ b / 2 - pull @ b,
        np.full(len(pull), 0.5),
        jac=lambda b: curvature @ b - pull,
        method="SLSQP",
        bounds=[(0, largest)] * len(pull),
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    return found.x / found.x.mean()


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(1, 8), st.floats(0.25, 4), st.floats(1.5, 50))
def test_matching_weights_solve_the_quadratic_programme(seed, num_source, num_target, bandwidth, largest):
    source, target = draw(seed, num_source, 3), draw(seed + 1, num_target, 3) + 1
    found = kernel_matching_weights(source, target, bandwidth=bandwidth, largest_weight=largest)
    expected = solved(*matching_problem(source, target, bandwidth), largest)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.floats(1.5, 50))
def test_matching_weights_lie_in_their_range_and_have_mean_one(seed, num_source, num_target, largest):
    source, target = draw(seed, num_source, 3), draw(seed + 1, num_target, 3) + 1
    found = kernel_matching_weights(source, target, largest_weight=largest)
    assert found.min() >= 0
    assert found.max() <= 2 * largest
    assert found.mean() == pytest.approx(1, rel=1e-12)


def test_matching_recovers_the_ratio_of_two_known_densities():
    random = np.random.default_rng(0)
    source, target = random.normal(0, 1, (400, 1)), random.normal(0.7, 0.8, (400, 1))
    weights = kernel_matching_weights(source, target, bandwidth=0.2)
    moments = [np.average(source[:, 0] ** power, weights=weights) for power in (1, 2)]
    np.testing.assert_allclose(moments, [0.7, 0.7**2 + 0.8**2], atol=0.15)
    assert np.corrcoef(weights, np.exp((source**2 - ((source - 0.7) / 0.8) ** 2) / 2)[:, 0])[0, 1] > 0.8


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_rows_that_are_all_alike_weigh_one(value):
    weights = kernel_matching_weights(np.full((5, 3), value), np.full((4, 3), value))
    np.testing.assert_allclose(weights, np.ones(5), atol=1e-6)


@pytest.mark.parametrize("distance", [1e2, 1e6])
def test_a_target_far_from_every_source_row_gives_weights_that_are_finite(distance):
    source = draw(0, 20, 3)
    weights = kernel_matching_weights(source, source[:7] + distance)
    assert np.isfinite(weights).all()
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_give_weights_that_show_it(value):
    assert np.isnan(kernel_matching_weights(np.full((2, 3), value), np.zeros((4, 3)))).all()
    assert np.isnan(kernel_matching_weights(np.zeros((2, 3)), np.full((4, 3), value))).all()


def whole_domains(num_source, num_target, dtype=torch.float32):
    source, target = torch.tensor(draw(0, num_source, 5)).to(dtype), torch.tensor(draw(1, num_target, 5) + 1).to(dtype)
    return {"source": DomainOutputs(source, source), "target": DomainOutputs(target, target)}


def matched(num_source, num_target):
    method = KernelMeanMatching(MethodContext(5, 4, num_source, num_target))
    method.begin_epoch(whole_domains(num_source, num_target), 0.0)
    return method.weights


def test_matching_looks_the_weights_up_by_the_numbers_of_the_rows():
    method = KernelMeanMatching(MethodContext(5, 4, 12, 9))
    method.begin_epoch(whole_domains(12, 9), 0.0)
    rows, logits = torch.tensor([11, 0, 7]), torch.tensor(draw(2, 3, 4))
    outputs = Outputs(logits, logits, None, rows)
    found = method.losses(StepOutputs({"source": outputs}, torch.tensor([0, 1, 3]), 0.5))["task"]
    domains = [domain.features.double().numpy() for domain in whole_domains(12, 9).values()]
    weights = solved(*matching_problem(*domains, 1.0), 10.0)[rows]
    assert found.item() == pytest.approx(weighted_reference(logits.numpy(), weights, [0, 1, 3]), abs=1e-4)


def test_matching_large_domains_weighs_every_row_alike_each_time():
    weights = matched(2 * MAX_MATCHED_ROWS + 1, MAX_MATCHED_ROWS + 1)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert (weights.sort().values.diff() > 0).sum() > MAX_MATCHED_ROWS / 4
    assert_close(matched(2 * MAX_MATCHED_ROWS + 1, MAX_MATCHED_ROWS + 1), weights, rtol=0, atol=0)


def test_matching_weights_are_not_part_of_a_checkpoint():
    assert not KernelMeanMatching(MethodContext(5, 4, 12, 9)).state_dict()


def importance_step(seed, shift=0.0):
    features = [torch.tensor(draw(seed + i, 6, 5) + i * shift).float().requires_grad_() for i in range(2)]
    logits = [torch.tensor(draw(seed + 2 + i, 6, 4)).float().requires_grad_() for i in range(2)]
    views = dict(zip(("source", "target"), map(Outputs, features, logits), strict=True))
    return StepOutputs(views, torch.arange(6) % 4, 0.5)


def test_the_classifier_of_domains_learns_beside_the_network():
    method, step = ImportanceWeighting(MethodContext(5, 4), hidden_width=7), importance_step(0)
    losses = method.losses(step)
    losses["task"].backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    losses["domain"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in method.parameters())
    assert step.source.features.grad is None
    assert step.target.features.grad is None
    assert step.source.logits.grad is not None


def test_a_trained_classifier_weighs_the_rows_that_lie_towards_the_target():
    torch.manual_seed(0)
    method, features = ImportanceWeighting(MethodContext(1, 4)), torch.linspace(-3, 3, 101)[:, None]
    logits = torch.zeros(101, 4)
    views = {"source": Outputs(features, logits), "target": Outputs(features.clamp_min(0), logits)}
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        method.losses(StepOutputs(views, torch.zeros(101, dtype=torch.int64), 0.5))["domain"].backward()
        optimizer.step()
    weights = importance_weights(method.classifier(features).squeeze(1))
    assert weights[75] > 4 * weights[25]


def test_entropy_weighting_is_the_weighted_task_loss_of_the_source():
    logits, labels = draw(0, 6, 4), [0, 1, 2, 3, 0, 1]
    outputs = Outputs(torch.tensor(logits), torch.tensor(logits))
    step = StepOutputs({"source": outputs}, torch.tensor(labels), 0.5)
    found = EntropyWeighting(MethodContext(4, 4)).losses(step)["task"].item()
    assert found == pytest.approx(weighted_reference(logits, entropy_reference(logits), labels), rel=1e-9)


class Task(nn.Module):
    """A linear backbone, a linear head and a method that has seen both domains."""

    def __init__(self, name):
        super().__init__()
        self.backbone = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)
        self.method = METHODS.create(name, {}, MethodContext(5, 4, ROWS, ROWS))

    def forward(self, source, target, labels, rows):
        views = {"source": self.outputs(source, rows), "target": self.outputs(target, rows)}
        losses = self.method.losses(StepOutputs(views, labels, 0.5))
        return torch.stack(list(losses.values())).sum()

    def outputs(self, inputs, rows):
        features = self.backbone(inputs)
        return Outputs(features, self.head(features), inputs, rows)


def gradients(name):
    torch.manual_seed(0)
    task = Task(name).double()
    source, target = torch.randn(2, ROWS, 6, dtype=torch.float64)
    task.method.begin_epoch(whole_domains(ROWS, ROWS, torch.float64), 0.0)
    wrapped = DistributedDataParallel(task) if world_size() > 1 else task
    batch = (source, target + 0.5, torch.arange(ROWS) % 4, torch.arange(ROWS).flip(0))
    wrapped(*(part.chunk(world_size())[rank()] for part in batch)).backward()
    return {key: parameter.grad for key, parameter in task.named_parameters()}


def all_gradients():
    return {name: gradients(name) for name in NAMES}


def test_gradients_on_two_ranks_are_those_of_the_joined_batch():
    expected = all_gradients()
    for found in run_on_ranks(all_gradients, 2):
        assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameter", "value", "rule"),
    [
        ("importance_weighting", "hidden_width", 0, "must be a finite number above 0; 256 is usual"),
        ("importance_weighting", "largest_ratio", 1.0, "must be above 1, or it leaves no weight to choose"),
        ("importance_weighting", "largest_ratio", math.inf, "must be a finite number above 0"),
        ("kernel_mean_matching", "bandwidth", 0.0, "must be a finite number above 0; 1.0 is usual"),
        ("kernel_mean_matching", "largest_weight", 0.5, "must be above 1"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_rule_and_remedy(name, parameter, value, rule):
    with pytest.raises(InvalidInput, match=rf"{name}.{parameter}={value} {rule}"):
        METHODS.create(name, {parameter: value}, MethodContext(5, 4))
