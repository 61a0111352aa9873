import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.self_training import (
    UNSURE,
    balanced_pseudo_label_loss,
    centroid_labels,
    confident_labels,
    fixmatch_loss,
    pseudo_label_loss,
)
from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from tests.gloo import run_on_ranks
from tests.numeric import numeric_gradient

THRESHOLD = 0.6
LOSSES = [
    pseudo_label_loss,
    balanced_pseudo_label_loss,
    lambda logits, threshold: fixmatch_loss(logits.detach().flip(1), logits, threshold=threshold),
]
LARGEST_BF16 = torch.finfo(torch.bfloat16).max
# Confident in classes 0, 0, 0, 1, then unsure, then confident in class 2.
SIX = torch.log(torch.tensor([[8, 1, 1], [7, 2, 1], [9, 0.5, 0.5], [1, 8, 1], [4, 3, 3], [1, 1, 8]]).double() / 10)

batches = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5))


def draw(seed, num_rows, num_classes):
    return np.random.default_rng(seed).normal(0, 2, (num_rows, num_classes))


def softmax(row):
    exponentials = [math.exp(logit) for logit in row]
    return [value / sum(exponentials) for value in exponentials]


def chosen_of(logits):
    """Row and label, for each row that is confident."""
    rows = [softmax(row) for row in logits]
    return [(index, row.index(max(row))) for index, row in enumerate(rows) if max(row) >= THRESHOLD]


def cross_entropy(logits, chosen, weights):
    pairs = zip(chosen, weights, strict=True)
    return sum(-weight * math.log(softmax(logits[row])[label]) for (row, label), weight in pairs) / len(logits)


def balanced_weights(chosen):
    return compute_sample_weight("balanced", [label for _, label in chosen]) if chosen else []


def references(logits):
    """Each loss with its formula; labels and weights, which carry no gradient, are held fixed."""
    chosen = chosen_of(logits)
    balanced, equal = balanced_weights(chosen), [1.0] * len(chosen)
    return [
        (pseudo_label_loss, lambda z: cross_entropy(z, chosen, equal)),
        (balanced_pseudo_label_loss, lambda z: cross_entropy(z, chosen, balanced)),
    ]


@settings(max_examples=20, deadline=None)
@given(batches)
def test_pseudo_label_losses_are_cross_entropies_with_the_confident_labels(batch):
    logits = draw(*batch)
    for loss, reference in references(logits):
        value = loss(torch.tensor(logits), threshold=THRESHOLD).item()
        assert value == pytest.approx(reference(logits), rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(batches)
def test_gradients_of_pseudo_label_losses_hold_labels_and_weights_fixed(batch):
    logits = draw(*batch)
    for loss, reference in references(logits):
        leaf = torch.tensor(logits, requires_grad=True)
        loss(leaf, threshold=THRESHOLD).backward()
        np.testing.assert_allclose(leaf.grad.numpy(), numeric_gradient(reference, logits), rtol=1e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(batches)
def test_fixmatch_is_the_cross_entropy_of_the_strong_view_with_the_labels_of_the_weak(batch):
    seed, *shape = batch
    weak, strong = draw(seed, *shape), draw(seed + 1, *shape)
    chosen = chosen_of(weak)
    leaves = torch.tensor(weak, requires_grad=True), torch.tensor(strong, requires_grad=True)
    value = fixmatch_loss(*leaves, threshold=THRESHOLD)
    value.backward()
    expected = numeric_gradient(lambda z: cross_entropy(z, chosen, [1.0] * len(chosen)), strong)
    assert value.item() == pytest.approx(cross_entropy(strong, chosen, [1.0] * len(chosen)), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(leaves[1].grad.numpy(), expected, rtol=1e-5, atol=1e-8)
    assert leaves[0].grad is None


def test_a_row_is_chosen_from_the_threshold_on():
    assert confident_labels(SIX, threshold=0.75).tolist() == [0, UNSURE, 0, 1, UNSURE, 2]
    assert confident_labels(torch.zeros(2, 4), threshold=0.25).tolist() == [0, 0]
    assert confident_labels(torch.tensor([[1e4, 0.0], [1.0, 0.0]]), threshold=1.0).tolist() == [0, UNSURE]


def test_balanced_classes_pull_with_equal_force():
    # The pull of a row of class k on its own logit is p - 1; three rows of class 0 share what one of class 1 has.
    leaf = SIX.clone().requires_grad_()
    balanced_pseudo_label_loss(leaf, threshold=THRESHOLD).backward()
    weights = torch.tensor([5 / 9, 5 / 9, 5 / 9, 5 / 3, 0, 5 / 3]).double()
    assert_close(leaf.grad.min(dim=1).values, -weights * torch.tensor([0.2, 0.3, 0.1, 0.2, 0, 0.2]) / 6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_a_confident_row_gives_0_with_gradient_0(loss):
    logits = torch.zeros(3, 4, requires_grad=True)
    value = loss(logits, threshold=0.9)
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros(3, 4), rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_one_class_there_is_nothing_to_learn(loss):
    logits = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = loss(logits, threshold=1.0)
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros(4, 1), rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits_give_finite_losses_and_gradients(loss):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    value = loss(logits, threshold=0.9)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_at_the_ends_of_bfloat16_give_numbers(loss):
    logits = torch.tensor([[LARGEST_BF16, -LARGEST_BF16], [0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(logits, threshold=0.9)
    value.backward()
    assert not value.isnan()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_logits_are_computed_in_float32_under_autocast(loss):
    logits = SIX.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, threshold=THRESHOLD)
    assert value.dtype == torch.float32
    assert_close(value, loss(logits.float(), threshold=THRESHOLD), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["pseudo_label", "fixmatch"])
@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, math.nan])
def test_a_threshold_that_no_confidence_can_be_is_refused(name, threshold):
    with pytest.raises(InvalidInput, match=rf"{name}.threshold={threshold} must be above 0 and at most 1"):
        METHODS.create(name, {"threshold": threshold}, MethodContext(4, 3))


def test_class_balanced_chooses_the_balanced_loss():
    step = step_of(SIX)
    for balanced, loss in ((False, pseudo_label_loss), (True, balanced_pseudo_label_loss)):
        method = METHODS.create("pseudo_label", {"class_balanced": balanced, "threshold": THRESHOLD}, None)
        assert_close(method.losses(step)["domain"], loss(SIX, threshold=THRESHOLD), rtol=0, atol=0)


def step_of(logits, rows=None):
    """A step whose views all have these logits."""
    outputs = Outputs(logits, logits, logits, torch.arange(len(logits)) if rows is None else rows)
    views = dict.fromkeys(("source", "target", "strong"), outputs)
    return StepOutputs(views, torch.zeros(len(logits), dtype=torch.int64), 0.5)


# SHOT's labels.


def cosine(left, right):
    return np.dot(left, right) / (np.linalg.norm(left) * np.linalg.norm(right))


def mean_of(features, weights):
    return sum(w * row for w, row in zip(weights, features, strict=True)) / sum(weights)


def nearest(features, centroids):
    scores = [[cosine(row, centroid) for centroid in centroids] for row in features]
    return [max(range(len(row)), key=row.__getitem__) for row in scores]


def shot_labels(features, logits):
    soft = np.array([softmax(row) for row in logits]).T
    centroids = [mean_of(features, weights) for weights in soft]
    first = np.array(nearest(features, centroids))
    taken = {label: mean_of(features, first == label) for label in set(first)}
    return nearest(features, [taken.get(label, centroid) for label, centroid in enumerate(centroids)])


# With few rows and many classes some class is taken by no row.
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(2, 5), st.integers(2, 4))
def test_centroid_labels_are_those_of_shots_equations(seed, num_rows, num_classes, width):
    random = np.random.default_rng(seed)
    features, logits = random.normal(0, 1, (num_rows, width)), random.normal(0, 2, (num_rows, num_classes))
    labels = centroid_labels(torch.tensor(features), torch.tensor(logits)).tolist()
    assert labels == shot_labels(features, logits)


def test_centroids_correct_a_row_that_lies_with_another_class():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    logits = torch.tensor([[5.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 5.0]])  # the third is wrong
    assert centroid_labels(features, logits).tolist() == [0, 0, 0, 1, 1]


def test_a_class_that_nobody_predicts_attracts_no_row_and_gives_no_nan():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-1.0, 0.2]])
    logits = torch.tensor([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4], [0.0, 1e4, -1e4], [0.0, 1e4, -1e4]])
    assert centroid_labels(features, logits).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("features", [torch.ones(1, 3), torch.zeros(4, 3), torch.ones(4, 3), 1e4 * torch.eye(4, 3)])
def test_one_row_zeros_constant_and_large_features_give_classes(features):
    labels = centroid_labels(features, torch.ones(len(features), 2))
    assert set(labels.tolist()) <= {0, 1}


def test_rows_look_up_the_label_of_their_place_in_the_domain():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    method = METHODS.create("iterated_pseudo_label", {}, None)
    method.begin_epoch({"target": DomainOutputs(features, 5 * features)}, 0.5)
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    loss = method.losses(step_of(logits, rows=torch.tensor([3, 0, 1])))["domain"]
    probabilities = [softmax(row) for row in logits.tolist()]
    expected = -sum(math.log(row[label]) for row, label in zip(probabilities, [1, 0, 1], strict=True)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_labels_of_an_epoch_are_not_saved():
    method = METHODS.create("iterated_pseudo_label", {}, None)
    method.begin_epoch({"target": DomainOutputs(torch.eye(2), torch.eye(2))}, 0.5)
    assert method.state_dict() == {}


def test_a_network_that_has_learned_nothing_gives_no_centroid_labels():
    method = METHODS.create("iterated_pseudo_label", {}, None)
    method.begin_epoch({"target": DomainOutputs(torch.eye(2), torch.eye(2))}, 0.0)
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = method.losses(step_of(logits, rows=torch.tensor([0, 1])))["domain"]
    loss.backward()
    assert loss.item() == 0
    assert_close(logits.grad, torch.zeros(2, 2))


# On several ranks.


def balanced_gradient():
    """Gradient of the joint loss for a weight that all ranks share, averaged over ranks as DDP does."""
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)
    share = SIX.chunk(world_size())[rank()]
    balanced_pseudo_label_loss(share @ weight, threshold=THRESHOLD).backward()
    gathered = [torch.zeros_like(weight) for _ in range(world_size())]
    torch.distributed.all_gather(gathered, weight.grad)
    return sum(gathered) / world_size()


def test_class_weights_are_those_of_the_joined_batch():
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)
    balanced_pseudo_label_loss(SIX @ weight, threshold=THRESHOLD).backward()
    for world in (2, 3):
        for gradient in run_on_ranks(balanced_gradient, world):
            assert_close(gradient, weight.grad, rtol=1e-9, atol=1e-12)
