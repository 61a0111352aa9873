import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, Outputs, StepOutputs
from ray_tl.adaptation.teachers import RecordedTeacher, Teacher, consistency_loss, distillation_loss
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

THRESHOLD, TEMPERATURE = 0.6, 2.5
EXACT = {"rtol": 0, "atol": 0}
LARGEST_BF16 = torch.finfo(torch.bfloat16).max
TEACHERS = ["mean_teacher", "distillation"]

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))


def draw(seed, num_rows, num_classes):
    return np.random.default_rng(seed).normal(0, 2, (num_rows, num_classes))


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return [value / sum(exponentials) for value in exponentials]


def consistency_reference(student, teacher):
    rows = [(softmax(left), softmax(right)) for left, right in zip(student, teacher, strict=True)]
    squares = [
        sum((p - q) ** 2 for p, q in zip(mine, theirs, strict=True)) * (max(theirs) >= THRESHOLD)
        for mine, theirs in rows
    ]
    return sum(squares) / student.size


def distillation_reference(student, teacher):
    rows = [(softmax(s / TEMPERATURE), softmax(t / TEMPERATURE)) for s, t in zip(student, teacher, strict=True)]
    divergences = [sum(q * math.log(q / p) for p, q in zip(mine, theirs, strict=True)) for mine, theirs in rows]
    return TEMPERATURE**2 * sum(divergences) / len(rows)


def consistency(student, teacher):
    return consistency_loss(student, teacher, threshold=THRESHOLD)


def distillation(student, teacher):
    return distillation_loss(student, teacher, temperature=TEMPERATURE)


LOSSES = [(consistency, consistency_reference), (distillation, distillation_reference)]


@pytest.mark.parametrize(("loss", "reference"), LOSSES)
@settings(max_examples=20, deadline=None)
@given(batches)
def test_values_and_gradients_are_those_of_the_papers_formulas(loss, reference, batch):
    seed, *shape = batch
    student, teacher = draw(seed, *shape), draw(seed + 1, *shape)
    leaf = torch.tensor(student, requires_grad=True)
    value = loss(leaf, torch.tensor(teacher))
    value.backward()
    slopes = numeric_gradient(lambda z: reference(z, teacher), student)
    assert value.item() == pytest.approx(reference(student, teacher), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_no_gradient_reaches_the_teacher(loss, _):
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    teacher = teacher.detach().requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@pytest.mark.parametrize("size", [1e4, LARGEST_BF16])
def test_extreme_logits_give_no_nan_and_finite_gradients(loss, _, size):
    student = torch.tensor([[size, -size, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-size, size, 0.0], [size, 0.0, -size]]))
    value.backward()
    assert not value.isnan()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (1, 1)])
def test_a_student_that_agrees_has_loss_and_gradient_0(loss, _, shape):
    student = torch.full(shape, 0.5, requires_grad=True)
    value = loss(student, torch.full(shape, 0.5))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert_close(student.grad, torch.zeros(shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_bfloat16_logits_are_computed_in_float32_under_autocast(loss, _):
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert_close(value, loss(student.float(), teacher.float()), **EXACT)


def test_without_a_confident_row_consistency_is_0_with_gradient_0():
    student = torch.randn(4, 3, requires_grad=True)
    value = consistency_loss(student, torch.zeros(4, 3), threshold=0.9)
    value.backward()
    assert value.item() == 0
    assert_close(student.grad, torch.zeros(4, 3), **EXACT)


@pytest.mark.parametrize(
    ("name", "parameter", "value", "rule"),
    [
        ("mean_teacher", "threshold", 0.0, "above 0 and at most 1"),
        ("mean_teacher", "threshold", 1.1, "above 0 and at most 1"),
        ("mean_teacher", "decay", 1.0, "at least 0 and below 1"),
        ("mean_teacher", "decay", -0.1, "at least 0 and below 1"),
        ("distillation", "start", 1.0, "at least 0 and below 1"),
        ("distillation", "start", math.nan, "at least 0 and below 1"),
        ("distillation", "temperature", 0.0, "a finite number above 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused(name, parameter, value, rule):
    with pytest.raises(InvalidInput, match=rf"{name}.{parameter}={value} must be {rule}"):
        METHODS.create(name, {parameter: value}, None)


# The network that teaches.


class Network(nn.Module):
    """Normalisation and dropout, whose modes differ; inputs may enter after the first stage."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))])
        self.head = nn.Linear(5, 3)

    def forward(self, inputs, start):
        features = inputs
        for stage in self.stages[start:]:
            features = stage(features)
        return features, self.head(features)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def step(progress=0.5, start=0):
    generator = torch.Generator().manual_seed(1)
    logits, inputs = 3 * torch.randn(3, 6, 3, generator=generator), torch.randn(3, 6, 4, generator=generator)
    rows = zip(("source", "target", "strong"), logits, inputs, strict=True)
    views = {name: Outputs(scores, scores.requires_grad_(), given) for name, scores, given in rows}
    return StepOutputs(views, torch.zeros(6, dtype=torch.int64), progress, start)


def change(network):
    """Other parameters and buffers."""
    for tensor in network.state_dict().values():
        tensor.add_(torch.rand(tensor.shape).to(tensor.dtype) + 1)


def attached(name, network, **values):
    method = METHODS.create(name, values, None)
    method.attach(network)
    return method


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_saved_has_no_gradient_and_shares_no_memory(name, network):
    method = attached(name, network)
    saved = {f"teacher.network.{key}": value for key, value in network.state_dict().items()}
    assert_close(method.state_dict(), saved, **EXACT)
    assert not any(value.requires_grad for value in method.parameters())
    mine, theirs = ({value.data_ptr() for value in part.parameters()} for part in (method, network))
    assert not mine & theirs


def test_a_teacher_stays_in_evaluation_mode(network):
    teacher = nn.Sequential(Teacher(network)).train()[0]
    assert not any(module.training for module in teacher.modules())
    assert_close(teacher(step()), teacher(step()), **EXACT)
    assert network.training


@pytest.mark.parametrize("start", [0, 1])
def test_a_teacher_looks_at_the_target_from_the_stage_where_it_enters(network, start):
    predicted = Teacher(network)(step(start=start))
    assert_close(predicted, network.eval()(step().target.inputs, start)[1], **EXACT)
    assert not predicted.requires_grad


def test_after_each_step_the_teacher_is_the_moving_average_of_the_parameters(network):
    method = attached("mean_teacher", network, decay=0.75)
    seen = [[value.detach().clone() for value in network.parameters()]]
    for progress in (0.0, 0.5, 1.0):
        change(network)
        method.after_step(network, progress)
        seen.append([value.detach().clone() for value in network.parameters()])
    weights = [0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    expected = [sum(w * value for w, value in zip(weights, column, strict=True)) for column in zip(*seen, strict=True)]
    assert_close(list(method.teacher.parameters()), expected, rtol=1e-6, atol=1e-6)


def test_buffers_of_a_mean_teacher_are_those_of_the_network(network):
    method = attached("mean_teacher", network)
    change(network)
    method.after_step(network, 0.5)
    assert_close(list(method.teacher.buffers()), list(network.buffers()), **EXACT)


def test_the_mean_teacher_compares_the_strong_view_with_the_teachers_target_view(network):
    method, now = attached("mean_teacher", network, threshold=0.3), step()  # every row: three classes
    taught = copy.deepcopy(network).eval()(now.target.inputs, 0)[1]
    change(network)
    loss = method.losses(now)["consistency"]
    assert_close(loss, consistency_loss(now.strong.logits, taught, threshold=0.3), **EXACT)
    assert loss > 0


def test_until_its_start_distillation_costs_nothing_but_stays_in_the_graph(network):
    now = step(progress=0.2)
    loss = attached("distillation", network, start=0.3).losses(now)["consistency"]
    loss.backward()
    assert loss.item() == 0
    assert_close(now.target.logits.grad, torch.zeros(6, 3), **EXACT)


def test_from_its_start_on_distillation_compares_with_the_network_of_the_last_step_before(network):
    method, now = attached("distillation", network, start=0.3, temperature=TEMPERATURE), step(progress=0.3)
    train_until(method, network, 0.1, 0.2)
    snapshot = copy.deepcopy(network)
    train_until(method, network, 0.3, 0.4)
    assert_close(method.teacher.network.state_dict(), snapshot.state_dict(), **EXACT)
    expected = distillation(now.target.logits, snapshot.eval()(now.target.inputs, 0)[1])
    assert_close(method.losses(now)["consistency"], expected, **EXACT)


def test_a_start_of_0_keeps_the_network_from_before_training(network):
    method, before = attached("distillation", network, start=0.0), copy.deepcopy(network.state_dict())
    train_until(method, network, 0.0, 0.5)
    assert_close(method.teacher.network.state_dict(), before, **EXACT)


def train_until(method, network, *steps):
    for progress in steps:
        change(network)
        method.after_step(network, progress)


# Predictions that were recorded before.


def seen(rows, logits):
    return Outputs(logits, logits, None, torch.tensor(rows))


def test_a_recorded_teacher_says_what_it_recorded_of_the_rows_of_a_step_in_both_domains():
    source, target, *students = (torch.as_tensor(draw(seed, 5, 3)) for seed in range(4))
    views = {"source": seen([4, 0, 2, 2, 1], students[0]), "target": seen([3, 3, 1, 0, 4], students[1])}
    step = StepOutputs(views, torch.zeros(5, dtype=torch.int64), 0.5)
    losses = RecordedTeacher(source, target, temperature=TEMPERATURE).losses(step)
    expected = {
        "task": distillation_reference(students[0].numpy(), source.numpy()[[4, 0, 2, 2, 1]]),
        "consistency": distillation_reference(students[1].numpy(), target.numpy()[[3, 3, 1, 0, 4]]),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-9)


def test_a_recorded_teacher_is_no_part_of_a_checkpoint():
    assert RecordedTeacher(torch.zeros(5, 3), torch.zeros(4, 3)).state_dict() == {}
