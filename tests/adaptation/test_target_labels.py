"""Methods that learn from labelled target examples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.target_labels import FineTune, SourceAndTarget, TrAdaBoost, boosted_weights
from ray_tl.errors import InvalidInput

CONTEXT = MethodContext(4, 3, num_source=6, num_target=5, num_target_labelled=3)
NAMES = ["fine_tune", "source_and_target", "tradaboost"]


def outputs(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    features, logits = (torch.randn(len(rows), width, generator=generator, dtype=torch.float64) for width in (4, 3))
    return Outputs(features, logits.requires_grad_(), None, torch.tensor(rows))


def step():
    views = {"source": outputs(0, [5, 0, 3]), "target_labelled": outputs(1, [2, 1, 1])}
    return StepOutputs(views, torch.tensor([0, 2, 1]), 0.5, 0, torch.tensor([1, 1, 0]))


def domain(predicted, labels):
    """Outputs whose likeliest classes are `predicted`."""
    logits = F.one_hot(torch.tensor(predicted), 3).float()
    return DomainOutputs(torch.zeros(len(labels), 4), logits, torch.tensor(labels))


def boosting_reference(source, target, source_wrong, target_wrong, rounds):
    """Figure 1 of the paper, row by row."""
    error = sum(w * wrong for w, wrong in zip(target, target_wrong, strict=True)) / sum(target)
    error = min(0.49, max(0.01, error))
    beta = 1 / (1 + math.sqrt(2 * math.log(max(2, len(source))) / rounds))
    beta_t = error / (1 - error)
    new_source = [w * beta**wrong for w, wrong in zip(source, source_wrong, strict=True)]
    new_target = [w * beta_t ** (-wrong) for w, wrong in zip(target, target_wrong, strict=True)]
    total = sum(new_source) + sum(new_target)
    return [w / total for w in new_source], [w / total for w in new_target]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5), st.integers(1, 20))
def test_a_round_of_boosting_is_that_of_the_paper(seed, num_source, num_target, rounds):
    random = np.random.default_rng(seed)
    weights = [random.uniform(0.1, 1, size) for size in (num_source, num_target)]
    wrong = [random.integers(0, 2, size).astype(float) for size in (num_source, num_target)]
    found = boosted_weights(*map(torch.tensor, [*weights, *wrong]), rounds=rounds)
    for mine, reference in zip(found, boosting_reference(*weights, *wrong, rounds), strict=True):
        np.testing.assert_allclose(mine.numpy(), reference, rtol=1e-9)


def test_fine_tuning_looks_at_labelled_target_rows_alone():
    given_step = step()
    views = {"target_labelled": given_step.target_labelled}
    alone = StepOutputs(views, torch.empty(0, dtype=torch.int64), 0.5, 0, given_step.target_labels)
    rows = given_step.target_labelled.logits.detach().numpy()
    expected = np.mean([math.log(np.exp(row).sum()) - row[label] for row, label in zip(rows, [1, 1, 0], strict=True)])
    assert FineTune(CONTEXT).losses(alone)["task"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_source_and_target_share_the_task_as_told(share):
    given_step = step()
    source = F.cross_entropy(given_step.source.logits, given_step.labels)
    target = F.cross_entropy(given_step.target_labelled.logits, given_step.target_labels)
    found = SourceAndTarget(CONTEXT, target_share=share).losses(given_step)["task"]
    assert_close(found, (1 - share) * source + share * target)


def test_boosted_rows_weigh_in_the_loss_as_their_rows_say():
    method = TrAdaBoost(CONTEXT, target_share=0.4).double()
    method.source_weights.copy_(torch.tensor([0.3, 0.0, 0.0, 0.1, 0.0, 0.2]))
    method.target_weights.copy_(torch.tensor([0.0, 0.1, 0.3]))
    given_step = step()
    of_source = F.cross_entropy(given_step.source.logits, given_step.labels, reduction="none").tolist()
    of_target = F.cross_entropy(given_step.target_labelled.logits, given_step.target_labels, reduction="none").tolist()
    # An expectation over all rows: 6 of the source, 3 of the target, of which three were drawn.
    expected = 6 * (0.2 * of_source[0] + 0.3 * of_source[1] + 0.1 * of_source[2]) / 3
    expected += 3 * (0.3 * of_target[0] + 0.1 * of_target[1] + 0.1 * of_target[2]) / 3
    assert method.losses(given_step)["task"].item() == pytest.approx(expected, rel=1e-6)


def test_first_round_shares_the_weight_between_the_domains():
    method = TrAdaBoost(CONTEXT, target_share=0.25)
    assert method.source_weights.sum().item() == pytest.approx(0.75)
    assert method.target_weights.sum().item() == pytest.approx(0.25)


def test_a_wrong_source_row_loses_and_a_wrong_target_row_gains():
    method = TrAdaBoost(CONTEXT)
    whole = {
        "source": domain([0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 2]),
        "target_labelled": domain([0, 1, 2], [0, 1, 1]),
    }
    method.begin_epoch(whole, 0.0)
    assert method.source_weights.unique().numel() == 1  # before training nothing is right or wrong
    method.begin_epoch(whole, 0.25)
    assert method.source_weights[5] < method.source_weights[0]
    assert method.target_weights[2] > method.target_weights[0]


@pytest.mark.parametrize("name", NAMES)
def test_without_labelled_target_examples_a_method_says_how_to_give_some(name):
    with pytest.raises(InvalidInput, match=f"method='{name}' learns from labelled .* --target-labelled"):
        METHODS.create(name, {}, MethodContext(4, 3, 6, 5))


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("tradaboost", {"rounds": 0}, "tradaboost.rounds=0 must be 1 or more"),
        ("tradaboost", {"target_share": 1.0}, "leaves one domain no weight"),
        ("tradaboost", {"target_share": math.nan}, "leaves one domain no weight"),
        ("source_and_target", {"target_share": -0.1}, "target_share=-0.1 is out of range"),
    ],
)
def test_a_parameter_out_of_range_is_refused(name, values, rule):
    with pytest.raises(InvalidInput, match=rule):
        METHODS.create(name, values, CONTEXT)
