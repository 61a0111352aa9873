import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation.confidence import batch_nuclear_norm, class_confusion, information_maximisation, mean_entropy
from tests.numeric import numeric_gradient

LOSSES = [mean_entropy, information_maximisation, class_confusion, batch_nuclear_norm]
TEMPERATURE = 2.5
LARGEST_BF16 = torch.finfo(torch.bfloat16).max

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return np.array([value / sum(exponentials) for value in exponentials])


def entropy_of(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


def entropy_reference(logits):
    return sum(entropy_of(softmax(row)) for row in logits) / len(logits)


def im_reference(logits):
    mean = sum(softmax(row) for row in logits) / len(logits)
    return entropy_reference(logits) - entropy_of(mean)


def mcc_weights(logits):
    raw = np.array([1 + math.exp(-entropy_of(softmax(row / TEMPERATURE))) for row in logits])
    return len(logits) * raw / raw.sum()


def mcc_reference(logits, weights):
    rows = [softmax(row / TEMPERATURE) for row in logits]
    classes = range(logits.shape[1])
    examples = list(zip(weights, rows, strict=True))
    confusion = np.array([[sum(w * y[i] * y[j] for w, y in examples) for j in classes] for i in classes])
    confusion = confusion / confusion.sum(axis=1, keepdims=True)
    return (confusion.sum() - np.trace(confusion)) / len(classes)


def bnm_reference(logits):
    singular_values = np.linalg.svd(np.stack([softmax(row) for row in logits]), compute_uv=False)
    return -singular_values.sum() / len(logits)


def references(logits):
    """Each loss with its NumPy formula; what the loss does not differentiate is held fixed."""
    weights = mcc_weights(logits)
    return [
        (mean_entropy, entropy_reference),
        (information_maximisation, im_reference),
        (class_confusion, lambda z: mcc_reference(z, weights)),
        (batch_nuclear_norm, bnm_reference),
    ]


def draw(seed, num_rows, num_classes):
    return np.random.default_rng(seed).normal(0, 2, (num_rows, num_classes))


@settings(max_examples=25, deadline=None)
@given(batches)
def test_values_are_those_of_the_papers_formulas(batch):
    logits = draw(*batch)
    for loss, reference in references(logits):
        np.testing.assert_allclose(loss(torch.tensor(logits)).item(), reference(logits), rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(batches)
def test_gradients_are_the_slopes_of_the_papers_formulas(batch):
    logits = draw(*batch)
    for loss, reference in references(logits):
        leaf = torch.tensor(logits, requires_grad=True)
        loss(leaf).backward()
        np.testing.assert_allclose(leaf.grad.numpy(), numeric_gradient(reference, logits), rtol=1e-5, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(batches, st.floats(0.5, 5))
def test_mcc_temperature_divides_the_logits(batch, temperature):
    logits = torch.tensor(draw(*batch))
    scaled = class_confusion(logits / temperature * TEMPERATURE, temperature=TEMPERATURE)
    assert_close(class_confusion(logits, temperature=temperature), scaled, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_at_both_ends_of_the_range_give_finite_losses_and_gradients(loss, dtype):
    extremes = [[LARGEST_BF16, -LARGEST_BF16, 0.0], [-LARGEST_BF16, LARGEST_BF16, 0.0], [0.0, 1.0, 2.0]]
    logits = torch.tensor(extremes, dtype=dtype, requires_grad=True)
    value = loss(logits)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(mean_entropy, 0.0), (information_maximisation, 0.0), (class_confusion, 2 / 3), (batch_nuclear_norm, -0.5)],
)
def test_a_batch_collapsed_to_one_of_three_classes_gives_the_limit(loss, expected):
    logits = torch.tensor([[1e4, 0.0, 0.0]] * 4, requires_grad=True)
    value = loss(logits)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(mean_entropy, 0.0), (information_maximisation, 0.0), (class_confusion, 0.0), (batch_nuclear_norm, -0.5)],
)
def test_with_one_class_there_is_nothing_to_gain(loss, expected):
    logits = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = loss(logits)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert_close(logits.grad, torch.zeros(4, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (mean_entropy, math.log(3)),
        (information_maximisation, 0.0),
        (class_confusion, 2 / 3),
        (batch_nuclear_norm, -math.sqrt(6 * 3 / 9) / 6),
    ],
)
def test_uniform_predictions_give_the_value_known_in_closed_form(loss, expected):
    assert loss(torch.zeros(6, 3)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(mean_entropy, 0.0), (information_maximisation, -math.log(3)), (class_confusion, 0.0), (batch_nuclear_norm, -1.0)],
)
def test_sure_and_even_predictions_give_the_best_value(loss, expected):
    assert loss(1e4 * torch.eye(3)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_are_judged_in_float32(loss):
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits)
    assert_close(value, loss(logits.float()), rtol=0, atol=0)
