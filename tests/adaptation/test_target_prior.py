"""Losses measured against shares of the target's classes, and where such shares come from."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext
from ray_tl.adaptation.confidence import batch_nuclear_norm, class_confusion, information_maximisation
from ray_tl.adaptation.target_prior import (
    SMALLEST_RELATIVE_SHARE,
    label_shares,
    relative_shares,
    shares_by_likelihood,
)
from ray_tl.errors import InvalidInput
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from tests.adaptation.test_confidence import (
    TEMPERATURE,
    batches,
    draw,
    entropy_reference,
    mcc_weights,
    softmax,
)
from tests.numeric import numeric_gradient
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data

LOSSES = [information_maximisation, class_confusion, batch_nuclear_norm]
EXACT = {"rtol": 0, "atol": 0}


def shares_of(num_classes):
    """Uneven, and none below the floor."""
    raw = np.arange(1, num_classes + 1) ** 1.5
    return raw / raw.sum()


def im_reference(logits, shares):
    mean = sum(softmax(row) for row in logits) / len(logits)
    divergence = sum(m * math.log(m / share) for m, share in zip(mean, shares, strict=True))
    return entropy_reference(logits) + divergence - math.log(len(shares))


def mcc_reference(logits, shares, weights):
    rows = [softmax(row / TEMPERATURE) for row in logits]
    confusion = sum(w * np.outer(y, y) for w, y in zip(weights, rows, strict=True))
    confusion = confusion / confusion.sum(axis=1, keepdims=True)
    off_diagonal = confusion.sum(axis=1) - np.diag(confusion)
    return (shares * off_diagonal).sum()


def bnm_reference(logits, shares):
    columns = np.stack([softmax(row) for row in logits]) @ np.diag(np.sqrt(len(shares) * shares))
    return -np.sqrt(np.linalg.eigvalsh(columns @ columns.T).clip(0)).sum() / len(logits)


def references(logits, shares):
    weights = mcc_weights(logits)
    return [
        (information_maximisation, lambda z: im_reference(z, shares)),
        (class_confusion, lambda z: mcc_reference(z, shares, weights)),
        (batch_nuclear_norm, lambda z: bnm_reference(z, shares)),
    ]


@settings(max_examples=25, deadline=None)
@given(batches)
def test_values_are_those_of_the_stated_formulas(batch):
    logits, shares = draw(*batch), shares_of(batch[2])
    for loss, reference in references(logits, shares):
        found = loss(torch.tensor(logits), prior=torch.tensor(shares)).item()
        np.testing.assert_allclose(found, reference(logits), rtol=1e-6, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(4, 5))  # more rows than classes: eigenvalues of 0
def test_gradients_are_the_slopes_of_the_stated_formulas(seed, num_rows, num_classes):
    logits, shares = draw(seed, num_rows, num_classes), shares_of(num_classes)
    for loss, reference in references(logits, shares):
        leaf = torch.tensor(logits, requires_grad=True)
        loss(leaf, prior=torch.tensor(shares)).backward()
        np.testing.assert_allclose(leaf.grad.numpy(), numeric_gradient(reference, logits), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 49, 65])
def test_even_shares_give_the_loss_and_gradient_without_any_to_the_bit(loss, num_classes):
    values = torch.tensor(draw(num_classes, 12, num_classes), dtype=torch.float32)
    plain, even = values.clone().requires_grad_(), values.clone().requires_grad_()
    expected = loss(plain)
    found = loss(even, prior=torch.tensor([1 / num_classes] * num_classes))
    assert_close(found, expected, **EXACT)
    assert_close(torch.autograd.grad(found, even), torch.autograd.grad(expected, plain), **EXACT)


@pytest.mark.parametrize("loss", [information_maximisation, batch_nuclear_norm])
def test_sure_predictions_with_the_stated_shares_are_better_than_even_ones(loss):
    prior = torch.tensor([0.5, 0.3, 0.2])
    counts = [(first, second, 10 - first - second) for first in range(11) for second in range(11 - first)]
    values = {split: loss(1e4 * one_hot(split), prior=prior).item() for split in counts}
    assert min(values, key=values.get) == (5, 3, 2)


def one_hot(counts):
    return torch.eye(len(counts)).repeat_interleave(torch.tensor(counts), dim=0)


def test_a_class_without_share_that_nobody_predicts_costs_mcc_next_to_nothing():
    logits = torch.cat([1e4 * one_hot((5, 5)), torch.full((10, 1), -1e4)], dim=1)
    assert class_confusion(logits).item() > 0.15
    assert class_confusion(logits, prior=torch.tensor([0.5, 0.5, 0.0])).item() < SMALLEST_RELATIVE_SHARE / 3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prior", [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_a_class_with_share_zero_gives_finite_losses_and_gradients(loss, prior, scale):
    logits = (scale * torch.tensor(draw(0, 6, 3), dtype=torch.float32)).requires_grad_()
    value = loss(logits, prior=torch.tensor(prior))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_relative_shares_have_mean_one_and_a_floor():
    found = relative_shares(torch.tensor([0.75, 0.25, 0.0, 0.0], dtype=torch.float64))
    expected = np.array([3, 1, 0.01, 0.01]) / (4.02 / 4)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_relative_shares_of_a_single_class_are_one():
    assert relative_shares(torch.tensor([1.0])).tolist() == [1.0]


# estimated shares


def two_gaussians(shares, rows, seed):
    """Points of three classes and the exact log densities of each class there."""
    random = np.random.default_rng(seed)
    centres = np.array([-2.0, 0.0, 2.0])
    points = random.normal(centres[random.choice(3, rows, p=shares)], 1)
    return -0.5 * (points[:, None] - centres) ** 2


def test_estimated_shares_maximise_the_likelihood_of_the_target():
    even, densities = np.full(3, 1 / 3), two_gaussians([0.7, 0.2, 0.1], 400, seed=0)
    source = two_gaussians(even, 4000, seed=1)
    rho = np.exp(source - np.logaddexp.reduce(source, axis=1, keepdims=True)).mean(axis=0)
    posteriors = np.exp(densities - np.logaddexp.reduce(densities, axis=1, keepdims=True))

    def cost(free):
        shares = np.exp(np.append(free, 0.0))
        return -np.log(posteriors @ (shares / shares.sum() / rho)).sum()

    best = np.exp(np.append(minimize(cost, np.zeros(2), method="BFGS").x, 0.0))
    found = shares_by_likelihood(torch.tensor(densities), torch.tensor(source))
    np.testing.assert_allclose(found.numpy(), best / best.sum(), atol=1e-4)


def test_estimated_shares_are_near_the_true_ones_where_mean_predictions_are_not():
    densities, source = two_gaussians([0.7, 0.2, 0.1], 4000, seed=0), two_gaussians([1 / 3] * 3, 4000, seed=1)
    found = shares_by_likelihood(torch.tensor(densities), torch.tensor(source))
    naive = torch.tensor(densities).softmax(1).mean(0)
    assert (found - torch.tensor([0.7, 0.2, 0.1])).abs().max() < 0.03
    assert (naive - torch.tensor([0.7, 0.2, 0.1])).abs().max() > 0.06


def test_of_a_target_that_equals_the_source_the_shares_are_its_mean_prediction():
    logits = torch.tensor(draw(4, 50, 4))
    assert_close(shares_by_likelihood(logits, logits), logits.softmax(1).mean(0), rtol=0, atol=1e-6)


def test_logits_that_are_not_a_number_give_shares_that_are_none():
    assert shares_by_likelihood(torch.full((2, 3), torch.nan), torch.zeros(2, 3)).isnan().all()


def test_a_class_without_rows_has_share_zero():
    assert label_shares(torch.tensor([0, 0, 2, 2]), 4).tolist() == [0.5, 0.0, 0.5, 0.0]


# methods and trials


def domains():
    source = DomainOutputs(torch.zeros(40, 2), torch.tensor(draw(1, 40, 3)), torch.arange(40) % 4 % 3)
    return {"source": source, "target": DomainOutputs(torch.zeros(30, 2), torch.tensor(draw(2, 30, 3)))}


def shares_used(prior, progress, **trust):
    method = METHODS.create("im", {"prior": prior, **trust}, MethodContext(2, 3))
    method.begin_epoch({name: domains()[name] for name in method.needs_domains}, progress)
    return method.shares


@pytest.mark.parametrize(("prior", "progress"), [("source", 0.0), ("source", 0.5), ("estimated", 0.0)])
def test_the_shares_of_the_source_are_those_of_its_labels(prior, progress):
    assert_close(shares_used(prior, progress), torch.tensor([0.5, 0.25, 0.25]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("trust", [0.0, 0.25, 1.0])
def test_after_the_first_epoch_shares_are_estimated_as_far_as_trust_goes(trust):
    whole = domains()
    estimate = shares_by_likelihood(whole["target"].logits, whole["source"].logits).numpy()
    expected = trust * estimate + (1 - trust) * np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(shares_used("estimated", 0.1, trust=trust), expected, rtol=1e-6)


def test_without_any_statement_nothing_is_compared_and_no_domain_is_looked_at():
    assert shares_used("given", 0.5) is None
    assert METHODS.create("im", {}, MethodContext(2, 3)).needs_domains == ()


@pytest.mark.parametrize("name", ["im", "mcc", "bnm", "dann_mcc"])
def test_a_trial_hands_its_shares_to_the_method(name):
    task = TrialRun(tiny_config(method=name, target_shares=[0.5, 0.5, 0.0]), tiny_data(), RULE).task
    (shares,) = [value for key, value in task.named_buffers() if key.endswith("shares")]
    assert_close(shares, torch.tensor([0.5, 0.5, 0.0]), **EXACT)


@pytest.mark.parametrize("name", ["im", "mcc", "bnm"])
def test_shares_are_no_part_of_what_is_saved(name):
    stated = METHODS.create(name, {}, MethodContext(2, 3, target_shares=(0.5, 0.5, 0.0)))
    assert stated.state_dict() == {}


@pytest.mark.parametrize("name", ["im", "mcc", "bnm", "pada", "ba3us", "partial_mcc"])
@pytest.mark.parametrize("trust", [-0.1, 1.1, math.nan])
def test_trust_out_of_range_is_named_with_rule_and_remedy(name, trust):
    with pytest.raises(InvalidInput, match=rf"{name}.trust={trust} must be at least 0 and at most 1; .* is usual"):
        METHODS.create(name, {"trust": trust}, MethodContext(2, 3))


@pytest.mark.parametrize("shares", [[0.5, 0.6], [0.7, 0.4, -0.1], [0.5, 0.500002], [], [math.nan, 1.0]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValidationError, match="must be at least 0 and add up to 1"):
        tiny_config(target_shares=shares)


def test_shares_that_are_rounded_are_taken_and_come_back_from_json():
    config = tiny_config(target_shares=[0.3333333, 0.3333333, 0.3333333])
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_wrong_number_of_shares_is_named_with_the_classes():
    with pytest.raises(InvalidInput, match=r"has 2 shares, and there are 3 classes, from 'a' to 'c'; give one share"):
        TrialRun(tiny_config(method="im", target_shares=[0.5, 0.5]), tiny_data(), RULE)


@pytest.mark.parametrize("name", ["im", "mcc", "bnm"])
def test_an_interrupted_trial_on_estimated_shares_ends_where_an_uninterrupted_one_ends(name, tmp_path):
    config = tiny_config(method={name: {"prior": "estimated"}}, epochs=3)
    run = partial(train_trial, config, tiny_data())
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    run(Reports(), whole, RULE)
    run(Reports(stop_at=2), parts, RULE)
    run(Reports(), parts, RULE)
    assert_close(parts.load_checkpoint()["task"], whole.load_checkpoint()["task"], **EXACT)
