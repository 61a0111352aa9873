"""Methods for a target that lacks classes of the source."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.confidence import class_confusion
from ray_tl.adaptation.partial import balanced_domain_loss, complement_confidence
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

NAMES = ["pada", "ba3us", "partial_mcc"]
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def draw(seed, rows, columns):
    return torch.tensor(np.random.default_rng(seed).normal(0, 2, (rows, columns)))


def built(name, stated=None, **values):
    torch.manual_seed(0)
    return METHODS.create(name, values, MethodContext(5, 4, target_shares=stated)).double()


def step(progress=0.5, labels=LABELS):
    source = Outputs(draw(0, 6, 5).requires_grad_(), draw(1, 6, 4).requires_grad_())
    target = Outputs(draw(2, 9, 5).requires_grad_(), draw(3, 9, 4).requires_grad_())
    return StepOutputs({"source": source, "target": target}, labels, progress)


def told(method, progress=0.5):
    """The method at the start of an epoch, and the mean prediction on the target that it was told."""
    logits = draw(4, 30, 4)
    method.begin_epoch({"target": DomainOutputs(draw(5, 30, 5), logits)}, progress)
    return method, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).numpy().mean(axis=0)


def row_weights(predictions):
    weights = predictions[LABELS]
    return weights / weights.mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_task_loss_is_weighted_by_the_mean_prediction_over_the_sum_of_the_batch_weights(name):
    method, predictions = told(built(name))
    inputs = step()
    expected = F.cross_entropy(inputs.source.logits, LABELS, torch.tensor(predictions))
    assert_close(method.losses(inputs)["task"], expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_trusted_counts_every_class_alike(name):
    method, predictions = told(built(name, trust=0.25))
    np.testing.assert_allclose(method.presence.numpy(), 0.75 + 0.25 * 4 * predictions, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_before_there_is_anything_to_go_by_all_classes_count_alike(name):
    method, _ = told(built(name), progress=0.0)
    inputs = step()
    assert_close(method.losses(inputs)["task"], F.cross_entropy(inputs.source.logits, LABELS), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_stated_shares_take_the_place_of_predictions(name):
    method = built(name, stated=(0.4, 0.3, 0.2, 0.1))
    inputs = step()
    expected = F.cross_entropy(inputs.source.logits, LABELS, torch.tensor([0.4, 0.3, 0.2, 0.1]).double())
    assert method.needs_domains == ()
    assert_close(method.losses(inputs)["task"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["pada", "partial_mcc"])
def test_a_mixture_counts_by_its_shares_of_classes(name):
    method, _ = told(built(name))
    whole = method.source_weights(step())
    assert_close(method.source_weights(step(labels=F.one_hot(LABELS, 4).double())), whole, **CLOSE)


def test_a_mixed_label_weighs_the_mean_of_its_classes():
    method, predictions = told(built("pada"))
    labels = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]]).double()
    expected = labels.numpy() @ predictions
    np.testing.assert_allclose(method.source_weights(step(labels=labels)), expected / expected.mean(), rtol=1e-9)


def discriminated(method, features):
    weights = [parameter.detach().numpy() for parameter in method.discriminator.parameters()]
    for matrix, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        features = np.maximum(features @ matrix.T + bias, 0)
    return (features @ weights[4].T + weights[5])[:, 0]


def of_source(logit):
    return 1 / (1 + np.exp(-logit))


def pada_reference(method, features, weights):
    logits = discriminated(method, features)
    source, target = of_source(logits[:6]), of_source(logits[6:])
    return (np.mean(-weights * np.log(source)) + np.mean(-np.log(1 - target))) / 2


def test_the_domain_loss_of_pada_and_the_reversed_slope_are_those_of_the_weighted_cross_entropy():
    method, predictions = told(built("pada", hidden_width=7))
    inputs, weights = step(progress=0.3), row_weights(predictions)
    loss = method.losses(inputs)["domain"]
    loss.backward()
    features = torch.cat([inputs.source.features, inputs.target.features]).detach().numpy()
    assert loss.item() == pytest.approx(pada_reference(method, features, weights), rel=1e-9)
    slope = numeric_gradient(lambda f: pada_reference(method, f, weights), features)
    found = torch.cat([inputs.source.features.grad, inputs.target.features.grad]).numpy()
    np.testing.assert_allclose(found, -(2 / (1 + math.exp(-3)) - 1) * slope, rtol=1e-5, atol=1e-9)


def authors_domain_loss(source, target, source_weights, target_weights, copies):
    """As in `my_loss.DANN` of the authors of BA3US, with every source row put `copies` times among the target's.

    There (1 + n_shared / n) times the normalised weights of own and shared source rows, plus those of the target, all
    over the sum of the weights.
    """
    own = np.concatenate([source_weights, *[source_weights] * copies])
    costs = np.concatenate([-np.log(of_source(source)), *[-np.log(1 - of_source(source))] * copies])
    joint = np.concatenate([(1 + copies) * own / own.sum(), target_weights / target_weights.sum()])
    return (joint * np.concatenate([costs, -np.log(1 - of_source(target))])).sum() / joint.sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2))
def test_the_balanced_domain_loss_is_the_authors_with_copies_of_the_source(seed, num_source, num_target, copies):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, num_source), random.normal(0, 2, num_target)
    weights = random.uniform(0.1, 2, num_source), random.uniform(1, 2, num_target)
    scaled = [torch.tensor(each / each.mean()) for each in weights]
    found = balanced_domain_loss(*map(torch.tensor, logits), *scaled, share=float(copies))
    np.testing.assert_allclose(found.item(), authors_domain_loss(*logits, *weights, copies), rtol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_an_undecided_discriminator_loses_log_two_whatever_fills_up_the_target(share):
    loss = balanced_domain_loss(torch.zeros(3), torch.zeros(5), torch.ones(3), torch.ones(5), share=share)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def authors_complement(logits, labels, weights, row_weights=None):
    """As in `my_loss.marginloss` of the authors, without its small constants."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    doubt = 1 - probabilities[np.arange(len(labels)), labels]
    shares = probabilities / doubt[:, None]
    terms = shares * np.log(shares) * (1 - np.eye(logits.shape[1])[labels])
    each = terms.sum(axis=1) / np.log(logits.shape[1] - 1)
    row_weights = weights * doubt if row_weights is None else row_weights
    return (row_weights * each).sum() / row_weights.sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(3, 6))
def test_confidence_among_wrong_classes_is_the_authors_and_so_is_its_slope(seed, rows, num_classes):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 2, (rows, num_classes)), random.integers(0, num_classes, rows)
    weights, leaf = random.uniform(0.1, 2, rows), torch.tensor(logits, requires_grad=True)
    loss = complement_confidence(leaf, torch.tensor(weights), labels=torch.tensor(labels))
    loss.backward()
    np.testing.assert_allclose(loss.item(), authors_complement(logits, labels, weights), rtol=1e-8)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    fixed = weights * (1 - softmax[np.arange(rows), labels])
    slope = numeric_gradient(lambda z: authors_complement(z, labels, weights, fixed), logits)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_with_fewer_than_two_wrong_classes_there_is_no_confidence_among_them(num_classes):
    logits = draw(0, 4, num_classes).requires_grad_()
    loss = complement_confidence(logits, torch.ones(4), labels=torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("scale", [1e4, torch.finfo(torch.float32).max * 0.8])
@pytest.mark.parametrize("right", [True, False])
def test_a_network_sure_beyond_measure_gives_finite_confidence_and_gradients(scale, right):
    labels = torch.tensor([0, 1, 2])
    logits = (scale * torch.eye(3)[labels if right else labels.flip(0).roll(1)]).requires_grad_()
    loss = complement_confidence(logits, torch.ones(3), labels=labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_the_domain_loss_of_ba3us_is_the_sum_of_its_three_parts():
    method, predictions = told(built("ba3us", augmentation=0.5, entropy_weight=0.3, complement_weight=2.0))
    inputs, weights = step(progress=0.6), row_weights(predictions)
    source, target = (inputs.views[name].logits.softmax(1).detach().numpy() for name in ("source", "target"))
    certain = [1 + np.exp((each * np.log(each)).sum(axis=1)) for each in (source, target)]
    row, other = weights * certain[0] / (weights * certain[0]).mean(), certain[1] / certain[1].mean()
    features = torch.cat([inputs.source.features, inputs.target.features]).detach().numpy()
    logits = torch.tensor(discriminated(method, features))
    apart = balanced_domain_loss(logits[:6], logits[6:], torch.tensor(row), torch.tensor(other), share=0.5 * 0.4)
    entropy = -(target * np.log(target)).sum(axis=1).mean()
    complement = authors_complement(inputs.source.logits.detach().numpy(), LABELS.numpy(), weights)
    assert method.losses(inputs)["domain"].item() == pytest.approx(apart.item() + 0.3 * entropy + 2 * complement)


def test_the_confusion_of_partial_mcc_counts_classes_by_their_presence():
    method, predictions = told(built("partial_mcc"))
    inputs = step()
    expected = class_confusion(inputs.target.logits, prior=torch.tensor(predictions))
    assert_close(method.losses(inputs)["domain"], expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_presence_is_no_part_of_what_is_saved(name):
    assert [key for key in built(name).state_dict() if "presence" in key] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_target_of_one_sure_class_leaves_every_class_a_little_and_all_losses_finite(name):
    method = built(name)
    method.begin_epoch({"target": DomainOutputs(draw(0, 3, 5), 1e6 * torch.eye(4)[[1, 1, 1]])}, 0.5)
    relative = method.presence / method.presence.mean()
    np.testing.assert_allclose(relative.numpy(), np.array([0.01, 4, 0.01, 0.01]) / (4.03 / 4), rtol=1e-9)
    assert all(loss.isfinite() for loss in method.losses(step()).values())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("pada", "gamma", 0.0),
        ("pada", "hidden_width", 0),
        ("ba3us", "augmentation", 1.0),
        ("ba3us", "entropy_weight", -1.0),
        ("ba3us", "complement_weight", math.inf),
        ("partial_mcc", "temperature", 0.0),
    ],
)
def test_a_parameter_out_of_range_is_named_with_rule_and_remedy(name, field, value):
    with pytest.raises(InvalidInput, match=rf"{name}.{field}={value} must be .*; .* is usual"):
        METHODS.create(name, {field: value}, MethodContext(3, 2))
