import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation.discrepancy import Mcd, Mdd, classifier_discrepancy, margin_disparity
from ray_tl.adaptation.method import MethodContext, Outputs, StepOutputs
from ray_tl.errors import InvalidInput
from tests.numeric import numeric_gradient

CONTEXT = MethodContext(feature_dim=3, num_classes=4)
LABELS = [0, 3, 1, 1]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)
classes = st.integers(2, 5)


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return np.array([value / sum(exponentials) for value in exponentials])


def cross_entropy_reference(logits, labels):
    return np.mean([-math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)])


def disagreement_reference(auxiliary, predicted):
    return np.mean([-math.log(1 - softmax(row)[label]) for row, label in zip(auxiliary, predicted, strict=True)])


def margin_reference(source_logits, target_logits, source_auxiliary, target_auxiliary, margin):
    agreement = cross_entropy_reference(source_auxiliary, source_logits.argmax(axis=1))
    return margin * agreement + disagreement_reference(target_auxiliary, target_logits.argmax(axis=1))


def discrepancy_reference(first, second):
    pairs = list(zip(first, second, strict=True))
    return np.mean([abs(softmax(one)[k] - softmax(other)[k]) for one, other in pairs for k in range(first.shape[1])])


def classifier_logits(classifier, features):
    weights = [parameter.detach().numpy() for parameter in classifier.parameters()]
    return np.maximum(features @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]


def draw(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(0, 2, shape) for shape in shapes]


def build(kind, **parameters):
    torch.manual_seed(0)
    return kind(CONTEXT, hidden_width=6, **parameters).double()


def leaves(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.fixture
def arrays():
    """Features of 4 source and 5 target rows, then the main head's logits of both."""
    return draw(7, (4, 3), (5, 3), (4, 4), (5, 4))


def domain_loss(method, features, logits, progress=0.3):
    views = dict(zip(("source", "target"), map(Outputs, features, logits), strict=True))
    return method.losses(StepOutputs(views, torch.tensor(LABELS), progress))["domain"]


def mdd_reference(method, source, target, arrays):
    auxiliary = classifier_logits(method.auxiliary, source), classifier_logits(method.auxiliary, target)
    return margin_reference(arrays[2], arrays[3], *auxiliary, method.margin)


def mcd_learning(method, source):
    heads = (method.first, method.second)
    return sum(cross_entropy_reference(classifier_logits(head, source), LABELS) for head in heads)


def mcd_disagreement(method, target):
    return discrepancy_reference(classifier_logits(method.first, target), classifier_logits(method.second, target))


def slope_of_bias(bias, reference):
    """Slope of a reference, which reads the network, in a bias of it."""

    def shifted(value):
        with torch.no_grad():
            bias.copy_(torch.tensor(value))
        return reference()

    at = bias.detach().numpy().copy()
    slope = numeric_gradient(shifted, at)
    shifted(at)
    return slope


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes, classes, st.floats(0.5, 8))
def test_margin_disparity_and_gradients_are_those_of_the_papers_formula(seed, num_source, num_target, width, margin):
    main = draw(seed, (num_source, width), (num_target, width))
    source, target = draw(seed + 1, (num_source, width), (num_target, width))
    auxiliary = leaves(source, target)
    loss = margin_disparity(*map(torch.tensor, main), *auxiliary, margin=margin)
    loss.backward()
    np.testing.assert_allclose(loss.item(), margin_reference(*main, source, target, margin), rtol=1e-9)
    of_source = numeric_gradient(lambda x: margin_reference(*main, x, target, margin), source)
    of_target = numeric_gradient(lambda x: margin_reference(*main, source, x, margin), target)
    np.testing.assert_allclose(auxiliary[0].grad.numpy(), of_source, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(auxiliary[1].grad.numpy(), of_target, rtol=1e-5, atol=1e-7)


def test_main_head_feels_nothing_of_the_margin_disparity(arrays):
    method, main = build(Mdd), leaves(*arrays[2:])
    domain_loss(method, leaves(*arrays[:2]), main).backward()
    assert main[0].grad is None
    assert main[1].grad is None


def test_an_auxiliary_head_sure_of_the_main_heads_class_loses_its_lead_over_the_rest():
    main = torch.tensor([[1.0, 0.0, 0.0]])
    auxiliary = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    loss = margin_disparity(main, main, auxiliary, auxiliary, margin=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 - math.log(2), rel=1e-6)
    assert_close(auxiliary.grad, torch.tensor([[1.0, -0.5, -0.5]]), rtol=1e-6, atol=1e-6)


def test_an_auxiliary_head_sure_of_the_opposite_loses_the_margin_times_its_lag():
    main = torch.tensor([[1.0, 0.0]])
    auxiliary = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = margin_disparity(main, main, auxiliary, auxiliary, margin=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(4 * 2e4, rel=1e-6)
    assert auxiliary.grad.isfinite().all()


def test_one_class_leaves_nothing_to_disagree_about_and_is_refused():
    with pytest.raises(InvalidInput, match=r"mdd: num_classes=1 .* must be at least 2, or choose dann"):
        Mdd(MethodContext(feature_dim=3, num_classes=1))
    with pytest.raises(InvalidInput, match=r"num_classes=1 leaves nothing to disagree about"):
        margin_disparity(*torch.zeros(4, 2, 1), margin=4.0)


@pytest.mark.parametrize("progress", [0.0, 0.05, 1.0])
def test_mdd_features_feel_the_reversed_slope_at_a_tenth_of_the_ramp(arrays, progress):
    method, features = build(Mdd), leaves(*arrays[:2])
    loss = domain_loss(method, features, leaves(*arrays[2:]), progress)
    loss.backward()
    of_source = numeric_gradient(lambda x: mdd_reference(method, x, arrays[1], arrays), arrays[0])
    of_target = numeric_gradient(lambda x: mdd_reference(method, arrays[0], x, arrays), arrays[1])
    strength = 0.1 * (2 / (1 + math.exp(-10 * progress)) - 1)
    np.testing.assert_allclose(loss.item(), mdd_reference(method, *arrays[:2], arrays), rtol=1e-9)
    np.testing.assert_allclose(features[0].grad.numpy(), -strength * of_source, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(features[1].grad.numpy(), -strength * of_target, rtol=1e-5, atol=1e-9)


def test_mdd_auxiliary_classifier_learns_at_full_strength_from_the_first_step(arrays):
    method = build(Mdd)
    domain_loss(method, leaves(*arrays[:2]), leaves(*arrays[2:]), progress=0.0).backward()
    bias = method.auxiliary[2].bias
    expected = slope_of_bias(bias, lambda: mdd_reference(method, *arrays[:2], arrays))
    np.testing.assert_allclose(bias.grad.numpy(), expected, rtol=1e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes)
def test_discrepancy_and_gradients_are_those_of_absolute_differences(seed, num_rows, num_classes):
    first, second = draw(seed, (num_rows, num_classes), (num_rows, num_classes))
    logits = leaves(first, second)
    loss = classifier_discrepancy(*logits)
    loss.backward()
    np.testing.assert_allclose(loss.item(), discrepancy_reference(first, second), rtol=1e-9, atol=1e-15)
    of_first = numeric_gradient(lambda x: discrepancy_reference(x, second), first)
    of_second = numeric_gradient(lambda x: discrepancy_reference(first, x), second)
    np.testing.assert_allclose(logits[0].grad.numpy(), of_first, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(logits[1].grad.numpy(), of_second, rtol=1e-5, atol=1e-8)


def test_classifiers_that_agree_have_no_discrepancy_and_no_gradient():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = classifier_discrepancy(logits, logits)
    loss.backward()
    assert loss.item() == 0
    assert_close(logits.grad, torch.zeros(4, 3), rtol=0, atol=0)


@pytest.mark.parametrize("extreme", [1e4, torch.finfo(torch.bfloat16).max])
def test_classifiers_sure_of_different_classes_have_the_largest_discrepancy(extreme):
    first = torch.tensor([[extreme, -extreme, 0.0, 0.0]], requires_grad=True)
    loss = classifier_discrepancy(first, -first)
    loss.backward()
    assert loss.item() == pytest.approx(2 / 4)
    assert first.grad.isfinite().all()


@pytest.mark.parametrize("strength", [0.25, 1.0, 4.0])
def test_mcd_features_learn_the_source_and_lessen_the_disagreement_on_the_target(arrays, strength):
    method, features = build(Mcd, strength=strength), leaves(*arrays[:2])
    loss = domain_loss(method, features, leaves(*arrays[2:]))
    loss.backward()
    expected = mcd_learning(method, arrays[0]) - mcd_disagreement(method, arrays[1])
    of_source = numeric_gradient(lambda x: mcd_learning(method, x), arrays[0])
    of_target = numeric_gradient(lambda x: mcd_disagreement(method, x), arrays[1])
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)
    np.testing.assert_allclose(features[0].grad.numpy(), of_source, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(features[1].grad.numpy(), strength * of_target, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["first", "second"])
def test_mcd_classifiers_learn_the_source_and_to_disagree_on_the_target(arrays, name):
    method = build(Mcd, strength=0.25)
    domain_loss(method, leaves(*arrays[:2]), leaves(*arrays[2:])).backward()
    bias = getattr(method, name)[2].bias
    expected = slope_of_bias(bias, lambda: mcd_learning(method, arrays[0]) - mcd_disagreement(method, arrays[1]))
    np.testing.assert_allclose(bias.grad.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_mcd_classifiers_begin_apart():
    method = build(Mcd)
    assert not torch.equal(method.first[0].weight, method.second[0].weight)


@pytest.mark.parametrize("kind", [Mdd, Mcd])
def test_constant_features_and_extreme_logits_give_finite_losses_and_gradients(kind):
    features = [torch.zeros(rows, 3, requires_grad=True) for rows in (4, 1)]
    logits = [torch.full((rows, 4), -1e4) for rows in (4, 1)]
    loss = domain_loss(build(kind).float(), features, logits)
    loss.backward()
    assert loss.isfinite()
    assert all(part.grad.isfinite().all() for part in features)


def test_half_precision_logits_are_judged_in_float32():
    logits = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = margin_disparity(*logits, margin=4.0), classifier_discrepancy(*logits[:2])
    expected = margin_disparity(*logits.float(), margin=4.0), classifier_discrepancy(*logits[:2].float())
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Mdd, "hidden_width", 0),
        (Mdd, "margin", 0.0),
        (Mdd, "strength", -0.1),
        (Mcd, "hidden_width", 0),
        (Mcd, "strength", math.nan),
    ],
)
def test_a_parameter_out_of_range_is_named_with_rule_and_remedy(kind, field, value):
    name = kind.__name__.lower()
    with pytest.raises(InvalidInput, match=rf"{name}.{field}={value} must be a finite number above 0; .* is usual"):
        kind(CONTEXT, **{field: value})
