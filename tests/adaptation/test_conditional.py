import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from ray_tl.adaptation.adversarial import Dann
from ray_tl.adaptation.conditional import (
    RANDOM_WIDTH,
    Cdan,
    CdanE,
    entropy_weights,
    multilinear_map,
    randomised_multilinear_map,
    weighted_domain_loss,
)
from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.adaptation.method import MethodContext, Outputs, StepOutputs
from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from tests.gloo import run_on_ranks
from tests.numeric import numeric_gradient

CONTEXT = MethodContext(feature_dim=3, num_classes=2)
LARGEST_BF16 = torch.finfo(torch.bfloat16).max
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)
METHODS = [Cdan, CdanE]


def softmax(logits):
    return np.array([[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in logits])


def outer_reference(features, probabilities):
    return np.array([[f * p for f in row for p in other] for row, other in zip(features, probabilities, strict=True)])


def randomised_reference(features, probabilities, feature_directions, class_directions):
    def entry(f, p, column):
        projected = [sum(f * feature_directions[:, column]), sum(p * class_directions[:, column])]
        return projected[0] * projected[1] / math.sqrt(feature_directions.shape[1])

    pairs = list(zip(features, probabilities, strict=True))
    return np.array([[entry(f, p, column) for column in range(feature_directions.shape[1])] for f, p in pairs])


def weights_reference(probabilities):
    raw = np.array([1 + math.exp(sum(p * math.log(p) for p in row)) for row in probabilities])
    return raw / raw.mean()


def weighted_reference(source, target, source_weights, target_weights):
    of_source = [-w * math.log(1 / (1 + math.exp(-z))) for z, w in zip(source, source_weights, strict=True)]
    of_target = [-w * math.log(1 - 1 / (1 + math.exp(-z))) for z, w in zip(target, target_weights, strict=True)]
    return (np.mean(of_source) + np.mean(of_target)) / 2


def discriminator_logits(method, joint):
    weights = [parameter.detach().numpy() for parameter in method.discriminator.parameters()]
    for matrix, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        joint = np.maximum(joint @ matrix.T + bias, 0)
    return (joint @ weights[4].T + weights[5])[:, 0]


def build(kind, context=CONTEXT, **parameters):
    torch.manual_seed(0)
    return kind(context, **{"hidden_width": 5, **parameters}).double()


def random_outputs(seed, num_rows, dtype=torch.float64, num_classes=2):
    random = np.random.default_rng(seed)
    features, logits = random.normal(size=(num_rows, 3)), random.normal(0, 2, (num_rows, num_classes))
    return Outputs(*(torch.tensor(part, dtype=dtype, requires_grad=True) for part in (features, logits)))


def domain_loss(method, source, target, progress=0.3):
    labels = torch.zeros(len(source.features), dtype=torch.int64)
    return method.losses(StepOutputs({"source": source, "target": target}, labels, progress))["domain"]


def numpy_domain_loss(method, source, target, features, weigh):
    """The domain loss at other features [N + M, D], with the predictions as they are; exact map."""
    probabilities = [softmax(domain.logits.detach().numpy()) for domain in (source, target)]
    logits = discriminator_logits(method, outer_reference(features, np.concatenate(probabilities)))
    num_source = len(source.features)
    return weighted_reference(logits[:num_source], logits[num_source:], *(weigh(rows) for rows in probabilities))


WEIGH = {Cdan: lambda probabilities: np.ones(len(probabilities)), CdanE: weights_reference}


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes, sizes)
def test_multilinear_map_holds_every_product_of_a_feature_and_a_probability(seed, num_rows, width, num_classes):
    random = np.random.default_rng(seed)
    features, probabilities = (
        random.normal(size=(num_rows, width)),
        softmax(random.normal(size=(num_rows, num_classes))),
    )
    found = multilinear_map(torch.tensor(features), torch.tensor(probabilities))
    np.testing.assert_allclose(found.numpy(), outer_reference(features, probabilities), rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes, sizes, sizes)
def test_randomised_map_and_gradient_are_those_of_the_papers_formula(seed, num_rows, width, num_classes, columns):
    random = np.random.default_rng(seed)
    shapes = [(num_rows, width), (num_rows, num_classes), (width, columns), (num_classes, columns)]
    features, *others = (random.normal(size=shape) for shape in shapes)
    leaf = torch.tensor(features, requires_grad=True)
    found = randomised_multilinear_map(leaf, *map(torch.tensor, others))
    found.square().sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), randomised_reference(features, *others), rtol=1e-9, atol=1e-12)
    slope = numeric_gradient(lambda x: (randomised_reference(x, *others) ** 2).sum(), features)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-7)


def test_randomised_inner_products_are_on_average_the_products_of_inner_products():
    random = np.random.default_rng(0)
    features, probabilities = random.normal(size=(2, 3)), softmax(random.normal(size=(2, 4)))
    directions = random.normal(size=(3, 40_000)), random.normal(size=(4, 40_000))
    one, other = randomised_multilinear_map(*map(torch.tensor, (features, probabilities, *directions))).numpy()
    products = one * other * 40_000
    expected = (features[0] @ features[1]) * (probabilities[0] @ probabilities[1])
    assert abs(products.mean() - expected) < 4 * products.std() / 200


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes)
def test_entropy_weights_are_those_of_the_formula_over_their_mean_and_carry_no_gradient(seed, num_rows, num_classes):
    probabilities = softmax(np.random.default_rng(seed).normal(0, 2, (num_rows, num_classes)))
    found = entropy_weights(torch.tensor(probabilities, requires_grad=True))
    np.testing.assert_allclose(found.numpy(), weights_reference(probabilities), rtol=1e-9)
    assert not found.requires_grad


def test_a_certain_row_weighs_up_to_twice_as_much_as_one_without_a_clue():
    probabilities = torch.stack([torch.eye(100)[0], torch.full((100,), 0.01)])
    certain, clueless = entropy_weights(probabilities)
    assert (certain / clueless).item() == pytest.approx(2 / (1 + 1 / 100), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes)
def test_weighted_loss_and_gradient_are_those_of_binary_cross_entropy(seed, num_source, num_target):
    random = np.random.default_rng(seed)
    source, target = random.normal(0, 2, num_source), random.normal(0, 2, num_target)
    weights = random.uniform(0, 2, num_source), random.uniform(0, 2, num_target)
    leaf = torch.tensor(source, requires_grad=True)
    loss = weighted_domain_loss(leaf, torch.tensor(target), *map(torch.tensor, weights))
    loss.backward()
    np.testing.assert_allclose(loss.item(), weighted_reference(source, target, *weights), rtol=1e-9)
    slope = numeric_gradient(lambda x: weighted_reference(x, target, *weights), source)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", METHODS)
def test_domain_loss_is_that_of_a_discriminator_of_outer_products(kind):
    method, source, target = build(kind), random_outputs(1, 4), random_outputs(2, 6)
    features = torch.cat([source.features, target.features]).detach().numpy()
    expected = numpy_domain_loss(method, source, target, features, WEIGH[kind])
    assert domain_loss(method, source, target).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("progress", [0.0, 0.05, 1.0])
def test_features_feel_the_reversed_slope_and_predictions_feel_nothing(kind, progress):
    method, source, target = build(kind), random_outputs(1, 4), random_outputs(2, 6)
    domain_loss(method, source, target, progress).backward()
    features = torch.cat([source.features, target.features]).detach().numpy()
    slope = numeric_gradient(lambda x: numpy_domain_loss(method, source, target, x, WEIGH[kind]), features)
    strength = 2 / (1 + math.exp(-10 * progress)) - 1
    found = torch.cat([source.features.grad, target.features.grad]).numpy()
    np.testing.assert_allclose(found, -strength * slope, rtol=1e-5, atol=1e-9)
    assert source.logits.grad is None
    assert target.logits.grad is None


@pytest.mark.parametrize("kind", METHODS)
def test_discriminator_learns_at_full_strength_while_features_feel_nothing(kind):
    method, source, target = build(kind), random_outputs(1, 4), random_outputs(2, 6)
    bias = method.discriminator[4].bias

    def reference(value):
        with torch.no_grad():
            bias.copy_(torch.tensor(value))
        return numpy_domain_loss(method, source, target, features, WEIGH[kind])

    features = torch.cat([source.features, target.features]).detach().numpy()
    domain_loss(method, source, target, progress=0.0).backward()
    np.testing.assert_allclose(bias.grad.numpy(), numeric_gradient(reference, bias.detach().numpy().copy()), rtol=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_with_one_class_it_is_dann(kind):
    context = MethodContext(feature_dim=3, num_classes=1)
    method, dann = build(kind, context), build(Dann, context)
    source, target = random_outputs(1, 4, num_classes=1), random_outputs(2, 6, num_classes=1)
    assert_close(domain_loss(method, source, target), domain_loss(dann, source, target), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("max_width", "width", "buffers"), [(6, 6, 0), (5, 5, 2), (1, 1, 2)])
def test_map_is_exact_up_to_the_largest_width_and_randomised_above(max_width, width, buffers):
    method = build(Cdan, max_width=max_width)
    assert method.discriminator[0].in_features == width
    assert len(list(method.buffers())) == buffers
    assert len(list(method.parameters())) == 6


def test_randomised_map_is_never_wider_than_that_of_the_paper():
    method = build(Cdan, MethodContext(feature_dim=1025, num_classes=4), max_width=4096)
    assert method.feature_directions.shape == (1025, RANDOM_WIDTH)
    assert method.class_directions.shape == (4, RANDOM_WIDTH)


def test_random_directions_follow_the_seed_and_are_saved():
    one, same = build(Cdan, max_width=4), build(Cdan, max_width=4)
    torch.manual_seed(1)
    other = Cdan(CONTEXT, hidden_width=5, max_width=4).double()
    assert_close(one.feature_directions, same.feature_directions, rtol=0, atol=0)
    assert not torch.equal(one.feature_directions, other.feature_directions)
    other.load_state_dict(one.state_dict())
    assert_close(other.class_directions, one.class_directions, rtol=0, atol=0)


def test_above_the_largest_width_the_discriminator_sees_the_randomised_map():
    method, source, target = build(Cdan, max_width=4), random_outputs(1, 4), random_outputs(2, 6)
    features = torch.cat([source.features, target.features]).detach().numpy()
    probabilities = softmax(torch.cat([source.logits, target.logits]).detach().numpy())
    directions = method.feature_directions.numpy(), method.class_directions.numpy()
    logits = discriminator_logits(method, randomised_reference(features, probabilities, *directions))
    expected = weighted_reference(logits[:4], logits[4:], np.ones(4), np.ones(6))
    assert domain_loss(method, source, target).item() == pytest.approx(expected, rel=1e-9)


def test_conditioned_on_logits_the_discriminator_sees_them_and_they_take_its_gradient_reversed():
    method, source, target = build(Cdan, condition="logits"), random_outputs(1, 4), random_outputs(2, 6)
    domain_loss(method, source, target).backward()
    features = torch.cat([source.features, target.features]).detach()
    seen = torch.cat([source.logits, target.logits]).detach().requires_grad_()
    judged = method.discriminator(torch.einsum("nd,nc->ndc", features, seen).flatten(1)).squeeze(1)
    is_source = torch.tensor([1.0] * 4 + [0.0] * 6, dtype=seen.dtype)
    weights = torch.tensor([1 / 8] * 4 + [1 / 12] * 6, dtype=seen.dtype)
    F.binary_cross_entropy_with_logits(judged, is_source, weights, reduction="sum").backward()
    found = torch.cat([source.logits.grad, target.logits.grad])
    assert_close(found, -dann_ramp(0.3, method.gamma) * seen.grad)


def shared_gradients():
    """Gradients of CDAN+E for this rank's share of a joined batch, by largest width: discriminator, then features."""
    return {max_width: shared_gradients_of(build(CdanE, max_width=max_width)) for max_width in (4, 4096)}


def shared_gradients_of(method):
    share = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    joined = random_outputs(1, 8), random_outputs(2, 8)
    parts = [Outputs(domain.features[share], domain.logits[share]) for domain in joined]
    domain_loss(method, *parts).backward()
    return [parameter.grad for parameter in method.parameters()] + [domain.features.grad for domain in joined]


@pytest.fixture(scope="module")
def on_four_ranks():
    return run_on_ranks(shared_gradients, 4)


@pytest.mark.parametrize("max_width", [4, 4096])
def test_mean_gradients_of_four_ranks_are_those_of_the_joined_batch(on_four_ranks, max_width):
    parts = zip(*(gradients[max_width] for gradients in on_four_ranks), strict=True)
    means = [torch.stack(part).mean(dim=0) for part in parts]
    assert_close(means, shared_gradients()[max_width], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("max_width", [4, 4096])
@pytest.mark.parametrize("extreme", [1e4, LARGEST_BF16])
def test_extreme_logits_of_one_example_each_give_finite_losses_and_gradients(kind, max_width, extreme):
    method = build(kind, max_width=max_width).float()
    source = Outputs(torch.ones(1, 3, requires_grad=True), torch.tensor([[extreme, -extreme]]))
    target = Outputs(torch.ones(1, 3, requires_grad=True), torch.tensor([[-extreme, extreme]]))
    loss = domain_loss(method, source, target)
    loss.backward()
    assert loss.isfinite()
    assert source.features.grad.isfinite().all()
    assert target.features.grad.isfinite().all()


def test_half_precision_under_autocast_is_mapped_and_weighed_in_float32():
    outputs = random_outputs(1, 4, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        joint, weights = multilinear_map(outputs.features, outputs.logits), entropy_weights(outputs.logits.softmax(1))
    assert_close(joint, multilinear_map(outputs.features.float(), outputs.logits.float()), rtol=0, atol=0)
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("kind", "name"), [(Cdan, "cdan"), (CdanE, "cdan_e")])
@pytest.mark.parametrize(
    ("field", "value"), [("gamma", 0.0), ("gamma", math.inf), ("hidden_width", 0), ("max_width", 0)]
)
def test_a_parameter_out_of_range_is_named_with_rule_and_remedy(kind, name, field, value):
    with pytest.raises(InvalidInput, match=rf"{name}.{field}={value} must be a finite number above 0; .* is usual"):
        kind(CONTEXT, **{field: value})
