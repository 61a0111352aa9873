"""What holds for every registered adaptation method."""

import inspect

import pytest
import torch
from torch.testing import assert_close

import ray_tl.adaptation
from ray_tl.adaptation import METHODS, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.method import LOSS_NAMES
from ray_tl.errors import InvalidInput

CONTEXT = MethodContext(feature_dim=4, num_classes=3)
BOUNDS = [
    (name, parameter.name, bound)
    for name in METHODS.names()
    for parameter in METHODS.parameters(name).values()
    for bound in next(iter(parameter.range.values()))
]


def outputs(seed, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features, logits = torch.randn(rows, 4, generator=generator), torch.randn(rows, 3, generator=generator)
    return Outputs(features.to(dtype).requires_grad_(), logits.to(dtype).requires_grad_())


def losses_of(method, progress=0.5, dtype=torch.float32):
    return method.losses(step_for(method, progress, dtype))


def step_for(method, progress=0.5, dtype=torch.float32):
    views = {"source": outputs(0, 6, dtype), "target": outputs(1, 5, dtype), "strong": outputs(2, 5, dtype)}
    return StepOutputs({name: views[name] for name in method.needs}, torch.tensor([0, 1, 2, 0, 1, 2]), progress)


def test_importing_the_package_registers_every_method():
    expected = {"source_only", "coral", "mmd", "dann", "mcc", "im", "bnm", "entropy"}
    assert expected <= set(ray_tl.adaptation.METHODS.names())


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_losses_are_the_declared_ones_finite_scalars_with_gradient(name, progress):
    method = METHODS.create(name, {}, CONTEXT)
    losses = losses_of(method, progress)
    assert tuple(losses) == method.loss_names
    assert set(losses) <= set(LOSS_NAMES)
    assert all(loss.shape == () and loss.isfinite() and loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("name", METHODS.names())
def test_task_loss_is_the_cross_entropy_of_the_source(name):
    expected = torch.nn.functional.cross_entropy(outputs(0, 6).logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert_close(losses_of(METHODS.create(name, {}, CONTEXT))["task"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - {"source_only"}))
def test_domain_loss_reaches_the_target(name):
    method = METHODS.create(name, {}, CONTEXT)
    step = step_for(method)
    target = step.target
    method.losses(step)["domain"].backward()
    slopes = [tensor.grad for tensor in (target.features, target.logits) if tensor.grad is not None]
    assert any(slope.abs().max() > 1e-4 for slope in slopes)


@pytest.mark.parametrize("name", METHODS.names())
def test_summary_is_one_sentence(name):
    assert METHODS.summary(name).endswith(".")


@pytest.mark.parametrize(("name", "parameter", "bound"), BOUNDS)
def test_both_ends_of_a_declared_range_build_a_method_with_finite_losses(name, parameter, bound):
    method = METHODS.create(name, {parameter: bound}, CONTEXT)
    assert all(loss.isfinite() for loss in losses_of(method).values())


@pytest.mark.parametrize("name", METHODS.names())
def test_everything_but_the_context_is_keyword_only_and_has_a_range(name):
    parameters = inspect.signature(METHODS.factory(name)).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["context"]
    assert all(parameter.range for parameter in METHODS.parameters(name).values())


@pytest.mark.parametrize(("name", "parameter"), [("mmd", "bandwidth"), ("mcc", "temperature")])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_a_scale_that_is_not_above_zero_is_refused(name, parameter, value):
    with pytest.raises(InvalidInput, match=rf"{name}.{parameter}={value} must be a finite number above 0"):
        METHODS.create(name, {parameter: value}, CONTEXT)


@pytest.mark.parametrize("name", METHODS.names())
def test_losses_under_bfloat16_autocast_are_finite(name):
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(METHODS.create(name, {}, CONTEXT), dtype=torch.bfloat16)
    assert all(loss.isfinite() for loss in losses.values())
