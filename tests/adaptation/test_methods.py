"""What holds for every registered adaptation method."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import ray_tl.adaptation
from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.method import LOSS_NAMES
from ray_tl.errors import InvalidInput

# These weigh the source rows of the task and send no gradient to the target; tests of their own say how.
REWEIGHTING = {"importance_weighting", "kernel_mean_matching", "entropy_weighting"}
# These have no loss on the target but, two of them, on its labelled examples.
TARGET_LABELS = {"fine_tune", "source_and_target", "tradaboost"}
# These weigh the source rows of the task by the presence of their class in the target; tests of their own say how.
BY_PRESENCE = {"pada", "ba3us", "partial_mcc"}
# ADDA's encoder learns only from a discriminator that is right, as its own tests say.
WITHOUT_TARGET_LOSS = REWEIGHTING | TARGET_LABELS | {"source_only", "adabn", "adda"}
LATE = 0.9  # every method has begun to adapt
CONTEXT = MethodContext(feature_dim=4, num_classes=3, num_source=8, num_target=9, num_target_labelled=7)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SURE = 4.0
BOUNDS = [
    (name, parameter.name, bound)
    for name in METHODS.names()
    for parameter in METHODS.parameters(name).values()
    if parameter.range  # of words there is none
    for bound in next(iter(parameter.range.values()))
]


class Network(nn.Module):
    """What a teacher is copied from: features and logits of rows of five numbers, of any precision."""

    def __init__(self, num_classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        self.weight = nn.Parameter(torch.randn(5, 4 + num_classes, generator=generator))

    def forward(self, inputs, start, domains=("target",)):
        features, logits = (inputs @ self.weight.to(inputs.dtype)).tensor_split([4], dim=1)
        return features, SURE * logits


def created(name, values=None):
    """A method as a trial has it late in its training: attached to a network, and told of the whole domains."""
    method = METHODS.create(name, values or {}, CONTEXT)
    method.attach(Network())
    whole = {"source": domain(3, 8, torch.arange(8) % 3), "target": domain(4, 9, None)}
    whole["target_labelled"] = domain(5, 7, torch.arange(7) % 3)
    method.begin_epoch({name: whole[name] for name in method.needs_domains}, LATE)
    return method


def domain(seed, rows, labels):
    everything = outputs(seed, rows)
    return DomainOutputs(everything.features.detach(), everything.logits.detach(), labels)


def outputs(seed, rows, dtype=torch.float32):
    """Some rows are confident beyond any usual threshold, others are not."""
    generator = torch.Generator().manual_seed(seed)
    features, logits = torch.randn(rows, 4, generator=generator), SURE * torch.randn(rows, 3, generator=generator)
    inputs, numbers = torch.randn(rows, 5, generator=generator), torch.arange(rows)
    return Outputs(features.to(dtype).requires_grad_(), logits.to(dtype).requires_grad_(), inputs.to(dtype), numbers)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_says_whether_it_keeps_a_copy_of_the_network(name):
    kept = [value.shape for value in created(name).state_dict().values()]
    assert METHODS.create(name, {}, CONTEXT).copies_network is (Network().weight.shape in kept)


def losses_of(method, progress=0.5, dtype=torch.float32):
    return method.losses(step_for(method, progress, dtype))


def step_for(method, progress=0.5, dtype=torch.float32):
    views = {"source": outputs(0, 6, dtype), "target": outputs(1, 5, dtype), "strong": outputs(2, 5, dtype)}
    views["target_labelled"] = outputs(6, 6, dtype)
    return StepOutputs({name: views[name] for name in method.needs_at(progress)}, LABELS, progress, 0, LABELS.flip(0))


def test_importing_the_package_registers_every_method():
    expected = {"source_only", "coral", "mmd", "dann", "mcc", "im", "bnm", "entropy", "pseudo_label"}
    expected |= {"iterated_pseudo_label", "fixmatch", "mean_teacher", "distillation"}
    assert expected <= set(ray_tl.adaptation.METHODS.names())


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_losses_are_the_declared_ones_finite_scalars_with_gradient(name, progress):
    method = created(name)
    losses = losses_of(method, progress)
    assert tuple(losses) == method.loss_names
    assert set(losses) <= set(LOSS_NAMES)
    assert all(loss.shape == () and loss.isfinite() and loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - REWEIGHTING - BY_PRESENCE - TARGET_LABELS))
def test_task_loss_is_the_cross_entropy_of_the_source(name):
    expected = torch.nn.functional.cross_entropy(outputs(0, 6).logits, LABELS)
    assert_close(losses_of(created(name), progress=0.0)["task"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - WITHOUT_TARGET_LOSS))
def test_a_loss_other_than_the_task_reaches_a_view_of_the_target(name):
    method = created(name)
    step = step_for(method, LATE)
    losses = method.losses(step)
    sum(losses[name] for name in method.loss_names if name != "task").backward()
    views = [view for name, view in step.views.items() if name != "source"]
    slopes = [tensor.grad for view in views for tensor in (view.features, view.logits) if tensor.grad is not None]
    assert any(slope.abs().max() > 1e-4 for slope in slopes)


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_every_learned_part_of_a_method_gets_a_gradient_in_every_step(name, progress):
    method = created(name)
    sum(losses_of(method, progress).values()).backward()
    assert [key for key, value in method.named_parameters() if value.requires_grad and value.grad is None] == []


@pytest.mark.parametrize("name", METHODS.names())
def test_summary_is_one_sentence(name):
    assert METHODS.summary(name).endswith(".")


@pytest.mark.parametrize(("name", "parameter", "bound"), BOUNDS)
def test_both_ends_of_a_declared_range_build_a_method_with_finite_losses(name, parameter, bound):
    method = created(name, {parameter: bound})
    assert all(loss.isfinite() for loss in losses_of(method).values())


@pytest.mark.parametrize("name", METHODS.names())
def test_everything_but_the_context_is_keyword_only_and_has_a_range(name):
    parameters = inspect.signature(METHODS.factory(name)).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["context"]
    without = {parameter.name for parameter in METHODS.parameters(name).values() if not parameter.range}
    assert without <= {"teacher", "template"}  # what only a backbone that knows words admits


@pytest.mark.parametrize(("name", "parameter"), [("mmd", "bandwidth"), ("mcc", "temperature")])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_a_scale_that_is_not_above_zero_is_refused(name, parameter, value):
    with pytest.raises(InvalidInput, match=rf"{name}.{parameter}={value} must be a finite number above 0"):
        METHODS.create(name, {parameter: value}, CONTEXT)


@pytest.mark.parametrize("name", METHODS.names())
def test_losses_under_bfloat16_autocast_are_finite(name):
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(created(name), dtype=torch.bfloat16)
    assert all(loss.isfinite() for loss in losses.values())


def edge(num_classes=3, source_rows=6, target_rows=5, fill=None, sure=SURE, dtype=torch.float32):
    """Views with unusual content: how many rows and classes, constant features, how extreme the logits."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"source": source_rows, "target": target_rows, "strong": target_rows, "target_labelled": source_rows}
    views = {}
    for name, rows in sizes.items():
        features = torch.randn(rows, 4, generator=generator) if fill is None else torch.full((rows, 4), fill)
        logits = sure * torch.randn(rows, num_classes, generator=generator)
        inputs = torch.randn(rows, 5, generator=generator).to(dtype)
        leaves = (tensor.to(dtype).requires_grad_() for tensor in (features, logits))
        views[name] = Outputs(*leaves, inputs, torch.arange(rows))
    labels = torch.arange(source_rows) % num_classes
    return StepOutputs(views, labels, LATE, 0, labels)


EDGES = {
    "one row of each": edge(source_rows=1, target_rows=1),
    "one source row": edge(source_rows=1),
    "one target row": edge(target_rows=1),
    "one class": edge(num_classes=1),
    "constant features": edge(fill=1.0),
    "features of zeros": edge(fill=0.0),
    "extreme logits": edge(sure=1e4),
    "extreme logits in bfloat16": edge(sure=1e4, dtype=torch.bfloat16),
    "huge features in bfloat16": edge(fill=1e4, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("name", METHODS.names())
def test_an_edge_gives_finite_losses_and_gradients_or_a_clear_error(name, case):
    allowed = {"finite", "refused"} if case.startswith("one ") else {"finite"}
    assert outcome(name, EDGES[case]) in allowed


def outcome(name, step):
    num_classes = step.source.logits.shape[1]
    try:
        method = METHODS.create(name, {}, replace(CONTEXT, num_classes=num_classes))
        method.attach(Network(num_classes))
        whole = {key: view_as_domain(step, key) for key in method.needs_domains}
        with torch.autocast("cpu", torch.bfloat16, enabled=step.source.logits.dtype == torch.bfloat16):
            method.begin_epoch(whole, LATE)
            losses = method.losses(StepOutputs({k: step.views[k] for k in method.needs_at(LATE)}, *given_of(step)))
    except InvalidInput:
        return "refused"
    leaves = [leaf for view in step.views.values() for leaf in (view.features, view.logits)]
    slopes = torch.autograd.grad(sum(losses.values()), leaves, allow_unused=True)
    return "finite" if all(t.isfinite().all() for t in [*losses.values(), *slopes] if t is not None) else "not finite"


def given_of(step):
    return step.labels, LATE, 0, step.target_labels


def view_as_domain(step, name):
    rows = {"source": CONTEXT.num_source, "target": CONTEXT.num_target, "target_labelled": CONTEXT.num_target_labelled}
    view = step.views[name]
    numbers = torch.arange(rows[name]) % len(view.logits)
    labels = None if name == "target" else numbers % view.logits.shape[1]
    return DomainOutputs(view.features.detach()[numbers], view.logits.detach()[numbers], labels)
